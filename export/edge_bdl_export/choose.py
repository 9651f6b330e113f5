"""Choose: the bank of a posterior, and how faithful its prefixes are to the whole posterior."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from edge_bdl import sampling
from edge_bdl.errors import ExportError
from edge_bdl.manifest import Bank, Fidelity, Selection
from edge_bdl_export import members
from edge_bdl_export.fidelity import Reading, mean_statistics, measure
from edge_bdl_export.forms.posterior import Posterior
from edge_bdl_export.frames import FIGURES, SELECTION, CalibrationFrames
from edge_bdl_export.graphs import Network
from edge_bdl_export.proof.subject import tensors
from edge_bdl_export.selection import Keep, Target, select

# Members that stand for the full posterior, and where in the counter-based stream they come from: never what a runtime
# draws, and other ones to select towards than to measure against.
POOL = 256
_TO_SELECT, _TO_MEASURE = 1 << 32, 1 << 33
# What selecting and measuring may take: multiply-accumulates in the head, and frames where the head is small.
_WORK = 400_000_000_000
_FRAMES = (64, 1000)
# Moving one number costs about as much as this many multiply-accumulates.
_NUMBER = 64
_BACKWARD = 3
_STEPS, _BATCH = (100, 300), (8, 64)
# With fewer frames to select on, balanced members are as good on frames that selection did not see.
_ENOUGH = 40


@dataclass(frozen=True)
class Chosen:
    """A bank.

    Attributes:
        bank: For the manifest.
        stored: As ``bank.safetensors`` holds it.
        inputs: As the graphs take it, float32 [members, *shape] by name.
        fidelity: Of its prefixes; empty where there was nothing to measure it on.
    """

    bank: Bank
    stored: Mapping[str, NDArray[Any]]
    inputs: Mapping[str, NDArray[np.float32]]
    fidelity: tuple[Fidelity, ...] = ()


def choose(
    posterior: Posterior,
    network: Network,
    frames: CalibrationFrames | None,
    reading: Reading,
    *,
    how: Selection,
    samples: int,
    chunk: int,
    seed: int,
    head_work: int,
) -> Chosen:
    """The bank of ``samples`` members.

    Args:
        posterior: Masks are drawn, weights are taken as given; so are normal numbers, where there are classes.
        network: Runs members.
        frames: For selection and fidelity.
        reading: How outputs are read.
        how: ``iid``, ``balanced`` or ``selected``; the bank is balanced where selection came no closer.
        samples: Members to store.
        chunk: Members per call of the head.
        seed: Of everything drawn.
        head_work: Multiply-accumulates of one member's head.

    Raises:
        ExportError: ``selected`` without enough frames or without gradients, or fewer than 2 samples.
    """
    if posterior.weights is not None:
        return _given(posterior.weights, posterior, chunk, seed)
    if posterior.closed is not None and not posterior.inputs:
        bank = Bank(members=1, chunk=1, selection="closed_form", seed=seed, inputs=())
        return Chosen(bank=bank, stored={}, inputs={})
    if samples < 2:
        raise ExportError(f"samples must be at least 2, got {samples}: one member knows nothing of its uncertainty")
    if how == "selected":
        _check_enough(frames)
    bank = Bank(members=samples, chunk=min(chunk, samples), selection=how, seed=seed, inputs=posterior.inputs)
    if posterior.closed is not None:
        return _normal(bank, network, frames, reading)
    work = max(head_work, _NUMBER * _numbers(network, bank))
    limit = _within(_WORK // (work * POOL), _FRAMES)
    bank, keep = _draw(bank, network, frames, reading, work, limit)
    chosen = Chosen(bank=bank, stored=sampling.pack(keep), inputs=sampling.masks(bank, keep))
    if frames is None:
        return chosen
    unseen = frames.part(FIGURES).thinned(limit)
    fidelity = measure(network, unseen, chosen.inputs, _posterior(bank, _TO_MEASURE), reading)
    return Chosen(bank=bank, stored=chosen.stored, inputs=chosen.inputs, fidelity=fidelity)


def _check_enough(frames: CalibrationFrames | None) -> None:
    if frames is None:
        raise ExportError("selection='selected' needs calibration frames; give some, or use selection='balanced'")
    seen = len(frames.part(SELECTION))
    if seen < _ENOUGH:
        raise ExportError(
            f"selection='selected' needs at least {_ENOUGH} calibration frames to select on, got {seen} of "
            f"{len(frames)}; give hundreds in all, or use selection='balanced'"
        )


def _given(weights: Mapping[str, NDArray[np.float32]], posterior: Posterior, chunk: int, seed: int) -> Chosen:
    count = len(next(iter(weights.values())))
    bank = Bank(members=count, chunk=min(chunk, count), selection="given", seed=seed, inputs=posterior.inputs)
    return Chosen(bank=bank, stored=weights, inputs=weights)


def _normal(bank: Bank, network: Network, frames: CalibrationFrames | None, reading: Reading) -> Chosen:
    """Draws of a Gaussian head's outputs."""
    if bank.selection == "selected":
        raise ExportError(
            "selection='selected' chooses masks; draws of a Gaussian head's outputs are 'balanced' or 'iid', and a "
            "robot may use as many as it likes"
        )
    if bank.selection == "iid":
        normal = sampling.draw_normal(bank, 0, bank.members)
    else:
        generator = np.random.Generator(np.random.Philox(bank.seed))
        normal = members.balanced_normal(bank.inputs, bank.members, generator)
    if frames is None:
        return Chosen(bank=bank, stored=normal, inputs=normal)
    unseen = frames.part(FIGURES).thinned(_FRAMES[1])
    full = sampling.draw_normal(bank, _TO_MEASURE, POOL)
    return Chosen(bank=bank, stored=normal, inputs=normal, fidelity=measure(network, unseen, normal, full, reading))


