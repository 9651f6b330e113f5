"""An engine that does as it is told: canned outputs, latencies and faults.

It is how everything above the engines is tried against what engines do wrong, deterministically and without a model
file: a monitor against a hang, a policy against NaN, a deadline against a slow head.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edge_bdl.engines.base import (
    Array,
    Arrays,
    Graph,
    GraphName,
    Held,
    check_names,
    mismatch,
)
from edge_bdl.errors import EngineError, InputError
from edge_bdl.manifest import (
    COVARIANCE_OUTPUT,
    DENSITY_OUTPUT,
    DETERMINISTIC_OUTPUT,
    MEAN_OUTPUT,
    MEMBERS_OUTPUT,
    VARIANCE_OUTPUT,
    Manifest,
)

Fault = Literal["raise", "nan", "inf", "identical", "hang"]


class ScriptedEngine:
    """Runs a script instead of a network.

    Without `members` it computes a toy posterior from its inputs, so that the same members give the same bits, other
    members other outputs, and trunk plus head what fused gives, as in any real bundle. Members that graphs hold
    themselves are told apart by their numbers.

    Args:
        folder: Not read.
        manifest: Whose shapes and names it plays.
        threads: Ignored.
        members: Canned member outputs, float32 [n, *output shape]. A fused run takes the first S; head runs take theirs
            in turn, from the first again after each trunk run. With fewer than asked for, they repeat. A Gaussian head
            gives their mean and covariance.
        density: Canned density.
        latency_s: Seconds that a run of each graph takes.
        faults: What goes wrong in the first run, the second, ...; None is a good run, and so is every run after the
            last. `itertools.repeat("nan")` never recovers.
        hang_s: Seconds that a ``hang`` lasts before the run goes on.
        sleep: Waits so many seconds.

    Raises:
        InputError: The canned members are not of the output's shape.
    """

    name = "scripted"
    version = "scripted"

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        threads: int = 1,
        members: Array | None = None,
        density: float = 0.0,
        latency_s: Mapping[GraphName, float] | None = None,
        faults: Iterable[Fault | None] = (),
        hang_s: float = 3600.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if members is not None and (members.size == 0 or members.shape[1:] != manifest.output.shape):
            raise InputError(f"scripted members must be [n, *{manifest.output.shape}], got {members.shape}")
        self.manifest = manifest
        self.members = members
        self.density = density
        self.latency_s = dict(latency_s or {})
        self.hang_s = hang_s
        self.sleep = sleep
        self.next_member = 0
        self._faults = iter(faults)
        self._graphs: dict[GraphName, ScriptedGraph] = {}

    def graph(self, name: GraphName) -> Graph:
        """See `Engine.graph`."""
        if name not in self._graphs:
            self._graphs[name] = ScriptedGraph(self, name)
        return self._graphs[name]

    def next_fault(self) -> Fault | None:
        """What goes wrong in the run that starts now."""
        return next(self._faults, None)


class ScriptedGraph:
    """One graph of the script, with the names and shapes that the manifest gives it."""

    def __init__(self, engine: ScriptedEngine, name: GraphName) -> None:
        manifest = engine.manifest
        self._engine = engine
        self._name = name
        self._specs: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
        bank = manifest.bank
        self._is_head = name in bank.heads
        for spec in manifest.boundary if self._is_head else manifest.inputs:
            self._specs[spec.name] = (spec.shape, np.dtype(spec.dtype))
        # Which members it gives, in the first place.
        first = bank.heads.index(name) * bank.chunk if self._is_head else 0
        self._rows = np.arange(first, min(first + bank.chunk, bank.members) if self._is_head else bank.members)
        if self._is_head or name == "fused":
            for member in manifest.member_inputs:
                self._specs[member.name] = ((len(self._rows), *member.shape), np.dtype(np.float32))
        self._names = frozenset(self._specs)

    def hold(self, constants: Arrays) -> Held:
        """See `Graph.hold`."""
        self._check(constants)
        return Held(self, {name: array.copy() for name, array in constants.items()})

    def run(self, inputs: Arrays, held: Held | None = None) -> dict[str, Array]:
        """See `Graph.run`."""
        check_names(self, "scripted", self._name, self._names, inputs, held)
        self._check(inputs)
        fault = self._engine.next_fault()
        self._engine.sleep(self._engine.latency_s.get(self._name, 0.0))
        if fault == "hang":
            self._engine.sleep(self._engine.hang_s)
        if fault == "raise":
            raise EngineError(f"scripted could not run {self._name}: the script says so")
        outputs = self._outputs({**inputs, **held.arrays} if held is not None else inputs)
        return {name: _spoil(name, array, fault) for name, array in outputs.items()}

    def _check(self, arrays: Arrays) -> None:
        for name, array in arrays.items():
            if self._specs.get(name) != (array.shape, array.dtype):
                raise mismatch("scripted", self._name, name, array)

    def _outputs(self, feeds: Arrays) -> dict[str, Array]:
        manifest = self._engine.manifest
        outputs: dict[str, Array] = {}
        if self._name == "trunk":
            self._engine.next_member = 0
            signal = self._signal(feeds)
            outputs |= {spec.name: np.full(spec.shape, signal, spec.dtype) for spec in manifest.boundary}
        elif self._name == "det":
            outputs[DETERMINISTIC_OUTPUT] = self._spread(np.zeros(1, np.float32), feeds)[0]
        elif manifest.closed is not None:
            outputs |= self._gaussian(feeds)
        elif self._engine.members is None:
            effects = [feeds[member.name] for member in manifest.member_inputs]
            effect = sum(array.reshape(len(array), -1).mean(axis=1) for array in effects) if effects else self._rows
            outputs[MEMBERS_OUTPUT] = self._spread(np.asarray(effect, np.float32), feeds)
        else:
            outputs[MEMBERS_OUTPUT] = self._canned(self._engine.members)
        if manifest.has_density and self._name in ("trunk", "fused"):
            outputs[DENSITY_OUTPUT] = np.full(1, self._engine.density, np.float32)
        return outputs

    def _gaussian(self, feeds: Arrays) -> dict[str, Array]:
        """Mean and covariance of the members, canned or toys."""
        manifest = self._engine.manifest
        members = self._engine.members
        if members is None:
            members = self._spread(np.arange(4, dtype=np.float32), feeds)
        centred = members - members.mean(axis=0)
        covariance = np.einsum("sna,snb->nab", centred, centred) / np.float32(len(members))
        variance = np.diagonal(covariance, axis1=1, axis2=2).copy()
        second = {COVARIANCE_OUTPUT: covariance, VARIANCE_OUTPUT: variance}
        name = manifest.outputs[1].name
        return {MEAN_OUTPUT: members.mean(axis=0), name: second[name]}

    def _signal(self, feeds: Arrays) -> np.float32:
        """One number that stands for the frame; a head finds it in its boundary."""
        manifest = self._engine.manifest
        if self._is_head:
            return np.float32(feeds[manifest.boundary[0].name].flat[0])
        return np.float32(sum(float(feeds[spec.name].mean()) for spec in manifest.inputs))

    def _spread(self, effect: Array, feeds: Arrays) -> Array:
        """Member outputs [len(effect), *output shape]: signal plus the member's effect, different in every element."""
        shape = self._engine.manifest.output.shape
        ramp = np.linspace(-1.0, 1.0, int(np.prod(shape)), dtype=np.float32).reshape(shape)
        return np.multiply.outer(self._signal(feeds) + effect, ramp)

    def _canned(self, members: Array) -> Array:
        if not self._is_head:
            return members.take(self._rows, axis=0, mode="wrap")
        first, count = self._engine.next_member, len(self._rows)
        self._engine.next_member += count
        return members.take(range(first, first + count), axis=0, mode="wrap")


def _spoil(name: str, array: Array, fault: Fault | None) -> Array:
    if fault == "identical":
        array[:] = 0.0 if name in (COVARIANCE_OUTPUT, VARIANCE_OUTPUT) else array[0]
    elif fault in ("nan", "inf"):
        array.flat[-1] = np.nan if fault == "nan" else np.inf
    return array
