"""Choose: the bank of a posterior, and how faithful its prefixes are to the whole posterior."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge_bdl import sampling
from edge_bdl.errors import ExportError
from edge_bdl.manifest import Bank, Fidelity, Selection, Task
from edge_bdl_export import members, selection
from edge_bdl_export.forms.posterior import Posterior
from edge_bdl_export.frames import FIGURES, SELECTION, CalibrationFrames
from edge_bdl_export.graphs import Network
from edge_bdl_export.proof.subject import tensors

POOL = 256
# Where in the counter-based stream the candidates and the reference come from: never what a runtime draws.
_CANDIDATES, _REFERENCE = 1 << 32, 1 << 33
# Frames that selection and fidelity look at, fewer where the head is large: the pools run on every one of them.
_FRAMES = 400
_HEAD_WORK = 400_000_000_000


@dataclass(frozen=True)
class Reading:
    """How a network's output is read.

    Attributes:
        task: Of the manifest.
        class_axis: Of one output, for classification.
    """

    task: Task
    class_axis: int | None


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
        posterior: Masks are drawn, weights are taken as given.
        network: Runs candidates.
        frames: For selection and fidelity.
        reading: How outputs are read.
        how: ``iid``, ``balanced`` or ``selected``.
        samples: Members to store.
        chunk: Members per call of the head.
        seed: Of everything drawn.
        head_work: Multiply-accumulates of one member's head.

    Raises:
        ExportError: ``selected`` without frames, or fewer than 2 samples.
    """
    if posterior.weights is not None:
        return _given(posterior.weights, posterior, chunk, seed)
    if samples < 2:
        raise ExportError(f"samples must be at least 2, got {samples}: one member knows nothing of its uncertainty")
    if how == "selected" and frames is None:
        raise ExportError("selection='selected' needs calibration frames; give some, or use selection='balanced'")
    bank = Bank(members=samples, chunk=min(chunk, samples), selection=how, seed=seed, inputs=posterior.inputs)
    limit = int(np.clip(_HEAD_WORK // max(1, head_work * POOL), 32, _FRAMES))
    keep = _draw(bank, network, frames, reading, limit)
    chosen = Chosen(bank=bank, stored=sampling.pack(keep), inputs=sampling.masks(bank, keep))
    if frames is None:
        return chosen
    fidelity = _fidelity(chosen, network, frames.part(FIGURES).thinned(limit), reading)
    return Chosen(bank=bank, stored=chosen.stored, inputs=chosen.inputs, fidelity=fidelity)


def _given(weights: Mapping[str, NDArray[np.float32]], posterior: Posterior, chunk: int, seed: int) -> Chosen:
    count = len(next(iter(weights.values())))
    bank = Bank(members=count, chunk=min(chunk, count), selection="given", seed=seed, inputs=posterior.inputs)
    return Chosen(bank=bank, stored=weights, inputs=weights)


def _draw(
    bank: Bank, network: Network, frames: CalibrationFrames | None, reading: Reading, limit: int
) -> dict[str, NDArray[np.bool_]]:
    if bank.selection == "iid":
        return sampling.draw_keep(bank, 0, bank.members)
    if bank.selection == "balanced":
        return members.balanced(bank.inputs, bank.members, np.random.Generator(np.random.Philox(bank.seed)))
    assert frames is not None
    seen = frames.part(SELECTION).thinned(limit)
    keep = sampling.draw_keep(bank, _CANDIDATES, POOL)
    candidates = pool_statistics(network, seen, sampling.masks(bank, keep), reading)
    reference = _reference(bank, network, seen, reading)
    order = selection.greedy(candidates, reference, bank.members, reading.task)
    return {name: rows[order] for name, rows in keep.items()}


def _reference(bank: Bank, network: Network, frames: CalibrationFrames, reading: Reading) -> NDArray[np.float64]:
    keep = sampling.draw_keep(bank, _REFERENCE, POOL)
    return pool_statistics(network, frames, sampling.masks(bank, keep), reading).mean(0)


def pool_statistics(
    network: Network, frames: CalibrationFrames, pool: Mapping[str, NDArray[np.float32]], reading: Reading
) -> NDArray[np.float64]:
    """Statistics [M, m, K] of M members on all frames: one pass of the trunk and M of the head per frame."""
    values = [torch.from_numpy(value) for value in pool.values()]
    outputs = [network.members(network.trunk(tensors(frame))[0], values).numpy() for frame in frames]
    return selection.statistics(np.stack(outputs, axis=1), reading.task, reading.class_axis)


def _fidelity(
    chosen: Chosen, network: Network, frames: CalibrationFrames, reading: Reading
) -> tuple[Fidelity, ...]:
    bank = chosen.bank
    own = pool_statistics(network, frames, chosen.inputs, reading)
    reference = _reference(bank, network, frames, reading)
    rows = []
    for count in range(2, bank.members + 1):
        mean = own[:count].mean(0)
        rows.append(
            Fidelity(
                samples=count,
                reference_members=POOL,
                kl=float(selection.divergence(reference, mean, reading.task).mean()),
                epistemic_spearman=selection.rank_correlation(
                    selection.epistemic(mean, reading.task), selection.epistemic(reference, reading.task)
                ),
            )
        )
    return tuple(rows)
