"""Concrete dropout: the objective's closed form, the relaxation's limit, and rates that follow the data."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.fit import fit
from edge_bdl_train.likelihoods.gaussian import Gaussian
from edge_bdl_train.methods import concrete_dropout
from edge_bdl_train.optimiser import Optimiser


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Net(nn.Module):
    def __init__(self, rate: float = 0.2) -> None:
        super().__init__()
        self.first = nn.Linear(2, 30)
        self.drop = nn.Dropout(rate)
        self.last = nn.Linear(30, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(torch.tanh(self.first(x))))


X = torch.randn(400, 2, generator=seeded(1))
Y = X.prod(1, keepdim=True) + 0.1 * torch.randn(400, 1, generator=seeded(2))


def build(network: nn.Module | None = None, n_data: int = 400, noise: float = 0.1, **arguments: Any) -> Any:
    config = concrete_dropout.Config(**{"optimiser": Optimiser(learning_rate=2e-2), **arguments})
    return concrete_dropout.build(network or Net(), Gaussian(noise), config, n_data=n_data, generator=seeded(3))


def test_the_penalty_is_the_papers() -> None:
    trainee = build(prior_scale=0.5)
    trainee.step(X, Y)
    network, rate = trainee.network, trainee.rates()["drop"]
    # In the paper's terms: M is what a kept unit is multiplied with, and the length-scale is 1 / 0.5.
    kept = network.last.weight / (1.0 - rate)
    entropy = -rate * math.log(rate) - (1.0 - rate) * math.log(1.0 - rate)
    rest = (*network.first.parameters(), network.last.bias)
    expected = 4.0 / 2.0 * (1.0 - rate) * kept.square().sum() - 30 * entropy
    expected = expected + sum(4.0 / 2.0 * parameter.square().sum() for parameter in rest)
    assert float(trainee.penalty().detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_a_cold_relaxation_is_a_bernoulli_mask_with_the_units_scaled_as_torch_does() -> None:
    module = concrete_dropout.Concrete("drop", nn.Dropout(0.3), temperature=1e-3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        dropped = module(torch.ones(200, 100)).detach()
    hard = (dropped < 1e-3) | ((dropped - 1.0 / 0.7).abs() < 1e-3)
    assert float(hard.float().mean()) > 0.99
    assert float((dropped < 0.5).float().mean()) == pytest.approx(0.3, abs=5.0 * (0.21 / 20_000) ** 0.5 + 0.005)
    assert torch.equal(module.eval()(torch.ones(2, 3)), torch.ones(2, 3))


def test_channels_are_dropped_whole() -> None:
    module = concrete_dropout.Concrete("drop", nn.Dropout2d(0.5), temperature=1.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        dropped = module(torch.ones(4, 6, 3, 3)).detach()
    assert torch.equal(dropped, dropped[:, :, :1, :1].expand_as(dropped))
    assert len(dropped[:, :, 0, 0].unique()) == 24


def test_the_more_data_the_lower_the_rate() -> None:
    """(Gal et al. 2017, section 5.1: epistemic uncertainty is what data explain away.)"""
    rates = {}
    for n in (20, 400):
        trainee = build(n_data=n, noise=0.5)
        fit(trainee, (X[:n], Y[:n]), epochs=8000 // n, batch_size=20, generator=seeded(4))
        rates[n] = trainee.rates()["drop"]
    assert rates[400] < 0.7 * rates[20]


def test_the_posterior_is_a_plain_network_with_the_learned_rate() -> None:
    trainee = build()
    posterior = fit(trainee, (X, Y), epochs=3, batch_size=20, generator=seeded(4))
    assert type(posterior.network.drop) is nn.Dropout
    assert posterior.network.drop.p == trainee.rates()["drop"] != 0.2
    assert posterior.network.state_dict().keys() == Net().state_dict().keys()
    masks = torch.cat([member["drop#0"] for member in posterior.sample(seeded(0), 500)])
    rate = trainee.rates()["drop"]
    assert float((masks == 0).float().mean()) == pytest.approx(rate, abs=5.0 * (rate * (1 - rate) / 15_000) ** 0.5)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(nn.Linear(2, 1), nn.Dropout(0.1)), "behind 1 there is no linear"),
        (nn.Sequential(nn.Dropout(0.1), nn.Dropout(0.1), nn.Linear(2, 1)), "behind 0 there is no linear"),
    ],
)
def test_dropout_without_a_layer_of_its_own_behind_it_is_refused_at_the_first_step(
    network: nn.Module, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build(network).step(X, Y)


class Unused(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x)))


def test_dropout_that_is_never_called_is_refused() -> None:
    with pytest.raises(InputError, match="does not use its dropout drop"):
        build(Unused()).step(X, Y)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_rate_that_cannot_be_learned_from_is_refused(rate: float) -> None:
    with pytest.raises(InputError, match=f"drop starts with rate {rate}"):
        build(Net(rate))


@pytest.mark.parametrize("change", [{"prior_scale": 0.0}, {"temperature": -1.0}])
def test_a_config_that_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="must be above 0"):
        concrete_dropout.Config(**change)