def _draw(
    bank: Bank, network: Network, frames: CalibrationFrames | None, reading: Reading, work: int, limit: int
) -> tuple[Bank, Keep]:
    """Masks, and the bank told as what they turned out to be."""
    if bank.selection == "iid":
        return bank, sampling.draw_keep(bank, 0, bank.members)
    drawn = members.balanced(bank.inputs, bank.members, np.random.Generator(np.random.Philox(bank.seed)))
    if bank.selection == "balanced":
        return bank, drawn
    assert frames is not None
    target = _target(network, frames.part(SELECTION).thinned(limit), _posterior(bank, _TO_SELECT), reading)
    visits = _WORK // (_BACKWARD * bank.members * work)
    steps = _within(visits // _BATCH[0], _STEPS)
    batch = _within(visits // steps, _BATCH)
    selected = select(drawn, bank.inputs, network.axis, target, steps=steps, batch=batch, seed=bank.seed)
    if selected is None:
        return msgspec.structs.replace(bank, selection="balanced"), drawn
    return bank, selected


def _posterior(bank: Bank, first: int) -> dict[str, NDArray[np.float32]]:
    return sampling.masks(bank, sampling.draw_keep(bank, first, POOL))


def _target(
    network: Network, frames: CalibrationFrames, posterior: Mapping[str, NDArray[np.float32]], reading: Reading
) -> Target:
    boundaries = [network.trunk(tensors(frame))[0] for frame in frames]
    return Target(
        boundary=[torch.stack(values) for values in zip(*boundaries, strict=True)],
        reference=mean_statistics(network, frames, posterior, reading),
        reading=reading,
    )


def _numbers(network: Network, bank: Bank) -> int:
    """Numbers that one member's head reads and writes at its ends."""
    output = network.members(network.boundary, [torch.zeros(1, *item.shape) for item in bank.inputs])
    masks = sum(int(np.prod(item.shape)) for item in bank.inputs)
    return masks + output.numel() + sum(values.numel() for values in network.boundary)


def _within(value: int, bounds: tuple[int, int]) -> int:
    return max(bounds[0], min(value, bounds[1]))
