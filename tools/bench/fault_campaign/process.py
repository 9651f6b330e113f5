"""Processes that die, freeze, or come back."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from fault_campaign.bounds import DISCOVERY_S, GUARD_S, HANDOFF_S, MARGIN_S, SILENCE_S, START_S, TICK_S
from fault_campaign.fault import HOLD, SILENT, STOP, Fault
from fault_campaign.harness import Run, Setup
from fault_campaign.model import obedient, ordered

_SILENCE = "assessment timeout, one tick and the margin"
_GUARD = "heartbeat timeout, one tick of the guard and the margin"
_LAST_ZERO_S = TICK_S + 2 * MARGIN_S
_LAST_ZERO = "the signal is seen after 0.1 s at most; one tick and the margin"


def _signal(name: str, number: int) -> Callable[[Run], None]:
    def inject(run: Run) -> None:
        run.strike()
        run.harness.kill(name, number)

    return inject


def _wake_up(name: str) -> Callable[[Run], None]:
    """The process goes on; what it does first is watched too."""

    def cure(run: Run) -> None:
        run.harness.kill(name, signal.SIGCONT)
        time.sleep(0.5)

    return cure


def _gone_after(name: str, inject: Callable[[Run], None]) -> Callable[[Run], None]:
    """What raises in a callback ends its process."""

    def injected(run: Run) -> None:
        inject(run)
        run.until(f"the {name} has ended", lambda: not run.harness.alive(name), 3.0)
        run.harness.order("")

    return injected


def restart_gate(run: Run) -> int:
    """Kill the gate, start another one, wait until it speaks; returns how many steps were known before it did."""
    run.harness.kill("gate")
    time.sleep(0.1)
    known = len(run.log.steps)
    run.harness.start("gate")
    run.until("the new gate speaks", lambda: len(run.log.steps) > known, START_S)
    return known


def _restart_in_handoff(run: Run) -> None:
    run.strike()
    run.robot.see(run.robot.scenery.alarming)
    if run.until_level("HANDOFF", within_s=1.0):
        time.sleep(float(run.rng.uniform(0.05, 0.9)))
        known = restart_gate(run)
        comes_up_stopped(run, known)


def _restart_stopped(run: Run) -> None:
    run.strike()
    run.robot.see(run.robot.scenery.alarming)
    if run.until_level("STOP", within_s=4.0):
        run.robot.heal()  # in clear conditions too
        for _ in range(2):
            known = restart_gate(run)
            comes_up_stopped(run, known)
            time.sleep(0.3)


def comes_up_stopped(run: Run, known: int) -> None:
    """A new gate's first step, after so many of the old one's, must be a STOP."""
    step = run.log.steps[known]
    run.check(step.level == "STOP", f"the gate came up in {step.level}, it had latched")
    run.until_level("STOP", within_s=DISCOVERY_S)


def _restart_loop(run: Run) -> None:
    run.strike()
    for _ in range(3):
        known = restart_gate(run)
        step = run.log.steps[known]
        run.check(step.level == "HOLD", f"the gate came up in {step.level}: {step.reason}")
        run.check(not any(step.output), "the gate came up driving")
        time.sleep(float(run.rng.uniform(0.0, 0.4)))
    run.harness.kill("gate")


_MONITOR, _GATE = Setup(faulty_monitor=True), Setup(faulty_gate=True)

FAULTS = {
    "monitor SIGKILL": Fault(_signal("monitor", signal.SIGKILL), HOLD, SILENCE_S, _SILENCE, bad_evidence=True),
    "monitor SIGSTOP": Fault(
        _signal("monitor", signal.SIGSTOP), HOLD, SILENCE_S, _SILENCE, bad_evidence=True, cure=_wake_up("monitor")
    ),
    "monitor SIGTERM": Fault(_signal("monitor", signal.SIGTERM), HOLD, SILENCE_S, _SILENCE, bad_evidence=True),
    "monitor SIGINT": Fault(_signal("monitor", signal.SIGINT), HOLD, SILENCE_S, _SILENCE, bad_evidence=True),
    "monitor callback stuck": Fault(
        ordered("stuck"), HOLD, SILENCE_S, _SILENCE, bad_evidence=True, cure=obedient, setup=_MONITOR
    ),
    "monitor callback raises": Fault(
        _gone_after("monitor", ordered("exception")), HOLD, SILENCE_S, _SILENCE, bad_evidence=True, setup=_MONITOR
    ),
    "gate SIGKILL": Fault(_signal("gate", signal.SIGKILL), SILENT, GUARD_S, _GUARD),
    "gate SIGSTOP": Fault(_signal("gate", signal.SIGSTOP), SILENT, GUARD_S, _GUARD, cure=_wake_up("gate")),
    "gate SIGTERM": Fault(_signal("gate", signal.SIGTERM), SILENT, _LAST_ZERO_S, _LAST_ZERO),
    "gate SIGINT": Fault(_signal("gate", signal.SIGINT), SILENT, _LAST_ZERO_S, _LAST_ZERO),
    "gate callback stuck": Fault(ordered("stuck"), SILENT, GUARD_S, _GUARD, cure=obedient, setup=_GATE),
    "gate callback raises": Fault(
        _gone_after("gate", ordered("exception")),
        SILENT,
        _LAST_ZERO_S,
        "one tick and twice the margin: the last zero goes before the traceback",
        setup=_GATE,
    ),
    "restart in the middle of HANDOFF": Fault(
        _restart_in_handoff,
        STOP,
        HANDOFF_S,
        "one camera period, the ramp of a second, one tick and the margin; the guard is sooner",
        watch_s=1.8,
        bad_evidence=True,
    ),
    "latched STOP, restarted": Fault(
        _restart_stopped,
        STOP,
        HANDOFF_S,
        "one camera period, the ramp of a second, one tick and the margin",
        watch_s=1.8,
        setup=Setup(gate={"handoff_to_stop_s": 1.5}),
    ),
    "restart loop": Fault(_restart_loop, SILENT),
}
