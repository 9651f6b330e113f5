"""Every check of the doctor, on observations that are written down here."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_bdl_firmware.doctor import observation as seen
from edge_bdl_firmware.doctor.base_timeout import LONGEST_STOP_S, base_timeout, moving_speed
from edge_bdl_firmware.doctor.bypass import base_publishers, ungated
from edge_bdl_firmware.doctor.checks import CHECKS, Result, examine, passed
from edge_bdl_firmware.doctor.clocks import sim_time, stamps
from edge_bdl_firmware.doctor.endpoints import endpoints
from edge_bdl_firmware.doctor.finding import Finding, fail, ok, skipped, warn
from edge_bdl_firmware.doctor.gate_state import gate, lock
from edge_bdl_firmware.doctor.observation import Drive, Endpoint, Mismatch, Motion, Observation, Stream, Topic
from edge_bdl_firmware.doctor.qos import qos
from edge_bdl_firmware.doctor.rates import rates
from edge_bdl_firmware.doctor.report import facts, text
from edge_bdl_firmware.doctor.second_publishers import second_publishers

TWIST = "geometry_msgs/msg/Twist"
TYPES = {
    seen.IMAGE: "sensor_msgs/msg/Image",
    seen.IMAGE_COMPRESSED: "sensor_msgs/msg/CompressedImage",
    seen.ASSESSMENT: "diagnostic_msgs/msg/DiagnosticArray",
    seen.CMD_VEL_IN: TWIST,
    seen.CMD_VEL_OUT: TWIST,
    seen.STATE: "diagnostic_msgs/msg/DiagnosticStatus",
    seen.HEARTBEAT: "std_msgs/msg/Bool",
    seen.LOCK: "std_msgs/msg/Bool",
    seen.DIAGNOSTICS: "diagnostic_msgs/msg/DiagnosticArray",
    seen.CLOCK: "rosgraph_msgs/msg/Clock",
}
GATE, GUARD, MONITOR = "/edge_bdl_gate", "/edge_bdl_guard", "/edge_bdl_monitor"


def steady(rate_hz: float, seconds: float = 5.0) -> Stream:
    return Stream(tuple(index / rate_hz for index in range(int(seconds * rate_hz))), seconds)


def topic(
    name: str, publishers: str = "", subscribers: str = "", kind: str | None = None, stream: Stream | None = None
) -> Topic:
    kind = TYPES.get(name, TWIST) if kind is None else kind
    ends = [tuple(Endpoint(node, kind) for node in nodes.split()) for nodes in (publishers, subscribers)]
    return Topic(name if name.startswith("/") else f"/{name}", *ends, stream=stream)


def sound(**topics: Topic) -> Observation:
    """A chain as it should be: controller -> gate -> /cmd_vel_out -> twist_mux -> /cmd_vel -> base.

    Args:
        topics: Others in their place, by their constants' names.
    """
    all_topics = {
        "IMAGE": topic(seen.IMAGE, "/camera", MONITOR, stream=steady(20.0)),
        "IMAGE_COMPRESSED": topic(seen.IMAGE_COMPRESSED),
        "ASSESSMENT": topic(seen.ASSESSMENT, MONITOR, GATE, stream=steady(20.0)),
        "CMD_VEL_IN": topic(seen.CMD_VEL_IN, "/controller", GATE, stream=steady(20.0)),
        "CMD_VEL_OUT": topic(seen.CMD_VEL_OUT, f"{GATE} {GUARD}", "/twist_mux", stream=steady(20.0)),
        "STATE": topic(seen.STATE, GATE, stream=steady(1.0)),
        "HEARTBEAT": topic(seen.HEARTBEAT, GATE, GUARD, stream=steady(20.0)),
        "LOCK": topic(seen.LOCK, GATE, "/twist_mux", stream=steady(10.0)),
        "DIAGNOSTICS": topic(seen.DIAGNOSTICS, GATE, stream=steady(1.0)),
        "CLOCK": topic(seen.CLOCK),
        **topics,
    }
    base = all_topics.pop("BASE", topic("/cmd_vel", "/twist_mux", "/base"))
    more = {name: all_topics.pop(name) for name in list(all_topics) if name.startswith("/")}
    by_name = {getattr(seen, name): value for name, value in all_topics.items()}
    carriers = (by_name[seen.CMD_VEL_IN], by_name[seen.CMD_VEL_OUT], base, *more.values())
    return Observation(
        topics=by_name,
        velocities={carrier.name: carrier for carrier in carriers},
        odometers=frozenset({"/base"}),
        parameters={
            "edge_bdl_gate": {
                "use_sim_time": False, "camera_rate_hz": 20.0, "assessment_timeout_s": 0.3, "command_timeout_s": 0.5,
            },
            "edge_bdl_monitor": {"use_sim_time": False},
        },
        stamp_ages_s=(0.01, 0.02, 0.03),
        state={"level": "NOMINAL", "reason": "fine", "bypass": "False"},
        lock=False,
    )  # fmt: skip


def changed(**fields: Any) -> Observation:
    return msgspec.structs.replace(sound(), **fields)


def worst(findings: Any) -> Finding:
    order = ("ok", "skipped", "warn", "fail")
    return max(findings, key=lambda finding: order.index(finding.status))


def test_a_sound_system_passes_and_only_the_drive_is_skipped() -> None:
    results = examine(sound())
    assert [result.check for result in results] == list(CHECKS)
    statuses = {result.check: worst(result.findings).status for result in results}
    assert statuses.pop("base-timeout") == "skipped"
    assert set(statuses.values()) == {"ok"}
    assert passed(results)


def test_whatever_is_missing_every_check_answers_and_something_fails() -> None:
    nothing = Observation(topics={name: topic(name) for name in seen.WATCHED})
    results = examine(nothing)
    assert all(result.findings for result in results)
    assert not passed(results)
    for result in results:
        for finding in result.findings:
            assert finding.found
            assert finding.remedy or finding.status in ("ok", "skipped")


# --- endpoints ---


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"IMAGE": topic(seen.IMAGE, "", MONITOR)}, "nobody publishes /image"),
        ({"IMAGE": topic(seen.IMAGE, "/camera")}, "nobody subscribes to /image"),
        ({"ASSESSMENT": topic(seen.ASSESSMENT, MONITOR)}, "nobody subscribes to /edge_bdl_monitor/assessment"),
        ({"CMD_VEL_OUT": topic(seen.CMD_VEL_OUT, GATE)}, "nobody subscribes to /cmd_vel_out"),
        ({"LOCK": topic(seen.LOCK)}, "nobody publishes /edge_bdl_gate/lock"),
        ({"HEARTBEAT": topic(seen.HEARTBEAT, GATE, GUARD, "std_msgs/msg/Int32")}, "is used with std_msgs/msg/Int32"),
        (
            {"CMD_VEL_IN": topic(seen.CMD_VEL_IN, "/controller", GATE, "geometry_msgs/msg/TwistStamped")},
            "of several types",
        ),
    ],
)
def test_an_end_that_lacks_or_speaks_another_type_fails(change: Mapping[str, Topic], words: str) -> None:
    assert worst(endpoints(sound())).status == "ok"
    finding = worst(endpoints(sound(**change)))
    assert finding.status == "fail"
    assert words in finding.found


def test_either_image_topic_will_do() -> None:
    compressed = topic(seen.IMAGE_COMPRESSED, "/camera", MONITOR, stream=steady(20.0))
    observation = sound(IMAGE=topic(seen.IMAGE), IMAGE_COMPRESSED=compressed)
    assert observation.camera == seen.IMAGE_COMPRESSED
    assert worst(endpoints(observation)).status == "ok"
    # A driver publishes both; the monitor takes one.
    both = sound(IMAGE=topic(seen.IMAGE, "/camera"), IMAGE_COMPRESSED=compressed)
    assert both.camera == seen.IMAGE_COMPRESSED


def test_without_a_guard_a_person_should_know() -> None:
    assert worst(endpoints(sound(HEARTBEAT=topic(seen.HEARTBEAT, GATE)))).status == "warn"


# --- qos ---


def test_pairs_that_are_not_connected_fail_on_our_topics_and_behind_the_gate() -> None:
    apart = (Mismatch("/twist_mux", "/base", "best effort publisher and reliable subscription"),)
    observation = sound(BASE=msgspec.structs.replace(topic("/cmd_vel", "/twist_mux", "/base"), mismatches=apart))
    (finding,) = qos(observation)
    assert finding.status == "fail"
    assert "/cmd_vel: /base receives nothing from /twist_mux: best effort" in finding.found
    elsewhere = msgspec.structs.replace(topic("/turtle/cmd_vel", "/a", "/b"), mismatches=apart)
    assert worst(qos(sound(**{"/turtle/cmd_vel": elsewhere}))).status == "ok"


# --- rates ---


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"IMAGE": topic(seen.IMAGE, "/camera", MONITOR, stream=steady(5.0))}, "fail"),  # 2 frames in 0.3 s: 6.7 Hz
        ({"IMAGE": topic(seen.IMAGE, "/camera", MONITOR, stream=steady(10.0))}, "warn"),  # below camera_rate_hz
        ({"IMAGE": topic(seen.IMAGE, "/camera", MONITOR, stream=steady(30.0))}, "ok"),
        ({"IMAGE": topic(seen.IMAGE, "/camera", MONITOR)}, "skipped"),
        ({"ASSESSMENT": topic(seen.ASSESSMENT, MONITOR, GATE, stream=steady(3.0))}, "fail"),
        ({"CMD_VEL_IN": topic(seen.CMD_VEL_IN, "/controller", GATE, stream=steady(2.0))}, "fail"),
        ({"CMD_VEL_IN": topic(seen.CMD_VEL_IN, "/controller", GATE, stream=Stream((), 5.0))}, "warn"),
        ({"CMD_VEL_OUT": topic(seen.CMD_VEL_OUT, GATE, "/base", stream=steady(8.0))}, "fail"),
        ({"CMD_VEL_OUT": topic(seen.CMD_VEL_OUT, GATE, "/base", stream=Stream((), 5.0))}, "fail"),
        ({"CMD_VEL_OUT": topic(seen.CMD_VEL_OUT, GATE, "/base", stream=steady(10.0))}, "ok"),
        ({"HEARTBEAT": topic(seen.HEARTBEAT, GATE, GUARD, stream=steady(3.0))}, "fail"),
    ],
)
def test_rates_are_held_against_what_the_gate_needs(change: Mapping[str, Topic], status: str) -> None:
    assert worst(rates(sound(**change))).status == status


def test_a_pause_in_a_good_rate_is_mentioned() -> None:
    times_s = tuple(time_s for index in range(100) if not 1.0 < (time_s := index / 20) < 1.5)
    gappy = topic(seen.CMD_VEL_OUT, GATE, "/base", stream=Stream(times_s, 5.0))
    finding = worst(rates(sound(CMD_VEL_OUT=gappy)))
    assert finding.status == "warn"
    assert "paused for 0.50 s" in finding.found


def test_a_stream_that_ceased_has_half_its_rate_and_a_gap_to_the_end() -> None:
    stream = Stream(tuple(index / 10 for index in range(26)), 5.0)
    assert stream.rate_hz == pytest.approx(5.0)
    assert stream.longest_gap_s == pytest.approx(2.5)
    assert (Stream((), 5.0).rate_hz, Stream((), 5.0).longest_gap_s) == (0.0, 0.0)
    assert Stream((1.0,), 5.0).rate_hz == 0.0


def test_a_slower_camera_passes_a_gate_that_was_told_so() -> None:
    slow = sound(
        IMAGE=topic(seen.IMAGE, "/camera", MONITOR, stream=steady(5.0)),
        ASSESSMENT=topic(seen.ASSESSMENT, MONITOR, GATE, stream=steady(5.0)),
    )
    told = {"edge_bdl_gate": {"camera_rate_hz": 5.0, "assessment_timeout_s": 0.3}}
    assert worst(rates(slow)).status == "fail"
    assert worst(rates(msgspec.structs.replace(slow, parameters=told))).status == "ok"


# --- clocks ---


@pytest.mark.parametrize(
    ("ages_s", "status"),
    [
        ((0.02, 0.03), "ok"),
        ((-0.05, 0.0), "ok"),
        ((-0.2, 0.02, 0.02), "fail"),
        ((0.5, 0.6), "fail"),
        ((0.02, 0.02, 0.5), "warn"),
        ((math.nan, 0.02), "fail"),
        ((math.nan,), "fail"),
        ((), "skipped"),
    ],
)
def test_stamps_are_judged_as_the_monitor_judges_them(ages_s: tuple[float, ...], status: str) -> None:
    assert worst(stamps(changed(stamp_ages_s=ages_s))).status == status


@pytest.mark.parametrize(
    ("gate_follows", "monitor_follows", "ticking", "status"),
    [
        (False, False, False, "ok"),
        (True, True, True, "ok"),
        (True, False, False, "fail"),
        (False, True, False, "fail"),
        (False, True, True, "warn"),
        (False, False, True, "warn"),
    ],
)
def test_sim_time_needs_a_clock(gate_follows: bool, monitor_follows: bool, ticking: bool, status: str) -> None:
    clock = topic(seen.CLOCK, "/simulator", stream=steady(50.0) if ticking else None)
    parameters = {
        "edge_bdl_gate": {"use_sim_time": gate_follows},
        "edge_bdl_monitor": {"use_sim_time": monitor_follows},
    }
    observation = msgspec.structs.replace(sound(CLOCK=clock), parameters=parameters)
    assert worst(sim_time(observation)).status == status


def test_a_clock_that_stands_still_is_none() -> None:
    clock = topic(seen.CLOCK, "/simulator", stream=Stream((), 5.0))
    parameters = {"edge_bdl_gate": {"use_sim_time": True}}
    assert worst(sim_time(msgspec.structs.replace(sound(CLOCK=clock), parameters=parameters))).status == "fail"


# --- ways around the gate ---


@pytest.mark.parametrize(
    ("publishers", "words"),
    [(f"{GATE} {GUARD} /joystick", "/joystick publishes"), (f"{GATE} {GATE}", "2 gates"), ("/a", "/a publishes")],
)
def test_others_beside_the_gate_fail(publishers: str, words: str) -> None:
    finding = worst(second_publishers(sound(CMD_VEL_OUT=topic(seen.CMD_VEL_OUT, publishers, "/base"))))
    assert finding.status == "fail"
    assert words in finding.found


@pytest.mark.parametrize(
    ("listener", "status"), [("/base", "fail"), ("/twist_mux", "fail"), ("/controller", "fail"), ("/display", "warn")]
)
def test_who_moves_the_base_must_not_listen_before_the_gate(listener: str, status: str) -> None:
    observation = sound(CMD_VEL_IN=topic(seen.CMD_VEL_IN, "/controller", f"{GATE} {listener}", stream=steady(20.0)))
    finding = worst(ungated(observation))
    assert finding.status == status
    assert listener in finding.found


def test_the_chain_is_followed_to_the_base_and_not_back_to_the_controller() -> None:
    feedback = topic(seen.CMD_VEL_OUT, GATE, "/twist_mux /controller")
    assert sound(CMD_VEL_OUT=feedback).chain == ("/cmd_vel_out", "/cmd_vel")
    round_trip = {"/loop": topic("/loop", "/base", "/twist_mux")}
    assert sound(**round_trip).chain == ("/cmd_vel_out", "/cmd_vel", "/loop")
    assert sound().followers == {"/twist_mux", "/base"}


def test_who_commands_behind_the_gate_without_listening_to_it_fails() -> None:
    finding = worst(base_publishers(sound(BASE=topic("/cmd_vel", "/twist_mux /rogue", "/base"))))
    assert finding.status == "fail"
    assert "/rogue commands the base on /cmd_vel" in finding.found
    joystick = {"/joy_vel": topic("/joy_vel", "/joystick", "/twist_mux")}
    assert worst(base_publishers(sound(**joystick))).status == "ok", "twist_mux has other inputs, on purpose"


def test_a_base_topic_that_the_gate_does_not_reach_fails_with_who_commands_it() -> None:
    wheels = topic("/wheels", "/rogue", "/base")
    observation = msgspec.structs.replace(sound(**{"/wheels": wheels}), base_topic="/wheels")
    texts = [finding.found for finding in base_publishers(observation)]
    assert texts == [
        "what the gate lets pass on /cmd_vel_out does not reach /wheels",
        "/rogue commands the base on /wheels, past the gate",
    ]
    assert worst(base_publishers(msgspec.structs.replace(sound(), base_topic="/cmd_vel"))).status == "ok"


# --- the gate ---


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (None, "fail"),
        ({"level": "NOMINAL", "reason": "r", "bypass": "False"}, "ok"),
        ({"level": "SLOW", "reason": "r", "bypass": "False"}, "warn"),
        ({"level": "HOLD", "reason": "r", "bypass": "False"}, "fail"),
        ({"level": "HANDOFF", "reason": "r", "bypass": "False"}, "fail"),
        ({"level": "STOP", "reason": "r", "bypass": "False"}, "fail"),
        ({"level": "NOMINAL", "reason": "r", "bypass": "True"}, "fail"),
        ({}, "fail"),
    ],
)
def test_the_gate_must_let_pass_and_judge(state: Mapping[str, str] | None, status: str) -> None:
    assert worst(gate(changed(state=state))).status == status


def test_the_remedy_names_the_service_of_this_gate() -> None:
    observation = changed(
        state={"level": "STOP", "reason": "held too long", "bypass": "False"},
        topics={**sound().topics, seen.STATE: Topic("/robot/edge_bdl_gate/state")},
    )
    (finding,) = gate(observation)
    assert "held too long" in finding.found
    assert "/robot/edge_bdl_gate/acknowledge" in finding.remedy


@pytest.mark.parametrize(("said", "status"), [(False, "ok"), (True, "fail"), (None, "fail")])
def test_the_lock_must_be_said_and_be_false(said: bool | None, status: str) -> None:
    (finding,) = lock(changed(lock=said))
    assert finding.status == status


# --- the base's timeout ---


def stopping(after_s: float, until_s: float = 2.0, rate_hz: float = 50.0, **fields: Any) -> Observation:
    """A drive of 0.3 s at 0.1 m/s whose last command is at 0.3 s, and whose base stops so long after it."""
    times_s = [index / rate_hz for index in range(round(until_s * rate_hz) + 1)]
    end_s = 0.3 + after_s
    motions = tuple(
        Motion(time_s, 0.1 if 0.05 < time_s <= end_s else 0.001, 0.1 * min(time_s, end_s)) for time_s in times_s
    )
    plan = {"topic": "/cmd_vel", "through_gate": False, "speed": 0.1, "last_command_s": 0.3, "motions": motions}
    return changed(drive=Drive(**{**plan, **fields}))


@pytest.mark.parametrize(("after_s", "status"), [(0.0, "ok"), (0.5, "ok"), (0.9, "ok"), (1.1, "fail"), (9.0, "fail")])
def test_a_base_must_stand_within_a_second_of_silence(after_s: float, status: str) -> None:
    (finding,) = base_timeout(stopping(after_s))
    assert finding.status == status


def test_time_and_way_to_stand_are_those_of_the_motion() -> None:
    (finding,) = base_timeout(stopping(0.5))
    # 0.5 s at 0.1 m/s.
    assert "stopped 0.50 s after the last command on /cmd_vel, 0.050 m further" in finding.found
    (gated,) = base_timeout(stopping(0.5, through_gate=True))
    assert "the base's own timeout shows only without the gate" in gated.found


@pytest.mark.parametrize(
    ("observation", "words"),
    [
        (stopping(0.5, until_s=1.0), "odometry ceased"),
        (stopping(0.5, motions=(Motion(0.0, 0.0), Motion(2.0, 0.0))), "did not move"),
        (stopping(0.5, refusal="others send"), "not moved: others send"),
        (stopping(0.5, motions=(Motion(0.1, 0.1), Motion(2.0, math.inf))), "still moves"),
    ],
)
def test_what_was_not_shown_is_not_passed(observation: Observation, words: str) -> None:
    (finding,) = base_timeout(observation)
    assert finding.status == "fail"
    assert words in finding.found


def test_noise_of_odometry_is_no_motion() -> None:
    assert moving_speed(0.05) == 0.01
    assert moving_speed(1.0) == pytest.approx(0.1)
    assert LONGEST_STOP_S == 1.0


# --- report ---

RESULTS = (
    Result("qos", (ok("fits"),)),
    Result("gate", (fail("STOP", "acknowledge"), warn("slow", "look"))),
    Result("base-timeout", (skipped("not moved"),)),
)


def test_text_is_aligned_says_what_to_do_and_counts() -> None:
    lines = text(RESULTS).splitlines()
    column = lines[0].index("fits")
    assert [line[column:] for line in lines[1:-1]] == ["STOP", "-> acknowledge", "slow", "-> look", "not moved"]
    assert lines[-1] == "1 failed; 1 warnings, 1 skipped"
    assert text(RESULTS[:1]).splitlines()[-1] == "all good; 0 warnings, 0 skipped"


def test_facts_are_one_object_with_all_findings() -> None:
    decoded = json.loads(msgspec.json.encode(facts(RESULTS)))
    assert decoded["good"] is False
    assert decoded["checks"]["gate"][0] == {"status": "fail", "found": "STOP", "remedy": "acknowledge"}
    assert list(decoded["checks"]) == ["qos", "gate", "base-timeout"]


def test_names_are_those_of_the_nodes() -> None:
    """Without importing rclpy: the file that only ROS can import says the same names."""
    import edge_bdl_firmware

    source = (Path(edge_bdl_firmware.__file__).parent / "ros" / "topics.py").read_text()
    for name in (seen.MONITOR_NODE, seen.GATE_NODE, seen.GUARD_NODE, seen.IMAGE, seen.CMD_VEL_IN, seen.CMD_VEL_OUT):
        assert f'"{name}"' in source
    for name in (seen.ASSESSMENT, seen.STATE, seen.HEARTBEAT, seen.LOCK):
        assert f'"~/{name.partition("/")[2]}"' in source
