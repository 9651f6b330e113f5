"""The gate's node as a process: what goes in, what comes out, whatever happens to it."""

from __future__ import annotations

import itertools
import math
import os
import signal
import statistics
from typing import Any

import pytest

from edge_bdl_firmware.messages import Opening

pytest.importorskip("rclpy", reason="needs the extra ros")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import Twist
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterType, ParameterValue
from rcl_interfaces.srv import DescribeParameters, GetParameters, ListParameters, SetParametersAtomically
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Bool
from std_srvs.srv import SetBool, Trigger

from edge_bdl_firmware.ros import topics
from edge_bdl_firmware.ros.velocity import PlainTwist

from .robot import ASSESSMENTS, MASKS, OUTPUTS, STATE, Robot, ended

GATE = "edge_bdl_gate"
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def axes(message: Any) -> tuple[float, ...]:
    return PlainTwist().read(message).axes


def moves(messages: list[Any]) -> list[bool]:
    return [any(axes(message)) for message in messages]


def acknowledge(robot: Robot) -> Any:
    return robot.call(Trigger, f"{GATE}/acknowledge", Trigger.Request())


def ask(robot: Robot, service: str, data: bool) -> Any:
    return robot.call(SetBool, f"{GATE}/{service}", SetBool.Request(data=data))


def set_parameters(robot: Robot, **values: float | int | str) -> Any:
    kinds = {
        float: ("double_value", ParameterType.PARAMETER_DOUBLE),
        int: ("integer_value", ParameterType.PARAMETER_INTEGER),
        str: ("string_value", ParameterType.PARAMETER_STRING),
    }
    parameters = []
    for name, value in values.items():
        field, kind = kinds[type(value)]
        parameters.append(
            ParameterMessage(name=name.replace("__", "."), value=ParameterValue(type=kind, **{field: value}))
        )
    request = SetParametersAtomically.Request(parameters=parameters)
    return robot.call(SetParametersAtomically, f"{GATE}/set_parameters_atomically", request).result


def test_zeros_flow_at_the_rate_of_the_ticks_while_there_is_no_evidence(robot: Robot) -> None:
    outputs = robot.hear(Twist, OUTPUTS)
    robot.gate()
    robot.send(1.0, 0.5)
    already = len(robot.steps)
    robot.until(lambda: len(robot.steps) > already + 40 and len(outputs) > 40, "zeros")
    assert not any(moves(outputs))
    ticks = [step.now_s for step in robot.steps if step.trigger == "tick"]
    assert statistics.median(later - earlier for earlier, later in itertools.pairwise(ticks)) == pytest.approx(
        0.05, rel=0.1
    )
    assert {step.level for step in robot.steps} == {"HOLD"}


def test_it_drives_after_five_good_assessments_in_a_row_and_what_it_lets_pass_is_the_command(robot: Robot) -> None:
    outputs = robot.hear(Twist, OUTPUTS)
    robot.gate(loosen_per_s=0.5)
    with robot.feeding(lambda: robot.send(0.8, 0.0, 0.0, 0.0, 0.0, -0.4)):
        robot.drive()
    first = next(index for index, step in enumerate(robot.steps) if step.level == "NOMINAL")
    assert robot.steps[first].trigger == "assessment"
    assert sum(step.trigger == "assessment" for step in robot.steps[: first + 1]) >= 5
    assert robot.steps[first].reason == "5 good assessments in a row"
    factors = [step.speed_factor for step in robot.steps[first:] if step.level == "NOMINAL"]
    assert factors == sorted(factors), "loosening ramps"
    assert all(step.output == (0.0,) * 6 for step in robot.steps[:first])
    robot.until(lambda: axes(outputs[-1]) == (0.8, 0.0, 0.0, 0.0, 0.0, -0.4), "the whole command")


