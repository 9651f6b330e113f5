"""SGLD and SGHMC: the exact posterior of a line, the cycles, and what is kept."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from edge_bdl.errors import InputError
from edge_bdl_train.fit import fit
from edge_bdl_train.likelihoods.gaussian import Gaussian
from edge_bdl_train.methods import sgmcmc
from edge_bdl_train.priors.gaussian import Gaussian as GaussianPrior

N, NOISE = 20, 0.5


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


X = torch.randn(N, 2, generator=seeded(1))
Y = X @ torch.tensor([[1.0], [-0.5]]) + NOISE * torch.randn(N, 1, generator=seeded(2))


def build(**arguments: Any) -> sgmcmc.SgmcmcTrainee:
    config = sgmcmc.Config(**{"prior": GaussianPrior(1.0), "learning_rate": 0.1, **arguments})
    layer = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(layer.weight)
    return sgmcmc.build(layer, Gaussian(NOISE), config, n_data=N, generator=seeded(3))


# Each output is a chain of its own on the same posterior.
CHAINS = 500


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        ({"friction": 1.0, "learning_rate": 0.02, "burn_in": 200, "every": 20}, 600),
        ({"friction": 0.2, "learning_rate": 0.01, "burn_in": 200, "every": 20}, 600),
        ({"friction": 0.2, "learning_rate": 0.01, "cycle": 100, "explore": 0.2, "burn_in": 100, "every": 100}, 1600),
    ],
    ids=["sgld", "sghmc", "cyclical"],
)
def test_on_a_line_mean_and_covariance_are_the_exact_posteriors_within_a_tenth(
    arguments: dict[str, Any], steps: int
) -> None:
    precision = X.T @ X / NOISE**2 + torch.eye(2)
    covariance = torch.linalg.inv(precision)
    mean = (covariance @ X.T @ Y / NOISE**2)[:, 0]
    layer = nn.Linear(2, CHAINS, bias=False)
    nn.init.zeros_(layer.weight)
    config = sgmcmc.Config(prior=GaussianPrior(1.0), **arguments)
    trainee = sgmcmc.build(layer, Gaussian(NOISE), config, n_data=N, generator=seeded(3))
    posterior = fit(trainee, (X, Y.expand(-1, CHAINS)), epochs=steps, batch_size=N, generator=seeded(4))
    drawn = posterior.state_dict()["members.weight"].flatten(0, 1)
    assert len(drawn) >= 15 * CHAINS
    scale = covariance.diagonal().sqrt()
    assert ((drawn.mean(0) - mean).abs() < 0.1 * scale).all()
    assert ((drawn.T.cov() - covariance).abs() < 0.1 * scale[:, None] * scale).all()
    kept = posterior.state_dict()["members.weight"]
    assert torch.allclose(posterior.mean()["weight"], kept.mean(0), atol=1e-6)


def test_without_a_gradient_a_step_of_sgld_is_noise_of_twice_the_step_size() -> None:
    layer = nn.Linear(20_000, 1, bias=False)
    nn.init.zeros_(layer.weight)
    config = sgmcmc.Config(prior=None, learning_rate=0.3, friction=1.0)
    trainee = sgmcmc.build(layer, Gaussian(1.0), config, n_data=50, generator=seeded(0))
    trainee.step(torch.zeros(2, 20_000), torch.zeros(2, 1))
    moved = trainee.network.weight.detach()
    assert float(moved.var()) == pytest.approx(2 * 0.3 / 50, rel=5 * math.sqrt(2 / 20_000))


def test_in_a_cycle_the_step_falls_along_a_cosine_and_noise_and_members_come_after_the_exploration() -> None:
    trainee = build(learning_rate=0.1, friction=1.0, cycle=4, explore=0.5)
    steps, members = [], []
    for _ in range(8):
        before = trainee.network.weight.detach().clone()
        trainee.step(X, Y)
        gradient = trainee.network.weight.grad
        steps.append(float(((before - trainee.network.weight) / gradient).detach()[0, 0]))
        members.append(len(trainee._kept))
    assert members == [0, 0, 1, 2, 2, 2, 3, 4]
    # While it explores, the step is that of gradient descent with the rate of the cosine.
    cosine = [0.1 * 0.5 * (1 + math.cos(math.pi * i / 4)) for i in range(2)]
    assert steps[0:2] == pytest.approx(cosine, rel=1e-3)
    assert steps[4:6] == pytest.approx(cosine, rel=1e-3)
    assert steps[2] != pytest.approx(0.1 * 0.5 * (1 + math.cos(math.pi * 2 / 4)), rel=1e-3)


def test_only_the_last_members_after_the_burn_in_are_kept() -> None:
    trainee = build(burn_in=6, every=2, most=3)
    kept = []
    for _ in range(14):
        trainee.step(X, Y)
        kept.append(len(trainee._kept))
    assert kept == [0] * 7 + [1, 1, 2, 2, 3, 3, 3]
    posterior = trainee.posterior([])
    assert posterior.size == 3
    assert torch.equal(posterior.state_dict()["members.weight"][-1], trainee.network.weight.detach())


def test_a_chain_that_kept_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="kept nothing in its 2 steps"):
        fit(build(burn_in=10), (X, Y), epochs=2, batch_size=N, generator=seeded(0))


@pytest.mark.parametrize(
    "change",
    [{"learning_rate": 0.0}, {"friction": 0.0}, {"friction": 1.5}, {"explore": 1.0}, {"cycle": 1}, {"every": 0}],
)
def test_a_config_that_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"at least|must be"):
        sgmcmc.Config(**{"prior": None, "learning_rate": 0.1, **change})
