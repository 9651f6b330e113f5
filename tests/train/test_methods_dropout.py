"""Monte-Carlo dropout: function draws with torch's own moments."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.fit import fit
from edge_bdl_train.likelihoods.gaussian import Gaussian
from edge_bdl_train.methods import dropout


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Twice(nn.Module):
    """Calls one dropout module twice, and drops whole channels."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 6, 3)
        self.channels = nn.Dropout2d(0.4)
        self.units = nn.Dropout(0.2)
        self.hidden = nn.Linear(6, 10)
        self.last = nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.channels(self.convolution(x)).mean((2, 3))
        return self.last(self.units(torch.tanh(self.hidden(self.units(pooled)))))


def fitted(network: nn.Module, x: Tensor, outputs: int = 2) -> dropout.DropoutPosterior:
    trainee = dropout.build(network, Gaussian(noise=1.0), dropout.Config(), n_data=len(x), generator=seeded(0))
    posterior = fit(trainee, (x, torch.zeros(len(x), outputs)), epochs=0, batch_size=4, generator=seeded(1))
    assert isinstance(posterior, dropout.DropoutPosterior)
    return posterior


X = torch.randn(6, 2, 5, 5, generator=seeded(9))


def test_a_member_has_one_mask_for_each_call_with_channels_dropped_whole() -> None:
    member = fitted(Twice(), X).sample(seeded(0), 1)[0]
    assert {name: tuple(mask.shape) for name, mask in member.items()} == {
        "channels#0": (1, 6, 1, 1),
        "units#0": (1, 6),
        "units#1": (1, 10),
    }


def test_masks_are_0_or_1_over_1_minus_the_rate_in_the_right_share() -> None:
    members = fitted(Twice(), X).sample(seeded(0), 2000)
    for name, rate in (("channels#0", 0.4), ("units#0", 0.2), ("units#1", 0.2)):
        masks = torch.cat([member[name] for member in members])
        assert set(masks.unique().tolist()) == {0.0, float(torch.ones(()) / (1.0 - rate))}
        # 12,000 draws and more: five standard errors.
        assert float((masks == 0.0).float().mean()) == pytest.approx(
            rate, abs=5.0 * (rate * (1 - rate) / 12_000) ** 0.5
        )
    first, second = (torch.cat([member[name] for member in members])[:, 0].flatten() for name in ("units#0", "units#1"))
    # Two calls draw apart: a correlation of 2,000 draws has the standard error 0.022.
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.11


def test_the_members_moments_are_those_of_torchs_own_dropout() -> None:
    posterior = fitted(Twice(), X)
    ours = posterior.predict(X, 4000, seeded(1))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(2)
        network = posterior.network.train()
        torchs = torch.stack([network(X) for _ in range(4000)])
        network.eval()
    error = ((ours.var(0) + torchs.var(0)) / 4000).sqrt()
    # 12 comparisons; five standard errors. A variance of 4,000 draws has the relative error 0.022 sqrt(kurtosis / 2).
    assert ((ours.mean(0) - torchs.mean(0)).abs() < 5.0 * error).all()
    assert torch.allclose(ours.std(0), torchs.std(0), rtol=0.15)


def test_all_rows_see_one_mask() -> None:
    same_rows = X[:1].expand(4, -1, -1, -1)
    outputs = fitted(Twice(), X).predict(same_rows, 5, seeded(1))
    assert torch.allclose(outputs, outputs[:, :1].expand_as(outputs), atol=1e-6)
    assert float(outputs.std(0).mean()) > 0.01


def test_without_masks_and_in_the_mean_it_is_the_network_itself_with_its_modules_as_they_were() -> None:
    posterior = fitted(Twice(), X)
    assert torch.equal(posterior.answer(X, posterior.mean()), posterior.network(X))
    assert type(posterior.network.units) is nn.Dropout
    assert posterior.rates() == {"channels": 0.4, "units": 0.2}
    assert not posterior.network.training
    assert not posterior.network.units._forward_hooks


def test_rates_of_0_and_1_keep_all_and_nothing() -> None:
    network = nn.Sequential(nn.Dropout(0.0), nn.Linear(3, 4), nn.Dropout(1.0), nn.Linear(4, 2))
    member = fitted(network, torch.zeros(4, 3)).sample(seeded(0), 1)[0]
    assert torch.equal(member["0#0"], torch.ones(1, 3))
    assert torch.equal(member["2#0"], torch.zeros(1, 4))


def test_a_network_without_dropout_is_refused_with_what_to_do() -> None:
    with pytest.raises(InputError, match="Linear has no dropout modules: give it some, or bayesianize"):
        dropout.build(nn.Linear(2, 2), Gaussian(noise=1.0), dropout.Config(), n_data=1, generator=seeded(0))


@pytest.mark.parametrize(
    "hidden", [nn.LSTM(4, 4, 2, dropout=0.5), nn.MultiheadAttention(4, 2, dropout=0.1), nn.AlphaDropout(0.2)]
)
def test_dropout_that_cannot_be_drawn_as_masks_is_refused_by_name(hidden: nn.Module) -> None:
    network = nn.Sequential(nn.Dropout(0.1), hidden)
    with pytest.raises(InputError, match=rf"cannot be drawn as masks in 1 \({type(hidden).__name__}\)"):
        dropout.dropouts(network)


class Sometimes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.units, self.last = nn.Dropout(0.3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.units(x) if len(x) < 3 else self.units(self.units(x)))


def test_a_call_that_training_did_not_see_is_refused() -> None:
    posterior = fitted(Sometimes(), torch.zeros(4, 3))
    with pytest.raises(InputError, match="no mask 'units#1'"):
        posterior.predict(torch.zeros(5, 3), 2, seeded(0))