def test_a_command_passes_as_it_comes_and_one_that_is_not_finite_gives_zeros_at_once(robot: Robot) -> None:
    robot.gate()
    with robot.feeding(lambda: robot.send(1.0)):
        robot.drive()
    with robot.feeding():
        for axis in (0.25, 0.125):
            robot.send(axis)
            robot.until(lambda axis=axis: robot.steps[-1].command == (axis, 0, 0, 0, 0, 0), "the command")
            step = next(step for step in robot.steps if step.command == (axis, 0, 0, 0, 0, 0))
            assert step.trigger == "command", "no tick was waited for"
            assert step.output == step.command
            robot.spin(0.05)
        outputs = robot.hear(Twist, OUTPUTS)
        robot.until(lambda: any(moves(outputs)), "motion")
        for bad in (math.nan, math.inf):
            robot.send(0.5)
            robot.until(lambda: robot.steps[-1].command, "a command")
            robot.send(0.5, bad)
            robot.until(lambda: robot.steps[-1].command is None, "no command")
            assert robot.steps[-1].output == (0.0,) * 6
            assert robot.steps[-1].level == "NOMINAL", "an idle robot is no fault"
            robot.until(lambda: not any(axes(outputs[-1])), "zeros")


def test_reverse_and_rotation_are_scaled_alike_and_keep_their_sign(robot: Robot) -> None:
    robot.gate(slow_budget_s=60.0)
    command = (-0.6, 0.2, 0.0, 0.0, 0.0, -1.0)
    limit = robot.limits()["total"]
    over = {**robot.scores, "total": 0.5 * (limit.slow + limit.handoff)}
    with robot.feeding(lambda: robot.send(*command)):
        robot.drive()
    with robot.feeding(lambda: robot.send(*command), scores=over):
        robot.until(lambda: robot.steps[-1].level == "SLOW" and any(robot.steps[-1].output), "SLOW")
        step = robot.steps[-1]
    assert 0.0 < step.speed_factor < 1.0
    assert step.output == pytest.approx(tuple(step.speed_factor * axis for axis in command))


def test_a_silent_monitor_gives_zeros_before_its_evidence_is_half_a_second_old(robot: Robot) -> None:
    outputs = robot.hear(Twist, OUTPUTS)
    robot.gate()
    with robot.feeding(lambda: robot.send(0.5)):
        robot.drive()
    newest = max(step.now_s for step in robot.steps if step.trigger == "assessment")
    sending = robot.node.create_timer(0.05, lambda: robot.send(0.5))
    step = robot.until_level("HOLD")
    robot.node.destroy_timer(sending)
    assert step.reason == "no assessment of the last 0.3 s"
    assert not any(step.output)
    # What the machine itself was late is its own affair.
    assert step.now_s - newest <= 0.3 + 0.05 + step.late_ms * 1e-3 + 0.01
    robot.until(lambda: not any(axes(outputs[-1])), "zeros")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_gets_a_last_zero_out_while_driving(robot: Robot, number: signal.Signals) -> None:
    outputs = robot.hear(Twist, OUTPUTS)
    process = robot.gate()
    with robot.feeding(lambda: robot.send(0.5)):
        robot.drive()
        robot.until(lambda: any(axes(outputs[-1])), "motion")
        process.send_signal(number)
    robot.until(lambda: process.poll() is not None, "its end")
    robot.spin(0.2)
    assert process.returncode == 0
    assert any(moves(outputs))
    assert not any(axes(outputs[-1]))
    assert "the gate is being stopped" in robot.log()


def test_a_stop_survives_a_kill_and_is_left_only_by_an_acknowledgement_in_clear_conditions(robot: Robot) -> None:
    process = robot.gate(handoff_to_stop_s=0.2)
    with robot.feeding(lambda: robot.send(0.5)):
        robot.drive()
    over = {**robot.scores, "density": 2.0 * robot.limits()["density"].handoff}
    with robot.feeding(lambda: robot.send(0.5), scores=over):
        robot.until_level("STOP")
        answer = acknowledge(robot)
        assert not answer.success
        assert "not clear" in answer.message
        robot.spin(0.3)  # for the disk
    ended(process, signal.SIGKILL)
    robot.spin(0.1)
    robot.steps.clear()
    robot.gate(handoff_to_stop_s=0.2, standstill_s=0.5)
    with robot.feeding(lambda: robot.send(0.5)):
        robot.spin(0.5)
        assert {step.level for step in robot.steps} == {"STOP"}
        assert not any(any(step.output) for step in robot.steps)
        robot.until(lambda: robot.steps[-1].standstill, "standstill")
        # The answer may be lost while the killed gate is still known: what was decided tells.
        acknowledge(robot)
        robot.drive()
        left = next(index for index, step in enumerate(robot.steps) if step.level != "STOP")
        assert robot.steps[left].acknowledged
        assert robot.steps[left].level == "HOLD"
        assert acknowledge(robot).message == "there is nothing to acknowledge in NOMINAL"


