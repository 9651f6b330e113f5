"""What must never happen, held against everything that was sent and heard in one run.

Nothing here trusts the gate's own reasons: outputs are compared with the gate's steps and those with the commands that
were sent, levels with the thresholds of the bundle and the scores that the monitor published, distances with the bounds
of the fault.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

from edge_bdl.policy_spec import PolicySpec
from edge_bdl_firmware.messages import Assessment, Step
from fault_campaign.base import Way, travel
from fault_campaign.bounds import (
    BASE_TIMEOUT_S,
    COMMAND_S,
    DISCOVERY_S,
    EVIDENCE_S,
    GUARD_S,
    MARGIN_S,
    TICK_S,
    ZEROS_GAP_S,
)
from fault_campaign.fault import Fault
from fault_campaign.harness import Run
from fault_campaign.outputs import EXACT, Outputs
from fault_campaign.robot import Log

_MOST = 5  # violations of one run that are told
_WHOLE = 0.999
_GOOD_IN_ROW = 5
_STANDSTILL_S = 1.0
_ASKED_S = 3.0  # an answer of a service may come so late
_SAME_S = 1e-4  # two frames are further apart
_STILL = ("HOLD", "STOP")
_DRIVING = ("NOMINAL", "SLOW")
_LATCHED = ("HANDOFF", "STOP")


def violations(run: Run, fault: Fault) -> list[str]:
    """Everything that must never happen, and did."""
    log = run.log
    found = [
        *run.violations,
        *_of_outputs(log, run.begin_s),
        *_of_silence(log, run.begin_s),
        *_of_steps(log, _Judge(run.harness.spec)),
        *_of_evidence(log, run, fault),
        *_of_the_fault(log, run, fault),
    ]
    return found if len(found) <= _MOST else [*found[:_MOST], f"and {len(found) - _MOST} more"]


def detected_ms(run: Run) -> float | None:
    """From the fault to the first output that is zero or smaller than its command; None where none was."""
    outputs = Outputs(run.log)
    for output in run.log.outputs:
        if run.fault_s < output.time_s <= run.end_s:
            share = outputs.share(output)
            if share is not None and share < _WHOLE:
                return (output.time_s - run.fault_s) * 1e3
    return None


def ways(run: Run) -> dict[str, Way]:
    """How far both kinds of base went after the fault."""
    outputs = run.log.outputs
    return {
        "timeout": travel(outputs, run.fault_s, run.calm_s, BASE_TIMEOUT_S),
        "holds": travel(outputs, run.fault_s, run.calm_s),
    }


def _of_outputs(log: Log, begin_s: float) -> Iterator[str]:
    outputs = Outputs(log)
    for output in log.outputs:
        if output.time_s < begin_s or not any(output.axes):
            continue
        if not all(map(math.isfinite, output.axes)):
            yield f"an output that is not finite: {output.axes}"
        elif outputs.share(output) is None:
            when = f"{output.time_s - begin_s:.3f} s after the run's beginning"
            yield f"{when} an output that is no share of its command: {output.axes}, {outputs.origin(output)}"
        if not outputs.commanded(output.sent_s):
            yield f"motion without a fresh command: {output.axes}"
    for step, wrong in outputs.wrong_steps():
        if step.now_s >= begin_s:
            yield f"{step.now_s - begin_s:.3f} s after the run's beginning an output of {step.output} {wrong}"


def _of_silence(log: Log, begin_s: float) -> Iterator[str]:
    """Zeros go on: from the gate while it lives, from the guard where it does not."""
    ends = [time_s for time_s, name in log.ends if name == "gate"]
    for before, after in itertools.pairwise(log.outputs):
        gap_s = after.sent_s - before.sent_s
        dead = log.gate_was_silent or any(before.time_s - MARGIN_S <= end_s <= after.time_s for end_s in ends)
        limit_s = GUARD_S if dead else ZEROS_GAP_S + MARGIN_S
        # The guard trusts the new gate's first heartbeat; until DDS has matched the base with it, zeros came last.
        new = any(before.time_s - DISCOVERY_S < time_s <= after.time_s for time_s, name in log.starts if name == "gate")
        deaf = any(begin < after.time_s and end > before.time_s for begin, end in log.stalls)
        if before.time_s >= begin_s and gap_s > limit_s and not deaf and (any(before.axes) or not new):
            yield f"nothing was sent to the base for {gap_s:.2f} s after {before.axes}"


class _Judge:
    """Good and bad evidence by the bundle's thresholds, worked out again."""

    def __init__(self, spec: PolicySpec) -> None:
        self._scores = spec.scores

    def good(self, assessment: Assessment) -> bool:
        if assessment.fault is not None or not self._scores:
            return False
        for score in self._scores:
            limits, value = score.at(assessment.samples), assessment.scores.get(score.name, math.nan)
            if limits is None or not value <= limits.slow:
                return False
        return True


