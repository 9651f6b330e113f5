"""Choose: the bank of a posterior, and how faithful its prefixes are to the whole posterior."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from edge_bdl.errors import ExportError
from edge_bdl.findings import Fidelity
from edge_bdl.manifest import Bank, Selection
from edge_bdl_export.banks import Banks, FixedMasks, Masks, Normals, Stage, Weights
from edge_bdl_export.draws import POOL
from edge_bdl_export.fidelity import Reading, curve, epistemic, frame_scores
from edge_bdl_export.forms.posterior import Posterior
from edge_bdl_export.frames import FIGURES, SELECTION, CalibrationFrames
from edge_bdl_export.graphs import Network
from edge_bdl_export.seen import Members, Seen
from edge_bdl_train.evaluation.ood import separation

# With fewer frames to select on, balanced members are as good on frames that selection did not see.
_ENOUGH = 40
# The banks that ``auto`` tries; each is selected anew, for its own prefixes.
AUTO = "auto"
_SIZES = (4, 8, 16, 32, 64)
FEWEST = 2

Samples = int | Literal["auto"]


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

    @property
    def later(self) -> list[object]:
        """What schema 1 had not."""
        return [value for row in self.fidelity for value in row.later]


def choose(
    posterior: Posterior,
    network: Network,
    frames: CalibrationFrames | None,
    reading: Reading,
    *,
    how: Selection,
    samples: Samples,
    chunk: int,
    seed: int,
    head_work: int,
    others: Callable[[], Iterable[Members]] | None = None,
    outsiders: CalibrationFrames | None = None,
    least: float = 0.97,
) -> Chosen:
    """The bank of a posterior.

    Args:
        posterior: Masks are drawn, weights are taken from those given; so are normal numbers, where there are classes.
        network: Runs members.
        frames: For selection and fidelity.
        reading: How outputs are read.
        how: ``iid``, ``balanced`` (of weights like ``iid``: the first of them) or ``selected``. A bank of masks is
            balanced where selection came no closer.
        samples: Members to store; ``auto`` for as few as reach ``least``.
        chunk: Members per call of the head.
        seed: Of everything drawn.
        head_work: Multiply-accumulates of one member's head.
        others: Sets of weights that stand for the full posterior, a block at a time; None for those that are given.
        outsiders: Frames that the network should not know, to tell apart by the epistemic score.
        least: Rank correlation of the epistemic score with the full posterior's that is asked of ``auto``.

    Raises:
        ExportError: ``selected`` without enough frames or without gradients, fewer than 2 samples, or ``auto`` without
            frames, or with none but too many members that come so close.
    """
    if posterior.closed is not None and not posterior.inputs:
        bank = Bank(members=1, chunk=1, selection="closed_form", seed=seed, inputs=())
        return Chosen(bank=bank, stored={}, inputs={})
    _check_count(samples)
    if samples == AUTO and frames is None:
        raise ExportError("samples='auto' needs calibration frames to measure fidelity on; give some, or a number")
    if how == "selected":
        _check_enough(frames)
    stage = Stage(network, frames, reading, how, chunk, seed, head_work)
    banks = _banks(posterior, stage, others)
    if frames is None:
        return _made(banks, samples)
    measured = _Measured(banks, stage, outsiders)
    if samples != AUTO:
        return measured(_made(banks, samples))
    return _fewest(banks, measured, least)


def pool_sizes(samples: Samples, how: Selection, whole: bool = True) -> tuple[int, int]:
    """Sets of weights that a bank needs at least, and how many to choose from, or to average where not all is random.

    Raises:
        ExportError: Fewer than 2.
    """
    _check_count(samples)
    count = _SIZES[-1] if samples == AUTO else samples
    return count, max(POOL, count) if how == "selected" or not whole else count


def _check_count(samples: Samples) -> None:
    if samples != AUTO and samples < FEWEST:
        raise ExportError(f"samples must be at least 2, got {samples}: one member knows nothing of its uncertainty")


def _check_enough(frames: CalibrationFrames | None) -> None:
    if frames is None:
        raise ExportError("selection='selected' needs calibration frames; give some, or use selection='balanced'")
    seen = len(frames.part(SELECTION))
    if seen < _ENOUGH:
        raise ExportError(
            f"selection='selected' needs at least {_ENOUGH} calibration frames to select on, got {seen} of "
            f"{len(frames)}; give hundreds in all, or use selection='balanced'"
        )


def _banks(posterior: Posterior, stage: Stage, others: Callable[[], Iterable[Members]] | None) -> Banks:
    weights = posterior.weights
    if weights is not None:
        kind = FixedMasks if posterior.form == "mask_bank" else Weights
        return kind(stage, posterior.inputs, weights, others or (lambda: [weights]))
    return (Masks if posterior.closed is None else Normals)(stage, posterior.inputs)


def _made(banks: Banks, count: Any) -> Chosen:
    made = banks.make(count)
    return Chosen(bank=made.bank, stored=made.stored, inputs=made.inputs)


def _fewest(banks: Banks, measured: _Measured, least: float) -> Chosen:
    """The smallest bank that is faithful enough."""
    best = 0.0
    for count in sorted({min(size, banks.most or size) for size in _SIZES}):
        chosen = measured(_made(banks, count))
        for row in chosen.fidelity:
            if row.epistemic_spearman >= least:
                return _cut(chosen, row.samples)
            best = max(best, row.epistemic_spearman)
    raise ExportError(
        f"samples='auto': no bank of up to {count} members ranks epistemic uncertainty as the full posterior does to "
        f"{least:g}, the best reaches {best:.3f}; ask for less with fidelity=..., use selection='selected', or say how "
        "many samples"
    )


def _cut(chosen: Chosen, count: int) -> Chosen:
    bank = msgspec.structs.replace(chosen.bank, members=count, chunk=min(chosen.bank.chunk, count))
    stored, inputs = ({name: rows[:count] for name, rows in held.items()} for held in (chosen.stored, chosen.inputs))
    return Chosen(bank, stored, inputs, tuple(row for row in chosen.fidelity if row.samples <= count))


class _Measured:
    """Adds fidelity to a bank: on frames that it was not selected on, and beside it on those that it was."""

    def __init__(self, banks: Banks, stage: Stage, outsiders: CalibrationFrames | None) -> None:
        self._banks = banks
        self._task = stage.reading.task
        self._parts = {"unseen": stage.seen(FIGURES)}
        if stage.how == "selected":
            self._parts["seen"] = stage.selection
        if outsiders is not None:
            self._parts["outsiders"] = Seen(stage.network, outsiders.thinned(stage.limit), stage.reading)

    def __call__(self, chosen: Chosen) -> Chosen:
        full, parts = self._full, dict(self._parts)
        if chosen.bank.selection != "selected":
            parts.pop("seen", None)
        curves = {name: curve(part.each(chosen.inputs), full.means[name], self._task) for name, part in parts.items()}
        unseen, seen, outsiders = curves["unseen"], curves.get("seen"), curves.get("outsiders")
        rows = (
            Fidelity(
                samples=count,
                reference_members=full.members,
                kl=unseen.kl[i],
                epistemic_spearman=unseen.spearman[i],
                seen_kl=seen.kl[i] if seen else msgspec.UNSET,
                seen_epistemic_spearman=seen.spearman[i] if seen else msgspec.UNSET,
                auroc_lost=self._auroc - _auroc(unseen.scores[i], outsiders.scores[i]) if outsiders else msgspec.UNSET,
            )
            for i, count in enumerate(range(2, chosen.bank.members + 1))
        )
        return replace(chosen, fidelity=tuple(rows))

    @cached_property
    def _full(self) -> _Full:
        """The full posterior on each part. All at once: its members pass by only once."""
        totals: dict[str, Any] = dict.fromkeys(self._parts, 0.0)
        count = 0
        for block in self._banks.others():
            for name, part in self._parts.items():
                totals[name] = totals[name] + sum(part.each(block))
            count += len(next(iter(block.values())))
        return _Full({name: total / count for name, total in totals.items()}, count)

    @cached_property
    def _auroc(self) -> float:
        """What the full posterior's score tells outsiders by."""
        scores = {name: frame_scores(epistemic(stats, self._task)) for name, stats in self._full.means.items()}
        return _auroc(scores["unseen"], scores["outsiders"])


class _Full(NamedTuple):
    """What stands for the full posterior: mean statistics [n, m, K] by part, and of how many members."""

    means: Mapping[str, Tensor]
    members: int


def _auroc(known: Tensor, outside: Tensor) -> float:
    return separation(known, outside).auroc