def test_a_state_file_that_cannot_be_read_is_a_stop(robot: Robot) -> None:
    (robot.folder / "gate.state").write_text("what is this")
    robot.gate(standstill_s=0.5)
    states = robot.hear(DiagnosticStatus, STATE, LATCHED)
    with robot.feeding(lambda: robot.send(0.5)):
        robot.until(lambda: states, "the state, which a late joiner gets too")
        robot.until(lambda: robot.steps[-1].standstill, "standstill")
        assert {step.level for step in robot.steps} == {"STOP"}
        answer = acknowledge(robot)
        assert (answer.success, answer.message) == (True, "STOP is left: HOLD")
        robot.drive()
    assert states[0].level == DiagnosticStatus.ERROR
    assert "cannot be used" in states[0].message


def test_it_ticks_and_drives_under_sim_time_without_a_clock(robot: Robot) -> None:
    robot.gate(use_sim_time=True)
    with robot.feeding(lambda: robot.send(0.5)):
        robot.drive()
    step = robot.until_level("HOLD")
    assert not any(step.output)


def test_evidence_that_is_none_of_its_own_holds_it_with_the_reason(robot: Robot) -> None:
    robot.gate()
    with robot.feeding(lambda: robot.send(0.5)):
        robot.drive()
    with robot.feeding(bundle="0" * 64):
        step = robot.until_level("HOLD")
    assert step.reason.startswith("assessed by the bundle 000000000000")
    with robot.feeding(lambda: robot.send(0.5)):
        robot.drive()
    robot.publisher(DiagnosticArray, ASSESSMENTS).publish(DiagnosticArray(status=[DiagnosticStatus()]))
    step = robot.until_level("HOLD")
    assert step.reason == "the assessment lacks sequence"
    with robot.feeding(lambda: robot.send(0.5)):
        robot.drive()
    robot.assess(scores={**robot.scores, "total": math.nan})
    assert robot.until_level("HOLD").reason == "not finite: total"


def test_people_take_control_give_it_back_and_set_a_bypass(robot: Robot) -> None:
    locks = robot.hear(Bool, f"{GATE}/lock")
    robot.gate(bypass_factor=0.25)
    with robot.feeding(lambda: robot.send(0.8)):
        robot.drive()
        robot.until(lambda: len(locks) > 3, "locks")
        assert not any(lock.data for lock in locks)
        answer = ask(robot, "take_control", True)
        assert answer.success
        assert answer.message.startswith("a human has control")
        robot.until(lambda: locks[-1].data, "a lock")
        assert ask(robot, "take_control", True).message == "a human already has control"
        answer = ask(robot, "set_bypass", True)
        assert not answer.success
        assert answer.message == "a human has control: give it back first"
        assert not any(robot.steps[-1].output)
        assert "a human has control" in acknowledge(robot).message
        assert ask(robot, "take_control", False).success
        robot.until(lambda: not locks[-1].data, "no lock")
        assert not ask(robot, "take_control", False).message.startswith("given back")
        robot.drive()
    sending = robot.node.create_timer(0.05, lambda: robot.send(0.8))
    assert robot.until_level("HOLD")
    answer = ask(robot, "set_bypass", True)
    assert answer.success
    assert answer.message == "up to 0.25 of a command passes for 30 s"
    robot.until(lambda: any(robot.steps[-1].output), "motion")
    assert robot.steps[-1].output[0] == pytest.approx(0.2)
    assert ask(robot, "set_bypass", False).success
    robot.until(lambda: not any(robot.steps[-1].output), "none")
    robot.node.destroy_timer(sending)