def _of_steps(log: Log, judge: _Judge) -> Iterator[str]:
    said_by_time = {said.received_s: said for said in (*log.told, *(said for _, said in log.assessments))}
    assessments = [said_by_time[time_s] for time_s in sorted(said_by_time)]
    for step in log.steps:
        still = step.level in _STILL or step.human_in_control
        if still and not step.bypass and any(step.output):
            yield f"{step.level} and an output of {step.output}"
    held_s = -math.inf
    for before, after in itertools.pairwise(log.steps):
        if after.level == "HOLD" and before.level != "HOLD":
            held_s = after.now_s
        known = [said for said in assessments if said.received_s <= after.now_s]
        if any(before.now_s < time_s <= after.now_s for time_s, name in log.starts if name == "gate"):
            yield from _of_restart(before, after)
        elif before.level in _LATCHED and after.level not in _LATCHED:
            yield from _of_leaving(log, before, after, known, judge)
        elif before.level == "HOLD" and after.level == "NOMINAL":
            came = {step.assessment for step in log.steps if held_s <= step.now_s <= after.now_s and step.assessment}
            # Without a step in the record, for those are lost where this process is behind, its frame says it.
            count = max(len(came), sum(said.received_s > held_s for said in known))
            good = sum(judge.good(said) for said in known[-_GOOD_IN_ROW:])
            if min(count, good) < _GOOD_IN_ROW:
                yield f"NOMINAL after {min(count, good)} good assessments"
        if after.level in _DRIVING and after.trigger == "assessment":
            yield from _of_driving(after, known)
        if after.level == "NOMINAL" and known and after.now_s - known[-1].received_s > EVIDENCE_S + TICK_S + MARGIN_S:
            yield f"NOMINAL on evidence that is {after.now_s - known[-1].received_s:.2f} s old"


def _of_driving(step: Step, known: Sequence[Assessment]) -> Iterator[str]:
    """An assessment came, and the robot may go on."""
    received_s = step.now_s - step.age_s
    for said in known:
        valid = said.fault is None and all(map(math.isfinite, said.scores.values()))
        if abs(said.received_s - received_s) < _SAME_S and not valid:
            yield f"{step.level} on invalid evidence: {said.fault or said.scores}"


def _of_restart(before: Step, after: Step) -> Iterator[str]:
    if before.level in _LATCHED and after.level != "STOP":
        yield f"killed in {before.level}, the gate came up in {after.level}"
    if after.level not in _STILL:
        yield f"the gate came up in {after.level}"


def _of_leaving(log: Log, before: Step, after: Step, known: Sequence[Assessment], judge: _Judge) -> Iterator[str]:
    change = f"{before.level} was left for {after.level}"
    handed_back = before.human_in_control and not after.human_in_control
    asked = {act for time_s, act in log.acts if after.now_s - _ASKED_S <= time_s <= after.now_s}
    if after.level != "HOLD":
        yield f"{change}, not for HOLD"
    if not (after.acknowledged and "acknowledge" in asked) and not (handed_back and "release" in asked):
        yield f"{change} and nobody had asked for it"
    if not known or not judge.good(known[-1]) or after.now_s - known[-1].received_s > EVIDENCE_S:
        yield f"{change} and conditions were not clear"
    if before.level == "STOP":
        moved = [
            step for step in log.steps if after.now_s - _STANDSTILL_S <= step.now_s < after.now_s if any(step.output)
        ]
        if moved:
            yield f"{change} and the robot had not stood still"


def _of_evidence(log: Log, run: Run, fault: Fault) -> Iterator[str]:
    """While evidence is bad, by construction of the fault, nothing may drive on it."""
    if not fault.bad_evidence or fault.stop_s is None:
        return
    for step in log.steps:
        if run.fault_s + fault.stop_s < step.now_s < run.calm_s and step.level in _DRIVING:
            yield f"{step.level} {step.now_s - run.fault_s:.2f} s after the fault: {step.reason}"


def _of_the_fault(log: Log, run: Run, fault: Fault) -> Iterator[str]:
    if fault.levels and run.final_level not in fault.levels:
        yield f"it ended in {run.final_level}, expected {' or '.join(sorted(fault.levels))}"
    if fault.must_drive and (after_ms := detected_ms(run)) is not None:
        why = [step for step in log.steps if step.now_s <= run.fault_s + after_ms * 1e-3 + TICK_S][-1:]
        said = f", {why[0].level}: {why[0].reason}" if why else ""
        yield f"the robot was slowed {after_ms:.0f} ms after what should not slow it{said}"
    if fault.stop_s is None:
        return
    bound = farthest(run, fault.stop_s)
    for kind, way in ways(run).items():
        if way.metres > bound.metres + EXACT or way.radians > bound.radians + EXACT:
            yield (
                f"the base ({kind}) went {way.metres:.3f} m and turned {way.radians:.3f} rad, "
                f"at most {bound.metres:.3f} m and {bound.radians:.3f} rad are allowed"
            )
    before = [output for output in log.outputs if output.time_s <= run.calm_s]
    if before and any(before[-1].axes):
        yield f"the newest output is {before[-1].axes}, not zero"


def farthest(run: Run, stop_s: float) -> Way:
    """The bound of a fault in one run: its full commanded speed for so long."""
    asked = [
        command.axes
        for command in run.log.inputs
        if run.fault_s - COMMAND_S <= command.time_s <= run.calm_s and all(map(math.isfinite, command.axes))
    ]
    fastest = max((math.hypot(*axes[:3]) for axes in asked), default=0.0)
    quickest = max((math.hypot(*axes[3:]) for axes in asked), default=0.0)
    return Way(fastest * stop_s, quickest * stop_s)
