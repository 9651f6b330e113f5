"""Select members: masks designed so that every prefix of the bank predicts what the full posterior predicts.

A mask is a choice of units to keep. Instead of looking for good ones among drawn masks, each unit gets a preference, a
mask keeps its most preferred units, and the preferences are trained through the head by a straight-through gradient
(Bengio et al. 2013, arXiv 1308.3432). A member keeps as many units of each layer as it was drawn with, so the rate
stays dropout's own; only which ones are kept is designed. No label is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_bdl.errors import ExportError
from edge_bdl.manifest import StochasticInput, Task
from edge_bdl_export.fidelity import Reading, divergence, epistemic, prefix_means, statistics
from edge_bdl_export.member_axis import MemberAxis
from edge_bdl_export.seen import frame_axis

Keep = Mapping[str, NDArray[np.bool_]]

_RATE = 0.02
# Weight of the epistemic score's error beside the divergence of the prediction, both as logarithms.
_EPISTEMIC = 0.3
# Scores below this share of their mean need not be told apart.
_FLOOR = 0.01
_TINY = 1e-9


@dataclass(frozen=True)
class Target:
    """What the members are to reproduce.

    Attributes:
        boundary: Boundary tensors of n frames, each [n, *shape].
        reference: Mean statistics [n, m, K] of the full posterior on them.
        reading: How outputs are read.
    """

    boundary: Sequence[Tensor]
    reference: Tensor
    reading: Reading


def select(
    start: Keep,
    inputs: Sequence[StochasticInput],
    axis: MemberAxis,
    target: Target,
    *,
    steps: int,
    batch: int,
    seed: int,
) -> dict[str, NDArray[np.bool_]] | None:
    """Masks that start as drawn and are trained towards the target.

    Args:
        start: Drawn masks, bool [members, *shape] by input name.
        inputs: What the masks belong to.
        axis: The head over members.
        target: What they are to reproduce.
        steps: Gradient steps.
        batch: Frames per step.
        seed: Of the frames' order and of which of the drawn units give way first.

    Returns:
        As ``start``, with as many units kept by each member of each input; None where training came no closer to the
        target than the start already was.

    Raises:
        ExportError: The head has no usable gradient.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.from_numpy(start[item.name]).flatten(1) for item in inputs]
    counts = [keep.sum(1, keepdim=True) for keep in drawn]
    # All kept units come before all dropped ones, in random order.
    preferences = [((keep + torch.rand(keep.shape, generator=generator)) / 2.0).requires_grad_() for keep in drawn]
    started = [_as_masks(keep, item) for keep, item in zip(drawn, inputs, strict=True)]
    frames = frame_axis(axis, started, target.boundary)
    optimizer = torch.optim.Adam(preferences, lr=_RATE)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=steps)
    for _ in range(steps):
        rows = torch.randperm(len(target.reference), generator=generator)[:batch]
        trained = [
            _as_masks(_best(preference.detach(), count) + preference - preference.detach(), item)
            for preference, count, item in zip(preferences, counts, inputs, strict=True)
        ]
        loss = _miss(frames, trained, target, rows)
        for preference, gradient in zip(preferences, _gradients(loss, preferences), strict=True):
            preference.grad = gradient
        optimizer.step()
        schedule.step()
    selected = [_best(preference.detach(), count) for preference, count in zip(preferences, counts, strict=True)]
    trained = [_as_masks(keep, item) for keep, item in zip(selected, inputs, strict=True)]
    if not _distance(frames, trained, target, batch) < _distance(frames, started, target, batch):
        return None
    return {
        item.name: keep.bool().reshape(-1, *item.shape).numpy() for keep, item in zip(selected, inputs, strict=True)
    }


def _miss(frames: MemberAxis, masks: Sequence[Tensor], target: Target, rows: Tensor) -> Tensor:
    """Error of the masks on some of the target's frames."""
    outputs = frames(*masks, *(values[rows] for values in target.boundary))
    return error(target.reference[rows], statistics(outputs, target.reading), target.reading.task)


def _distance(frames: MemberAxis, masks: Sequence[Tensor], target: Target, batch: int) -> float:
    """Error of the masks on all of the target's frames: what training lowers, a batch at a time."""
    count = len(target.reference)
    parts = torch.arange(count).tensor_split(-(-count // batch))
    with torch.no_grad():
        return sum(float(_miss(frames, masks, target, rows)) for rows in parts) / len(parts)


def error(reference: Tensor, members: Tensor, task: Task) -> Tensor:
    """How far all prefixes of two or more members are from the reference.

    The mean over prefixes of the logarithm of the divergence, so that a halved error counts alike for every length,
    and, with less weight, of the squared error of the epistemic score's root: the score is what a robot slows down for,
    and where the prediction is mostly noise the divergence hardly sees it.

    Args:
        reference: [n, m, K] mean statistics.
        members: [n, S, m, K] statistics.
        task: How they are read.
    """
    return errors(reference, prefix_means(members)[:, 1:], task).mean()


def errors(reference: Tensor, means: Tensor, task: Task) -> Tensor:
    """How far each of several means [n, c, m, K] is from the reference [n, m, K]: [c]."""
    kl = divergence(reference[:, None], means, task).mean((0, 2))
    expected = epistemic(reference, task)
    scale = expected.mean(0) + _TINY
    root, expected_root = (
        (score.clamp_min(0.0) / scale + _FLOOR).sqrt() for score in (epistemic(means, task), expected)
    )
    miss = ((root - expected_root[:, None]) ** 2).mean((0, 2))
    return (kl + _TINY).log() + _EPISTEMIC * (miss + _TINY).log()


def _best(preference: Tensor, count: Tensor) -> Tensor:
    """1 for the ``count`` most preferred units of each member, 0 for the others."""
    order = preference.argsort(dim=1, descending=True, stable=True)
    wanted = (torch.arange(preference.shape[1]) < count).to(preference.dtype)
    return torch.zeros_like(preference).scatter(1, order, wanted)


def _as_masks(keep: Tensor, item: StochasticInput) -> Tensor:
    return (keep * item.scale).reshape(-1, *item.shape)


def _gradients(loss: Tensor, preferences: Sequence[Tensor]) -> list[Tensor]:
    if loss.requires_grad:
        gradients = torch.autograd.grad(loss, preferences, allow_unused=True, materialize_grads=True)
        if all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
            return list(gradients)
    raise ExportError(
        "selection='selected' trains the masks through the head, whose gradient is missing or not finite; "
        "use selection='balanced', or hold the layers after the last dropout to differentiable operations"
    )
