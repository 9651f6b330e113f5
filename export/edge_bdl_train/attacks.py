"""Inputs changed on purpose, by as little as is allowed, so that a network errs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from edge_bdl.errors import InputError
from edge_bdl_train.posterior import Member, Posterior

Loss = Callable[[Tensor], Tensor]
"""Inputs [N, ...] -> what the attacker wants large, [N]; each row's own, and differentiable."""


def fgsm(loss: Loss, x: Tensor, radius: float, bounds: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """One step of ``radius`` along the gradient's sign (Goodfellow et al. 2015, arXiv 1412.6572, section 4).

    Args:
        loss: what to raise.
        x: [N, ...].
        radius: how far each entry may move, in its own unit.
        bounds: the smallest and the largest value of an entry.

    Returns:
        [N, ...], of x's dtype.

    Raises:
        InputError: the radius is negative or not finite, or x is not within the bounds.
    """
    return pgd(loss, x, radius, step=radius, steps=1, bounds=bounds)


def pgd(
    loss: Loss,
    x: Tensor,
    radius: float,
    *,
    step: float,
    steps: int,
    bounds: tuple[float, float] = (0.0, 1.0),
    generator: torch.Generator | None = None,
) -> Tensor:
    """Steps along the gradient's sign, each projected back (Madry et al. 2018, arXiv 1706.06083, section 2.1).

    Args:
        loss: as for ``fgsm``.
        x: as for ``fgsm``.
        radius: as for ``fgsm``, of all steps together.
        step: how far an entry moves in one step.
        steps: how many.
        bounds: as for ``fgsm``.
        generator: draws a start within the radius; without one, x is the start.

    Returns:
        [N, ...], of x's dtype.

    Raises:
        InputError: radius or step is negative or not finite, there are no steps, or x is not within the bounds.
    """
    low, high = bounds
    if not (0.0 <= radius < float("inf") and 0.0 <= step < float("inf") and steps >= 1):
        raise InputError(
            f"an attack needs a radius and a step of at least 0 and at least 1 step, got {radius}, {step} and {steps}"
        )
    if not (x >= low).all() or not (x <= high).all():
        raise InputError(f"inputs to attack must be within {low} to {high}: give the bounds that yours have")
    least, most = (x - radius).clamp_min(low), (x + radius).clamp_max(high)
    moved = x.detach().clone()
    if generator is not None:
        moved += radius * (2.0 * torch.rand(x.shape, generator=generator, dtype=x.dtype) - 1.0)
        moved = torch.clamp(moved, least, most)
    for _ in range(steps):
        moved = torch.clamp(moved + step * gradient(loss, moved).sign(), least, most)
    return moved


def gradient(loss: Loss, x: Tensor) -> Tensor:
    """The gradient of each row's loss with respect to that row, [N, ...].

    Raises:
        InputError: the loss is not one number per row.
    """
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        losses = loss(x)
        if losses.shape != x.shape[:1]:
            raise InputError(f"expected one number for each of {len(x)} inputs, got {list(losses.shape)}")
        (slope,) = torch.autograd.grad(losses.sum(), x)
    return slope


def averaged_nll(posterior: Posterior, members: Sequence[Member], labels: Tensor) -> Loss:
    """What an attacker raises who knows the network and its members: -log of the label's averaged probability.

    Args:
        posterior: of a classifier.
        members: of this posterior; the same for every step.
        labels: int64 [N].
    """

    def loss(x: Tensor) -> Tensor:
        logits = torch.stack([posterior.run(x, member) for member in members])
        # log of the mean, without leaving the logarithms: a sure network's probabilities underflow.
        averaged = torch.log_softmax(logits, -1).logsumexp(0)
        return -averaged.gather(-1, labels[:, None])[:, 0]

    return loss
