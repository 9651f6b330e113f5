"""Banks: what members of each kind a bank may be made of, and what stands for all the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_bdl import sampling
from edge_bdl.errors import ExportError
from edge_bdl.manifest import Bank, Selection, StochasticInput
from edge_bdl_export import members
from edge_bdl_export.candidates import pick
from edge_bdl_export.draws import POOL, Draws, StateDict
from edge_bdl_export.fidelity import Reading
from edge_bdl_export.forms.posterior import Posterior
from edge_bdl_export.forms.weight_bank import bank
from edge_bdl_export.frames import SELECTION, CalibrationFrames
from edge_bdl_export.graphs import Network
from edge_bdl_export.seen import Members, Seen
from edge_bdl_export.selection import Keep, Target, select

# Where in the counter-based stream the members come from that stand for the full posterior: never what a runtime draws,
# and other ones to select towards than to measure against.
_TO_SELECT, _TO_MEASURE, _TO_COMPARE = 1 << 32, 1 << 33, 3 << 32
# What selecting and measuring may take: multiply-accumulates in the head, and frames where the head is small.
_WORK = 400_000_000_000
_FRAMES = (64, 1000)
# Moving one number costs about as much as this many multiply-accumulates.
_NUMBER = 64
_BACKWARD = 3
_STEPS, _BATCH = (100, 300), (8, 64)
# Numbers that choosing among candidates looks at in every step.
_LOOKED_AT = 2_000_000


@dataclass(frozen=True)
class Stage:
    """What a bank is chosen on.

    Attributes:
        network: Runs members.
        frames: All calibration frames; None where there are none.
        reading: How outputs are read.
        how: ``iid``, ``balanced`` or ``selected``.
        chunk: Members per call of the head.
        seed: Of everything drawn.
        head_work: Multiply-accumulates of one member's head.
    """

    network: Network
    frames: CalibrationFrames | None
    reading: Reading
    how: Selection
    chunk: int
    seed: int
    head_work: int

    def bank(self, count: int, selection: Selection, inputs: tuple[StochasticInput, ...]) -> Bank:
        """A bank of so many members, for the manifest."""
        return Bank(
            members=count, chunk=min(self.chunk, count), selection=selection, seed=self.seed, inputs=inputs,
            built_in=True if self.network.built_in else msgspec.UNSET,
        )  # fmt: skip

    @cached_property
    def work(self) -> int:
        """What one member's head costs: its arithmetic, or the numbers that go in and out of it."""
        with torch.no_grad():
            output: Tensor = self.network.parts.deterministic(*self.network.frame)
        return max(self.head_work, _NUMBER * (output.numel() + sum(part.numel() for part in self.network.boundary)))

    @property
    def limit(self) -> int:
        """Frames to look at."""
        return _within(_WORK // (self.work * POOL), _FRAMES)

    @cached_property
    def selection(self) -> Seen:
        """The frames that members are selected on."""
        return self.seen(SELECTION)

    def seen(self, part: int) -> Seen:
        """Frames of one part of the calibration."""
        assert self.frames is not None
        return Seen(self.network, self.frames.part(part).thinned(self.limit), self.reading)


@dataclass(frozen=True)
class Stocked:
    """A bank and what is in it.

    Attributes:
        bank: For the manifest, which tells what the members turned out to be.
        stored: As ``bank.safetensors`` holds them.
        inputs: As the graphs take them, float32 [members, *shape] by name.
    """

    bank: Bank
    stored: Mapping[str, NDArray[Any]]
    inputs: Members


class Banks(Protocol):
    """Members of one kind.

    Attributes:
        most: How many different ones a bank may hold; None if there is no end to them.
    """

    most: int | None

    def make(self, count: int) -> Stocked:
        """A bank of ``count`` members."""

    def others(self) -> Iterable[Members]:
        """What stands for the full posterior, a block at a time: members that no bank was made of, or all there are."""


class Masks:
    """Dropout masks.

    Args:
        stage: What a bank is chosen on.
        inputs: The member inputs.
    """

    most: int | None = None

    def __init__(self, stage: Stage, inputs: tuple[StochasticInput, ...]) -> None:
        self._stage = stage
        self._inputs = inputs

    def make(self, count: int) -> Stocked:
        """Masks drawn, balanced or trained; balanced where training came no closer."""
        stage = self._stage
        bank = stage.bank(count, stage.how, self._inputs)
        if stage.how == "iid":
            return self._stocked(bank, sampling.draw_keep(bank, 0, count))
        drawn = members.balanced(bank.inputs, count, np.random.Generator(np.random.Philox(bank.seed)))
        if stage.how == "balanced":
            return self._stocked(bank, drawn)
        visits = _WORK // (_BACKWARD * count * stage.work)
        steps = _within(visits // _BATCH[0], _STEPS)
        batch = _within(visits // steps, _BATCH)
        selected = select(
            drawn, bank.inputs, stage.network.axis, self._target, steps=steps, batch=batch, seed=bank.seed
        )
        if selected is None:
            return self._stocked(msgspec.structs.replace(bank, selection="balanced"), drawn)
        return self._stocked(bank, selected)

    def others(self) -> Iterable[Members]:
        """Independent masks."""
        return [self._drawn(_TO_MEASURE)]

    @cached_property
    def _target(self) -> Target:
        seen = self._stage.selection
        return Target(seen.boundary, seen.mean([self._drawn(_TO_SELECT)]), self._stage.reading)

    def _drawn(self, first: int) -> Members:
        return _independent(self._stage.bank(POOL, "iid", self._inputs), first)

    def _stocked(self, bank: Bank, keep: Keep) -> Stocked:
        return Stocked(bank, sampling.pack(keep), sampling.masks(bank, keep))


class Normals:
    """Draws of a Gaussian head's outputs.

    Args:
        stage: What a bank is chosen on.
        inputs: The one input.

    Raises:
        ExportError: They cannot be ``selected``.
    """

    most: int | None = None

    def __init__(self, stage: Stage, inputs: tuple[StochasticInput, ...]) -> None:
        if stage.how == "selected":
            raise ExportError(
                "selection='selected' chooses masks or weights; draws of a Gaussian head's outputs are 'balanced' or "
                "'iid', and a robot may use as many as it likes"
            )
        self._stage = stage
        self._inputs = inputs

    def make(self, count: int) -> Stocked:
        """Draws from N(0, 1), independent or balanced."""
        bank = self._stage.bank(count, self._stage.how, self._inputs)
        if self._stage.how == "iid":
            normal = sampling.draw_normal(bank, 0, count)
        else:
            normal = members.balanced_normal(bank.inputs, count, np.random.Generator(np.random.Philox(bank.seed)))
        return Stocked(bank, normal, normal)

    def others(self) -> Iterable[Members]:
        """Independent draws."""
        return [sampling.draw_normal(self._stage.bank(POOL, "iid", self._inputs), _TO_MEASURE, POOL)]


class Weights:
    """Sets of weights, of which a bank holds the first or the chosen ones: they cannot be balanced.

    Args:
        stage: What a bank is chosen on.
        inputs: The member inputs.
        pool: What there is to choose from, [members, *shape] by input name.
        others: What stands for the full posterior, a block at a time.
    """

    def __init__(
        self,
        stage: Stage,
        inputs: tuple[StochasticInput, ...],
        pool: Members,
        others: Callable[[], Iterable[Members]],
    ) -> None:
        self._stage = stage
        self._inputs = inputs
        self._pool = pool
        self.others = others
        self.most: int | None = len(next(iter(pool.values())))

    def make(self, count: int) -> Stocked:
        """The first members of the pool, or those that were picked."""
        rows = list(range(min(count, self.most or count)))
        if self._stage.how == "selected":
            rows = pick(self._candidates, self._candidates.mean(1), len(rows), self._stage.reading.task)
        bank = self._stage.bank(len(rows), "selected" if self._stage.how == "selected" else "given", self._inputs)
        chosen = {name: values[rows] for name, values in self._pool.items()}
        return Stocked(bank, {} if bank.built_in else chosen, chosen)

    @cached_property
    def _candidates(self) -> Tensor:
        """Statistics [n, P, m, K] of the pool, at as many output positions as can be looked at."""
        rows = []
        for stats in self._stage.selection.each(self._pool):
            frames, positions, numbers = stats.shape
            kept = max(1, min(positions, _LOOKED_AT // (frames * numbers * (self.most or 1))))
            rows.append(stats[:, torch.linspace(0, positions - 1, kept).round().long()])
        return torch.stack(rows, 1)


class FixedMasks(Weights):
    """The masks that there are, of which a bank holds the first or the chosen ones: no others may be drawn."""

    def make(self, count: int) -> Stocked:
        """As of sets of weights, but bit-packed."""
        made = super().make(count)
        keep = {name: values > 0.0 for name, values in made.inputs.items()}
        return Stocked(msgspec.structs.replace(made.bank, fixed=True), sampling.pack(keep), made.inputs)


def standing_for(
    posterior: Posterior, draws: Draws | None, pool: Sequence[StateDict], seed: int
) -> Callable[[], Iterable[Members]]:
    """Members that stand for a posterior, a block at a time: none of the pool, or all there are.

    Args:
        posterior: Of masks or of weights.
        draws: Where weights come from.
        pool: Those that were drawn before.
        seed: Of masks.
    """
    if draws is not None:
        return lambda: (bank(posterior.inputs, block) for block in draws.others(pool))
    if posterior.weights is not None:
        fixed = posterior.weights
        return lambda: [fixed]
    inputs = posterior.inputs  # none in closed form, of which there are no members
    return lambda: [_independent(Bank(members=POOL, chunk=1, selection="iid", seed=seed, inputs=inputs), _TO_COMPARE)]


def _independent(bank: Bank, first: int) -> Members:
    return sampling.masks(bank, sampling.draw_keep(bank, first, POOL))


def _within(value: int, bounds: tuple[int, int]) -> int:
    return max(bounds[0], min(value, bounds[1]))
