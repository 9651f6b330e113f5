"""Checks that compare numbers: the graphs with torch, with one another, and with themselves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_bdl.findings import ParityCheck
from edge_bdl.manifest import DENSITY_OUTPUT, DETERMINISTIC_OUTPUT, MEMBERS_OUTPUT, StochasticInput
from edge_bdl.verification import tolerances
from edge_bdl_export.proof.check import above, at_most
from edge_bdl_export.proof.subject import Arrays, EngineSubject


def same_member_same_bits(proved: EngineSubject) -> ParityCheck:
    """The same member gives the same bits on every run and in every place of the bank."""
    subject = proved.subject
    first = {name: np.repeat(values[:1], len(values), axis=0) for name, values in subject.members.items()}
    worst = 0.0
    for frame in subject.frames:
        once, again = proved.fused(frame, first)[MEMBERS_OUTPUT], proved.fused(frame, first)[MEMBERS_OUTPUT]
        worst = max(worst, largest(once - again), largest(once - once[:1]))
    return at_most(proved.engine.name, "same_member_same_bits", worst, 0.0)


def members_differ(proved: EngineSubject) -> list[ParityCheck]:
    """Each stochastic input changes the output by itself, all others held still: nothing random was lost on the way."""
    checks = []
    for index, item in enumerate(proved.subject.manifest.bank.inputs):
        spread = max(largest(np.ptp(_varied(proved, index, frame), axis=0)) for frame in proved.subject.frames)
        checks.append(above(proved.engine.name, f"members_differ[{item.source}#{item.call}]", spread, 0.0))
    return checks


def _varied(proved: EngineSubject, index: int, frame: Arrays) -> NDArray[np.generic]:
    subject = proved.subject
    item = subject.manifest.bank.inputs[index]
    members = {other.name: _still(subject.members[other.name], other) for other in subject.manifest.bank.inputs}
    if item.kind == "parameter":
        members[item.name] = np.asarray(subject.members[item.name])
    else:
        # All kept against all dropped: drawn masks of a small rate and a small layer may well be equal.
        members[item.name][::2] = 0.0
    return proved.fused(frame, members)[MEMBERS_OUTPUT]


def _still(members: NDArray[np.generic], item: StochasticInput) -> NDArray[np.generic]:
    """The same in all members. A mask keeps everything, for what it drops might hide what is varied."""
    if item.kind == "parameter":
        return np.repeat(members[:1], len(members), axis=0)
    return np.full_like(members, item.scale)


def deterministic_equals_torch(proved: EngineSubject) -> ParityCheck:
    """The deterministic graph, on which T_det is measured, is the model with all dropout off."""
    graph = proved.engine.graph("det")
    actual = np.stack([graph.run(frame)[DETERMINISTIC_OUTPUT] for frame in proved.subject.frames])
    return _close(proved, "deterministic_equals_torch", actual, proved.subject.expected_deterministic)


def members_equal_torch(proved: EngineSubject) -> ParityCheck:
    """Every member of the bank equals torch with the same masks injected, or the same weights loaded."""
    actual = np.stack([proved.fused(frame)[MEMBERS_OUTPUT] for frame in proved.subject.frames])
    return _close(proved, "members_equal_torch", actual, proved.subject.expected)


def split_equals_fused(proved: EngineSubject) -> ParityCheck:
    """Trunk and head, chunk by chunk, give what the fused graph gives."""
    subject = proved.subject
    split = proved.heads if subject.manifest.bank.built_in else lambda frame: proved.split(frame, subject.members)
    actual = np.stack([split(frame) for frame in subject.frames])
    fused = np.stack([proved.fused(frame)[MEMBERS_OUTPUT] for frame in subject.frames])
    return _close(proved, "split_equals_fused", actual, fused)


def density_equals_torch(proved: EngineSubject) -> list[ParityCheck]:
    """Both graphs that compute the density give torch's, relative to its own size: it spans orders of magnitude."""
    subject = proved.subject
    if subject.density is None:
        return []
    expected, allowed = subject.expected_density, tolerances(subject.manifest)[1]
    checks = []
    for name in ("trunk", "fused"):
        rows = []
        for frame in subject.frames:
            outputs = proved.fused(frame) if name == "fused" else proved.engine.graph("trunk").run(frame)
            rows.append(np.array(outputs[DENSITY_OUTPUT]))
        error = float(np.max(np.abs(np.stack(rows) - expected) / (np.abs(expected) + 1.0)))
        checks.append(at_most(proved.engine.name, f"density_equals_torch[{name}]", error, allowed))
    return checks


def engines_agree(first: EngineSubject, second: EngineSubject) -> ParityCheck:
    """Two engines give the same members."""
    frames = first.subject.frames
    ours = np.stack([first.fused(frame)[MEMBERS_OUTPUT] for frame in frames])
    theirs = np.stack([second.fused(frame)[MEMBERS_OUTPUT] for frame in frames])
    return _close(first, f"agrees_with[{second.engine.name}]", ours, theirs)


def reference_equals_golden(proved: EngineSubject) -> ParityCheck:
    """ONNX's own reference evaluator gives the golden members too. It is slow: one frame."""
    actual = proved.fused(proved.subject.frames[0])[MEMBERS_OUTPUT]
    return _close(proved, "members_equal_golden", actual, proved.subject.expected[0])


def _close(proved: EngineSubject, name: str, actual: NDArray[np.generic], expected: NDArray[np.generic]) -> ParityCheck:
    error = largest(actual - expected) / proved.subject.output_range if actual.shape == expected.shape else np.inf
    return at_most(proved.engine.name, name, error, proved.subject.tolerance)


def largest(difference: NDArray[np.generic]) -> float:
    """Largest magnitude; not finite counts as infinitely far."""
    magnitude = np.abs(np.asarray(difference, dtype=np.float64))
    return float(magnitude.max(initial=0.0)) if np.isfinite(magnitude).all() else float("inf")
