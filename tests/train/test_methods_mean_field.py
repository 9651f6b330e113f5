"""Mean-field inference: the exact optimum on a line, the objective's parts, and the posterior's draws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.fit import fit
from edge_bdl_train.kl_schedules import Constant, KlSchedule
from edge_bdl_train.layers.base import total_kl
from edge_bdl_train.layers.weight import Proportional
from edge_bdl_train.likelihoods.gaussian import Gaussian
from edge_bdl_train.methods import mean_field
from edge_bdl_train.optimiser import Optimiser
from edge_bdl_train.priors.gaussian import Gaussian as GaussianPrior
from edge_bdl_train.priors.mixture import ScaleMixture
from edge_bdl_train.priors.structured import informed


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def line(n: int = 40) -> tuple[Tensor, Tensor]:
    """Correlated inputs, so that the exact posterior is not diagonal."""
    x = torch.randn(n, 2, generator=seeded(1))
    x[:, 1] = 0.8 * x[:, 0] + 0.6 * x[:, 1]
    return x, x @ torch.tensor([[1.0], [-0.5]]) + 0.5 * torch.randn(n, 1, generator=seeded(2))


@pytest.mark.parametrize("estimator", ["reparametrisation", "local_reparametrisation", "flipout"])
def test_on_a_line_the_mean_is_the_exact_posteriors_and_the_variances_are_one_over_its_precisions(
    estimator: Any,
) -> None:
    x, y = line()
    precision = x.T @ x / 0.5**2 + torch.eye(2)
    exact = torch.linalg.solve(precision, x.T @ y / 0.5**2)[:, 0]
    config = mean_field.Config(
        prior=GaussianPrior(1.0), sigma=0.1, estimator=estimator, samples=8,
        optimiser=Optimiser(learning_rate=0.1, decay=0.985),
    )  # fmt: skip
    network = nn.Linear(2, 1, bias=False)
    trainee = mean_field.build(network, Gaussian(noise=0.5), config, n_data=40, generator=seeded(3))
    posterior = fit(trainee, (x, y), epochs=500, batch_size=40, generator=seeded(4))
    # The deviations of the last steps' noise; the posterior's own standard deviation is 0.1.
    assert torch.allclose(posterior.mean()["weight"][0], exact, atol=0.01)
    assert torch.allclose(posterior.sigmas["weight"][0], precision.diagonal().rsqrt(), rtol=0.05)


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))


def build(n_data: int = 40, **arguments: Any) -> mean_field.MeanFieldTrainee:
    config = mean_field.Config(**arguments)
    return mean_field.build(network(), Gaussian(noise=0.5), config, n_data=n_data, generator=seeded(3))


def test_the_kl_is_a_sum_over_weights_that_is_divided_once_by_the_data_sets_size() -> None:
    # Of the 40 examples a step sees 10: the KL divergence's share is the same as if it saw all.
    x, y = (part[:10] for part in line())
    with_kl = build(prior=GaussianPrior(0.3)).step(x, y)
    without = build(prior=GaussianPrior(0.3), kl_factor=Constant(0.0)).step(x, y)
    trainee = build(prior=GaussianPrior(0.3))
    weights = torch.cat([p.detach().flatten() for m in (network()[0], network()[3]) for p in m.parameters()])
    own, prior = (torch.distributions.Normal(mean, sd) for mean, sd in ((weights, 0.05), (0.0, 0.3)))
    expected = float(torch.distributions.kl_divergence(own, prior).sum())
    assert float(total_kl(trainee.network).detach()) == pytest.approx(expected, rel=1e-5)
    assert with_kl - without == pytest.approx(expected / 40, rel=1e-4)


class Told(KlSchedule):
    def __init__(self) -> None:
        self.when: list[tuple[int, int, int]] = []

    def factor(self, epoch: int, batch: int, batches: int) -> float:
        self.when.append((epoch, batch, batches))
        return 0.0


def test_the_schedule_is_asked_with_the_time() -> None:
    told = Told()
    fit(build(kl_factor=told), line(), epochs=2, batch_size=16, generator=seeded(0))
    assert told.when == [(0, 0, 3), (0, 1, 3), (0, 2, 3), (1, 0, 3), (1, 1, 3), (1, 2, 3)]


def test_a_prior_without_a_closed_form_is_drawn_from() -> None:
    x, y = line()
    losses = [build(prior=ScaleMixture(), samples=1).step(x, y) for _ in range(2)]
    assert losses[0] == losses[1]
    fit(build(prior=ScaleMixture()), line(), epochs=2, batch_size=16, generator=seeded(0))


def test_several_draws_a_step_have_less_variance() -> None:
    x, y = line()

    def spread(samples: int) -> float:
        trainee = build(samples=samples, sigma=0.5)
        return float(torch.tensor([float(trainee.loss(x, y).detach()) for _ in range(200)]).std())

    # 1/sqrt(16), and standard deviations of 200 have a relative error of 5 %.
    assert spread(16) / spread(1) == pytest.approx(0.25, rel=0.25)


def test_the_posterior_is_the_deterministic_network_with_draws_of_the_right_moments() -> None:
    posterior = fit(build(layers=1, sigma=0.2), line(), epochs=3, batch_size=16, generator=seeded(0))
    assert [type(module) for module in posterior.network] == [nn.Linear, nn.BatchNorm1d, nn.Tanh, nn.Linear]
    assert posterior.mean().keys() == {"3.weight", "3.bias"}
    drawn = torch.stack([member["3.weight"] for member in posterior.sample(seeded(1), 4000)])
    sigma = posterior.sigmas["3.weight"]
    assert ((drawn.mean(0) - posterior.mean()["3.weight"]).abs() < 5.0 * sigma / 4000**0.5).all()
    assert torch.allclose(drawn.std(0), sigma, rtol=5.0 / (2 * 4000) ** 0.5)
    # BatchNorm has seen the training data.
    assert int(posterior.network[1].num_batches_tracked) == 9


def test_with_a_sigma_of_0_every_member_is_the_network_bit_for_bit() -> None:
    posterior = fit(build(), line(), epochs=1, batch_size=16, generator=seeded(0))
    posterior.sigmas = {name: torch.zeros_like(sigma) for name, sigma in posterior.sigmas.items()}
    x, _ = line()
    outputs = posterior.predict(x, 3, seeded(1))
    assert all(torch.equal(output, posterior.network(x)) for output in outputs)


def test_an_embeddings_padding_row_is_never_drawn() -> None:
    words = nn.Sequential(nn.Embedding(5, 3, padding_idx=1), nn.Flatten(), nn.Linear(6, 1))
    trainee = mean_field.build(words, Gaussian(noise=1.0), mean_field.Config(), n_data=4, generator=seeded(0))
    posterior = trainee.posterior([])
    drawn = torch.stack([member["0.weight"] for member in posterior.sample(seeded(0), 3)])
    assert torch.equal(drawn[:, 1], torch.zeros(3, 3))
    assert (drawn[:, 0].std(0) > 0.0).all()


@pytest.mark.parametrize("arguments", [{"sigma": 0.0}, {"samples": 0}])
def test_a_config_that_makes_no_sense_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="sigma must be above 0 and samples at least 1"):
        mean_field.Config(**arguments)


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.read, self.last = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.read(x)[0][:, -1])


def test_a_recurrent_networks_members_do_not_stay_in_the_network() -> None:
    # torch's recurrent layers list their weights a second time.
    trainee = mean_field.build(Reader(), Gaussian(1.0), mean_field.Config(sigma=0.5), n_data=4, generator=seeded(0))
    posterior = trainee.posterior([])
    x = torch.randn(4, 5, 3, generator=seeded(1))
    before = posterior.network(x)
    first, second = posterior.predict(x, 2, seeded(2))
    assert not torch.allclose(first, second, atol=1e-2)
    assert torch.equal(posterior.network(x), before)


def test_it_can_start_from_a_pretrained_network_with_a_share_of_its_weights_as_sigma() -> None:
    pretrained = nn.Linear(3, 2)
    config = mean_field.Config(prior=informed(pretrained, scale=1.0), sigma=Proportional(0.1))
    posterior = mean_field.build(pretrained, Gaussian(1.0), config, n_data=4, generator=seeded(0)).posterior([])
    for name, weight in pretrained.named_parameters():
        assert torch.equal(posterior.mean()[name], weight)
        size = weight.detach().abs()
        torch.testing.assert_close(posterior.sigmas[name], 0.1 * size.clamp(min=0.01 * float(size.mean())))
    assert posterior.settings["sigma"] == {"class": "Proportional", "delta": 0.1}