def test_parameters_refuse_nonsense_and_a_change_falls_back_to_hold(robot: Robot) -> None:
    robot.gate()
    with robot.feeding(lambda: robot.send(0.5)):
        robot.drive()
        for values, reason in (
            ({"slow_votes": 6}, "slow_votes at most slow_window"),
            ({"assessment_timeout_s": 0.9}, "out of range"),
            ({"command_timeout_s": math.nan}, "out of range"),
            ({"camera_rate_hz": 2.0}, "out of range"),
            ({"threshold__total__slow": 9.0}, "read-only"),
            ({"rate_hz": 30.0}, "read-only"),
            ({"bundle": "another"}, "read-only"),
        ):
            result = set_parameters(robot, **values)
            assert not result.successful, values
            assert reason in result.reason
        robot.spin(0.1)
        assert robot.steps[-1].level == "NOMINAL"
        robot.told.clear()
        assert set_parameters(robot, slow_votes=6, slow_window=8, command_timeout_s=0.4).successful
        robot.until_level("HOLD")
        robot.until(lambda: any(isinstance(message, Opening) for message in robot.told), "what it runs with")
        opening = next(message for message in robot.told if isinstance(message, Opening))
        assert (opening.parameters["slow_votes"], opening.parameters["command_timeout_s"]) == ("6", "0.4")
        robot.drive()


def test_parameters_are_described_and_thresholds_shown(robot: Robot) -> None:
    robot.gate()
    names = robot.call(ListParameters, f"{GATE}/list_parameters", ListParameters.Request()).result.names
    described = robot.call(DescribeParameters, f"{GATE}/describe_parameters", DescribeParameters.Request(names=names))
    own = [d for d in described.descriptors if d.name not in ("use_sim_time", "start_type_description_service")]
    assert all(descriptor.description for descriptor in own)
    assert all(len(d.floating_point_range) + len(d.integer_range) == 1 for d in own if d.name.endswith(("_s", "_hz")))
    shown = [name for name in names if name.startswith("threshold.")]
    answer = robot.call(GetParameters, f"{GATE}/get_parameters", GetParameters.Request(names=shown))
    expected = {f"threshold.{name}.{which}": getattr(at, which) for name, at in robot.limits().items()
                for which in ("slow", "handoff")}  # fmt: skip
    assert {n: v.double_value for n, v in zip(shown, answer.values, strict=True)} == expected


def test_a_second_publisher_on_its_output_holds_it_and_one_more_commander_is_a_warning(robot: Robot) -> None:
    diagnostics = robot.hear(DiagnosticArray, "/diagnostics")
    robot.gate()
    with robot.feeding(lambda: robot.send(0.5)):
        robot.drive()
        stranger = robot.node.create_publisher(Twist, OUTPUTS, 1)
        assert robot.until_level("HOLD").reason.startswith("/robot also publishes on /cmd_vel_out")
        robot.node.destroy_publisher(stranger)
        robot.drive()
        robot.node.create_publisher(Twist, topics.CMD_VEL_IN.name, 1)
        robot.until(lambda: "2 nodes publish on /cmd_vel_in" in diagnostics[-1].status[0].message, "a warning")
        assert diagnostics[-1].status[0].level == DiagnosticStatus.WARN
        assert robot.steps[-1].level == "NOMINAL"


def test_a_publisher_that_does_not_fit_and_one_that_goes_are_logged(robot: Robot) -> None:
    robot.gate()
    fits = robot.node.create_publisher(Twist, topics.CMD_VEL_IN.name, 10)
    robot.until(lambda: fits.get_subscription_count(), "a match")
    robot.spin(1.2)
    robot.node.destroy_publisher(fits)
    robot.until(lambda: "nobody publishes on /cmd_vel_in any more" in robot.log(), "a line")
    from rclpy.qos import ReliabilityPolicy

    best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    robot.node.create_publisher(Twist, topics.CMD_VEL_IN.name, best_effort)
    robot.until(lambda: "nothing is received on /cmd_vel_in from /robot: its QoS does not fit" in robot.log(), "a line")


def test_its_heart_beats_for_whoever_asks_for_the_deadline_and_the_liveliness(robot: Robot) -> None:
    beats = robot.hear(Bool, f"{GATE}/heartbeat", topics.HEARTBEAT.qos)
    robot.gate()
    robot.until(lambda: len(beats) > 5, "beats")


def test_a_log_that_nobody_reads_does_not_stop_the_ticks(robot: Robot) -> None:
    outputs = robot.hear(Twist, OUTPUTS)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writer, True)
    robot.start("ros-gate", MASKS, stderr=writer)
    robot.hear_steps()
    with robot.feeding(lambda: robot.send(0.5)):
        robot.drive()  # a transition was logged by now
    robot.until_level("HOLD")
    already = len(outputs)
    robot.until(lambda: len(outputs) > already + 40, "zeros")
    assert not any(moves(outputs[already + 20 :]))
    os.close(reader)
    os.close(writer)
