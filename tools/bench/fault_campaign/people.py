"""What people do, and do not do."""

from __future__ import annotations

import time

from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters

from edge_bdl_firmware.ros import topics
from fault_campaign.bounds import HANDOFF_S, MARGIN_S, TICK_S
from fault_campaign.fault import HANDOFF, NOMINAL, STOP, Fault
from fault_campaign.harness import Run, Setup

_HANDOFF = "one camera period, the ramp of a second, one tick and the margin"
_BYPASS_S, _BYPASS_FACTOR, _UNANSWERED_S = 1.5, 0.3, 2.0
_STANDSTILL_S = 1.0
_AT_ONCE_S = TICK_S + 2 * MARGIN_S


def _alarmed(run: Run) -> bool:
    run.strike()
    run.robot.see(run.robot.scenery.alarming)
    return run.until_level("HANDOFF", within_s=1.0)


def _takes_over(run: Run) -> None:
    """Out of the blue: the gate must get out of the way."""
    run.strike()
    run.check(run.robot.take_control(True), "the gate did not hand over")


def _lets_go(run: Run) -> None:
    """Takes over in the alarm; gives back too early first, then in clear conditions."""
    if not _alarmed(run):
        return
    run.check(run.robot.take_control(True), "the gate did not hand over")
    time.sleep(float(run.rng.uniform(0.1, 1.0)))
    run.robot.take_control(False)
    time.sleep(0.15)
    run.check(run.level() == "HANDOFF", f"handed back while unsafe, and the level is {run.level()}")
    run.robot.take_control(True)
    run.robot.heal()
    time.sleep(0.3)
    run.check(run.level() == "HANDOFF", f"a human has control, and the level is {run.level()}")
    run.robot.take_control(False)
    run.until_level("NOMINAL", within_s=1.0)


def _never_answers(run: Run) -> None:
    if _alarmed(run):
        run.robot.heal()  # it clears up, and still nobody has answered
        run.until_level("STOP", within_s=_UNANSWERED_S + 0.5)


def _unsafe_acknowledgement(run: Run) -> None:
    """Again and again, in HANDOFF and in STOP; and one given in fog must not count when the fog lifts."""
    if not _alarmed(run):
        return
    for _ in range(6):
        run.check(not run.robot.acknowledge(), "an acknowledgement while unsafe was taken")
        time.sleep(0.1)
    run.until_level("STOP", within_s=_UNANSWERED_S + 0.5)
    time.sleep(_STANDSTILL_S)
    run.check(not run.robot.acknowledge(), "an acknowledgement while unsafe was taken")
    run.robot.heal()
    time.sleep(0.5)


def _bypass(run: Run) -> None:
    """Set in the alarm, and forgotten."""
    if not _alarmed(run):
        return
    time.sleep(1.2)
    run.check(run.robot.set_bypass(True), "the bypass was refused")
    run.until("the bypass ends by itself", lambda: _bypassed(run) and not run.log.steps[-1].bypass, _BYPASS_S + 0.5)
    time.sleep(0.1)


def _bypassed(run: Run) -> bool:
    return any(step.bypass for step in run.log.steps)


def _check_bypass(run: Run) -> None:
    steps = [step for step in run.log.steps if step.bypass]
    lasted_s = steps[-1].now_s - steps[0].now_s if steps else 0.0
    run.check(bool(steps), "the bypass did nothing")
    run.check(lasted_s <= _BYPASS_S + TICK_S, f"the bypass lasted {lasted_s:.2f} s of {_BYPASS_S:g}")
    for step in steps:
        if step.command is not None:
            limits = [_BYPASS_FACTOR * abs(axis) + 1e-9 for axis in step.command]
            fits = all(abs(axis) <= limit for axis, limit in zip(step.output, limits, strict=True))
            run.check(fits, f"more than {_BYPASS_FACTOR:g} of the command passed the bypass")


def _reconfigured(run: Run) -> None:
    """Thresholds of time are changed while the gate asks for a human; nonsense is refused."""
    if not _alarmed(run):
        return
    run.check(_set(run, "hold_to_stop_s", 9.0), "a parameter was refused")
    run.check(not _set(run, "assessment_timeout_s", 5.0), "nonsense was taken")
    run.robot.heal()
    time.sleep(0.6)


def _set(run: Run, name: str, value: float) -> bool:
    client = run.robot.create_client(SetParameters, f"/{topics.GATE_NODE}/set_parameters")
    if not client.wait_for_service(2.0):
        return False
    number = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=value)
    future = client.call_async(SetParameters.Request(parameters=[Parameter(name=name, value=number)]))
    end_s = time.monotonic() + 2.0
    while not future.done() and time.monotonic() < end_s:
        time.sleep(0.01)
    run.robot.destroy_client(client)
    return future.done() and all(result.successful for result in future.result().results)


_SOON = Setup(gate={"handoff_to_stop_s": _UNANSWERED_S})

FAULTS = {
    "human takes over": Fault(
        _takes_over, HANDOFF, _AT_ONCE_S, "one tick, the call and the margin", watch_s=1.0, bad_evidence=True
    ),
    "human lets go": Fault(_lets_go, NOMINAL, watch_s=0.0),
    "human never answers": Fault(
        _never_answers, STOP, HANDOFF_S, _HANDOFF, watch_s=2.5, bad_evidence=True, setup=_SOON
    ),
    "acknowledged while unsafe": Fault(
        _unsafe_acknowledgement, STOP, HANDOFF_S, _HANDOFF, watch_s=2.5, bad_evidence=True, setup=_SOON
    ),
    "bypass never cleared": Fault(
        _bypass,
        HANDOFF,
        HANDOFF_S + _BYPASS_FACTOR * (_BYPASS_S + TICK_S),
        f"{_HANDOFF}; then 0.3 of the speed for the 1.5 s that were set",
        watch_s=1.8,
        bad_evidence=True,
        check=_check_bypass,
        setup=Setup(gate={"bypass_limit_s": _BYPASS_S}),
    ),
    "parameter changed in HANDOFF": Fault(_reconfigured, HANDOFF, HANDOFF_S, _HANDOFF, watch_s=1.8, bad_evidence=True),
}
