"""Attacks: on a linear model the worst change within a radius is known, and what an attack may not do."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.attacks import averaged_nll, fgsm, gradient, pgd
from edge_bdl_train.methods.ensemble import EnsemblePosterior
from edge_bdl_train.posterior import Member

WIDE = (-100.0, 100.0)


def linear(weights: Tensor):
    return lambda x: x @ weights


def two_members(scale: float = 1.0) -> EnsemblePosterior:
    """Two linear classifiers [N, 3] -> [N, 2] that were drawn apart."""
    generator = torch.Generator().manual_seed(3)
    members: list[Member] = [
        {
            "weight": scale * torch.randn(2, 3, generator=generator),
            "bias": scale * torch.randn(2, generator=generator),
        }
        for _ in range(2)
    ]
    return EnsemblePosterior(nn.Linear(3, 2), {}, members)


def test_fgsm_reaches_the_worst_corner_of_a_linear_loss() -> None:
    weights = torch.tensor([2.0, -0.5, 1.0], dtype=torch.float64)
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved = fgsm(linear(weights), x, 0.25, WIDE)
    assert torch.equal(moved, x + 0.25 * weights.sign())
    # The largest that any change within the radius gives: radius times the weights' 1-norm.
    torch.testing.assert_close((moved - x) @ weights, torch.full((4,), 0.25 * 3.5, dtype=torch.float64))


@pytest.mark.parametrize("start", [None, 0, 1])
def test_pgd_reaches_the_same_corner_from_wherever_it_starts(start: int | None) -> None:
    weights = torch.tensor([2.0, -0.5, 1.0], dtype=torch.float64)
    x = torch.zeros(2, 3, dtype=torch.float64)
    generator = None if start is None else torch.Generator().manual_seed(start)
    moved = pgd(linear(weights), x, 0.25, step=0.1, steps=6, bounds=WIDE, generator=generator)
    torch.testing.assert_close(moved, 0.25 * weights.sign().expand(2, 3))


def test_pgd_finds_the_top_inside_the_radius_where_fgsm_steps_over_it() -> None:
    top = torch.tensor([[0.1, -0.2]], dtype=torch.float64)
    x = torch.zeros(1, 2, dtype=torch.float64)

    def loss(inputs: Tensor) -> Tensor:
        return -(inputs - top).square().sum(1)

    moved = pgd(loss, x, 1.0, step=0.01, steps=100, bounds=WIDE)
    assert (moved - top).abs().max() <= 0.01 + 1e-9  # it walks to and fro by one step
    assert loss(fgsm(loss, x, 1.0, WIDE)) < loss(x)


def test_nothing_leaves_radius_or_bounds_and_the_input_stays_as_it_was() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(5, 3, generator=generator)
    before = x.clone()
    posterior = two_members()
    loss = averaged_nll(posterior, posterior.sample(generator, 2), torch.tensor([0, 1, 0, 1, 0]))
    for moved in (fgsm(loss, x, 0.4), pgd(loss, x, 0.4, step=0.3, steps=5, generator=generator)):
        assert moved.min() >= 0.0
        assert moved.max() <= 1.0
        assert (moved - x).abs().max() <= 0.4 + 1e-6
        assert (loss(moved) > loss(x)).all()
        assert not moved.requires_grad
    assert torch.equal(x, before)


def test_radius_0_changes_nothing() -> None:
    x = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(pgd(linear(torch.ones(3)), x, 0.0, step=0.1, steps=3), x)


def test_each_row_is_attacked_for_itself() -> None:
    x = torch.rand(4, 3, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 1, 0])
    posterior = two_members()
    members = posterior.sample(torch.Generator().manual_seed(0), 2)
    together = fgsm(averaged_nll(posterior, members, labels), x, 0.1)
    alone = [fgsm(averaged_nll(posterior, members, labels[i : i + 1]), x[i : i + 1], 0.1) for i in range(4)]
    assert torch.equal(together, torch.cat(alone))


def test_the_averaged_loss_is_that_of_the_averaged_probability() -> None:
    posterior = two_members()
    members = posterior.sample(torch.Generator().manual_seed(0), 2)
    x = torch.rand(6, 3, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 1, 0, 1, 0])
    logits = torch.stack([posterior.run(x, member) for member in members])
    probability = torch.softmax(logits, -1).mean(0)[range(6), labels]
    # But for log 2, which no attack can change.
    torch.testing.assert_close(averaged_nll(posterior, members, labels)(x), -probability.log() - math.log(2.0))


def test_a_saturated_network_can_still_be_attacked() -> None:
    posterior = two_members(scale=1e4)
    members = posterior.sample(torch.Generator().manual_seed(0), 2)
    x = torch.rand(6, 3, generator=torch.Generator().manual_seed(1))
    logits = torch.stack([posterior.run(x, member) for member in members])
    assert torch.softmax(logits, -1).mean(0).min() == 0.0
    least, wrong = torch.softmax(logits, -1).mean(0).min(-1)
    slope = gradient(averaged_nll(posterior, members, wrong), x)
    assert torch.isfinite(slope).all()
    assert (slope[least == 0.0].abs().amax(1) > 0.0).all()


def test_what_is_no_attack_is_refused() -> None:
    x = torch.full((2, 3), 0.5)
    for radius, step, steps in ((-0.1, 0.1, 1), (math.nan, 0.1, 1), (0.1, -0.1, 1), (0.1, 0.1, 0), (math.inf, 0.1, 1)):
        with pytest.raises(InputError, match="radius and a step"):
            pgd(linear(torch.ones(3)), x, radius, step=step, steps=steps)
    for bad in (x + 1.0, x - 1.0, x * math.nan):
        with pytest.raises(InputError, match=r"within 0\.0 to 1\.0"):
            fgsm(linear(torch.ones(3)), bad, 0.1)
    with pytest.raises(InputError, match="one number for each of 2 inputs"):
        fgsm(lambda inputs: inputs.sum(), x, 0.1)
