"""SWAG and MultiSWAG: moments of the walk, covariance across layers, and batch statistics of each member's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.fit import fit
from edge_bdl_train.likelihoods.gaussian import Gaussian
from edge_bdl_train.methods import multi_swag, swag
from edge_bdl_train.optimiser import Optimiser

X = torch.randn(60, 3, generator=torch.Generator().manual_seed(1))
Y = X.sum(1, keepdim=True)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(norm: bool = False) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        middle: list[nn.Module] = [nn.BatchNorm1d(4)] if norm else []
        return nn.Sequential(nn.Linear(3, 4), *middle, nn.Tanh(), nn.Linear(4, 1))


def build(norm: bool = False, **arguments: Any) -> swag.SwagTrainee:
    config = swag.Config(**{"start_epoch": 1, "optimiser": Optimiser(kind="sgd", learning_rate=0.05), **arguments})
    return swag.build(network(norm), Gaussian(noise=1.0), config, n_data=60, generator=seeded(0))


def flat(member: Any, names: list[str]) -> Tensor:
    return torch.cat([member[name].flatten() for name in names])


def test_it_keeps_the_moments_and_last_deviations_of_the_weights_after_each_epoch_from_the_start_on() -> None:
    trainee = build(rank=3)
    visited = []
    original = trainee.end_epoch

    def watched(epoch: int) -> None:
        visited.append(nn.utils.parameters_to_vector(trainee.network.parameters()).detach().double().clone())
        original(epoch)

    trainee.end_epoch = watched  # type: ignore[method-assign]
    posterior = fit(trainee, (X, Y), epochs=6, batch_size=20, generator=seeded(1))
    kept = torch.stack(visited[1:])
    names = [name for name, _ in posterior.network.named_parameters()]
    assert torch.allclose(flat(posterior.mean(), names).double(), kept.mean(0), atol=1e-6)
    assert torch.allclose(posterior.variance.double(), kept.var(0, correction=0), atol=1e-6)
    running = torch.stack([kept[: i + 1].mean(0) for i in range(5)])
    assert torch.allclose(posterior.deviations.double(), (kept - running)[-3:], atol=1e-6)


def test_draws_have_half_the_diagonal_and_half_of_one_low_rank_part_across_layers() -> None:
    posterior = fit(build(rank=4), (X, Y), epochs=8, batch_size=20, generator=seeded(1))
    names = [name for name, _ in posterior.network.named_parameters()]
    # Deviations so large that the covariance between layers stands out.
    posterior.deviations = torch.randn(4, posterior.deviations.shape[1], generator=seeded(2))
    posterior.variance = torch.rand(posterior.variance.shape, generator=seeded(3))
    drawn = torch.stack([flat(member, names) for member in posterior.sample(seeded(4), 6000)])
    d = posterior.deviations
    expected = 0.5 * (torch.diag(posterior.variance) + d.T @ d / 3.0)
    scale = expected.diagonal().sqrt()
    limit = 5.0 * (2.0 / 6000) ** 0.5 * scale[:, None] * scale
    assert ((drawn.T.cov() - expected).abs() < limit).all()
    # Between the first layer's weights and the last one's: not zero, as it would be with a draw per tensor.
    across = expected[:12, -5:]
    assert float((across.abs() > limit[:12, -5:]).float().mean()) > 0.5


def test_every_member_has_batch_statistics_of_its_own_activations() -> None:
    posterior = fit(build(norm=True, batch_norm_rows=40), (X, Y), epochs=4, batch_size=20, generator=seeded(1))
    posterior.variance = torch.full_like(posterior.variance, 0.1)
    for member in (*posterior.sample(seeded(2), 3), posterior.mean()):
        activations = nn.functional.linear(X[:40], member["0.weight"], member["0.bias"])
        assert torch.allclose(member["1.running_mean"], activations.mean(0), atol=1e-5)
        assert torch.allclose(member["1.running_var"], activations.var(0), atol=1e-5)
    assert posterior.state_dict()["rows"].shape == (40, 3)


def test_without_batch_norm_no_data_are_kept() -> None:
    posterior = fit(build(), (X, Y), epochs=4, batch_size=20, generator=seeded(1))
    assert posterior.state_dict().keys() == {
        *(f"network.{name}" for name in posterior.network.state_dict()), "variance", "deviations",
    }  # fmt: skip


def test_its_own_learning_rate_holds_from_the_start_epoch_on() -> None:
    trainee = build(learning_rate=0.3, start_epoch=2)
    rates = []
    for epoch in range(4):
        trainee.step(X, Y)
        rates.append(trainee._optimiser.param_groups[0]["lr"])
        trainee.end_epoch(epoch)
    assert rates == [0.05, 0.05, 0.3, 0.3]


def test_one_epochs_weights_are_no_walk() -> None:
    with pytest.raises(InputError, match=r"at least 2 epochs, got 1: train for more than start_epoch \+ 1 = 2 epochs"):
        fit(build(), (X, Y), epochs=2, batch_size=20, generator=seeded(1))


@pytest.mark.parametrize("change", [{"rank": 1}, {"start_epoch": -1}, {"batch_norm_rows": 1}, {"learning_rate": 0.0}])
def test_a_config_that_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="must be"):
        swag.Config(**{"start_epoch": 1, **change})


# --- MultiSWAG --------------------------------------------------------------------------------------------------------


def test_multi_swag_draws_as_often_from_each_of_its_walks() -> None:
    config = multi_swag.Config(
        swag=swag.Config(start_epoch=1, optimiser=Optimiser(kind="sgd", learning_rate=0.05)), members=3
    )
    trainee = multi_swag.build(network(), Gaussian(noise=1.0), config, n_data=60, generator=seeded(0))
    posterior = fit(trainee, (X, Y), epochs=4, batch_size=20, generator=seeded(1))
    means = torch.stack([component.mean()["0.weight"].flatten() for component in posterior.components])
    assert float(torch.cdist(means, means)[~torch.eye(3).bool()].min()) > 0.1
    for component in posterior.components:
        component.variance.zero_()
        component.deviations.zero_()
    drawn = torch.stack([member["0.weight"].flatten() for member in posterior.sample(seeded(2), 6)])
    nearest = torch.cdist(drawn, means).argmin(1)
    assert sorted(nearest.tolist()) == [0, 0, 1, 1, 2, 2]
    assert sorted(nearest[:3].tolist()) == [0, 1, 2]


def test_walks_learn_their_noise_apart_and_the_mean_of_their_variances_is_kept() -> None:
    config = multi_swag.Config(
        swag=swag.Config(start_epoch=1, optimiser=Optimiser(kind="sgd", learning_rate=0.05)), members=2
    )
    likelihood = Gaussian(1.0, learned=True)
    trainee = multi_swag.build(network(), likelihood, config, n_data=60, generator=seeded(0))
    posterior = fit(trainee, (X, Y), epochs=3, batch_size=20, generator=seeded(1))
    noises = [component.settings["likelihood"]["noise"] for component in posterior.components]
    assert len({1.0, *noises}) == 3
    expected = (sum(noise**2 for noise in noises) / 2) ** 0.5
    assert posterior.settings["likelihood"]["noise"] == pytest.approx(expected)
    assert float(likelihood.noise.detach()) == pytest.approx(expected)


def test_one_walk_is_no_multi_swag() -> None:
    with pytest.raises(InputError, match="at least 2 members, got 1"):
        multi_swag.Config(swag=swag.Config(start_epoch=0), members=1)
