"""Checks of graphs that hold their members themselves: no other members can be fed, so others are asked of torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_bdl.findings import ParityCheck
from edge_bdl.manifest import MEMBERS_OUTPUT, StochasticInput
from edge_bdl_export.proof.check import above, at_most
from edge_bdl_export.proof.equality import largest
from edge_bdl_export.proof.subject import EngineSubject


def same_member_same_bits(proved: EngineSubject) -> ParityCheck:
    """Every member gives the same bits on every run, in the fused graph and in its head."""
    worst = 0.0
    for frame in proved.subject.frames:
        once, again = proved.fused(frame)[MEMBERS_OUTPUT], proved.fused(frame)[MEMBERS_OUTPUT]
        worst = max(worst, largest(once - again), largest(proved.heads(frame) - proved.heads(frame)))
    return at_most(proved.engine.name, "same_member_same_bits", worst, 0.0)


def members_differ(proved: EngineSubject) -> list[ParityCheck]:
    """The graphs hold a member's own value of each parameter, and not another member's.

    For each parameter torch is asked what the first member would say with that parameter of another member: the graphs
    must be nearer to what it says with its own. A parameter whose exchange moves torch's outputs by less than the
    tolerance cannot be told apart, and is held by ``members_equal_torch`` alone (attention's key bias moves nothing).
    """
    said = [(proved.fused(frame)[MEMBERS_OUTPUT][0], proved.heads(frame)[0]) for frame in proved.subject.frames]
    checks = []
    for item in proved.subject.manifest.bank.inputs:
        nearer = _nearer(proved, item, said)
        if nearer is not None:
            checks.append(above(proved.engine.name, f"members_differ[{item.source}#{item.call}]", nearer, 0.0))
    return checks


def _nearer(
    proved: EngineSubject, item: StochasticInput, said: list[tuple[NDArray[np.generic], NDArray[np.generic]]]
) -> float | None:
    """By how much the graphs are nearer to torch's own answer than to the exchanged one, of the output's range."""
    subject = proved.subject
    values = np.asarray(subject.members[item.name], np.float64)
    other = int(np.argmax(np.abs(values - values[0]).reshape(len(values), -1).max(axis=1)))
    for index, frame in enumerate(subject.frames):
        own = subject.expected[index][0].astype(np.float64)
        exchanged = subject.answer(frame, {**subject.member(0), item.name: subject.members[item.name][other]})
        moved = np.abs(exchanged - own)
        place = np.unravel_index(int(moved.argmax()), moved.shape)
        if moved[place] <= 2.0 * subject.tolerance * subject.output_range:
            continue
        margins = [abs(graph[place] - exchanged[place]) - abs(graph[place] - own[place]) for graph in said[index]]
        return float(min(margins)) / subject.output_range
    return None
