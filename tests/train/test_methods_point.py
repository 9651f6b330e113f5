"""MAP: a Gaussian prior is weight decay, step for step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edge_bdl_train.fit import Batches, fit
from edge_bdl_train.likelihoods.gaussian import Gaussian
from edge_bdl_train.methods import point
from edge_bdl_train.optimiser import Optimiser
from edge_bdl_train.priors.gaussian import Gaussian as GaussianPrior


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_map_under_a_gaussian_is_sgd_with_weight_decay_step_for_step(momentum: float) -> None:
    n, s = 40, 0.7
    x = torch.randn(n, 3, generator=seeded(1), dtype=torch.float64)
    y = x.sum(1, keepdim=True).sin()
    config = point.Config(
        prior=GaussianPrior(scale=s), optimiser=Optimiser(kind="sgd", learning_rate=0.1, momentum=momentum)
    )
    trainee = point.build(network(), Gaussian(noise=1.0), config, n_data=n, generator=seeded(2))
    plain = network()
    sgd = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=momentum, weight_decay=1.0 / (s**2 * n))
    for _ in range(3):
        for rows_x, rows_y in Batches((x, y), 16).shuffled(seeded(3)):
            trainee.step(rows_x, rows_y)
            sgd.zero_grad()
            (0.5 * (plain(rows_x) - rows_y) ** 2).mean().backward()
            sgd.step()
            for ours, theirs in zip(trainee.network.parameters(), plain.parameters(), strict=True):
                assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_there_is_one_member_as_often_as_it_is_asked_for() -> None:
    posterior = point.PointPosterior(network(), {})
    assert posterior.size == 1
    first, second = posterior.sample(seeded(0), 2)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_most_probable_weights_of_a_line_are_ridge_regression() -> None:
    n, s, noise = 30, 0.5, 0.3
    x = torch.randn(n, 2, generator=seeded(1), dtype=torch.float64)
    y = x @ torch.tensor([[1.0], [-2.0]], dtype=torch.float64) + 0.1
    config = point.Config(prior=GaussianPrior(scale=s), optimiser=Optimiser(kind="sgd", learning_rate=0.05))
    trainee = point.build(nn.Linear(2, 1).double(), Gaussian(noise=noise), config, n_data=n, generator=seeded(2))
    posterior = fit(trainee, (x, y), epochs=400, batch_size=n, generator=seeded(3))
    design = torch.cat([x, torch.ones(n, 1, dtype=torch.float64)], 1)
    exact = torch.linalg.solve(design.T @ design / noise**2 + torch.eye(3) / s**2, design.T @ y / noise**2)[:, 0]
    member = posterior.mean()
    assert torch.allclose(torch.cat([member["weight"][0], member["bias"]]), exact, atol=1e-6)


def test_every_member_is_the_same() -> None:
    trainee = point.build(network(), Gaussian(noise=1.0), point.Config(), n_data=4, generator=seeded(0))
    x = torch.randn(4, 3, generator=seeded(1), dtype=torch.float64)
    posterior = fit(trainee, (x, x[:, :1]), epochs=1, batch_size=4, generator=seeded(2))
    outputs = posterior.predict(x, 3, seeded(3))
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], posterior.network(x))
