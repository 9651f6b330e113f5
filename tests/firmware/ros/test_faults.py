"""The fault campaign in short: some faults on the real processes, and what its verdicts find in a run gone wrong."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from edge_bdl.policy_spec import PolicySpec, Score, Thresholds
from edge_bdl_firmware.messages import Assessment, Step

pytest.importorskip("rclpy", reason="needs the extra ros")
pytest.importorskip("rich", reason="the campaign's table needs rich, from the extra train")

sys.path.insert(0, str(Path(__file__).parents[3] / "tools" / "bench"))

from fault_campaign.base import Velocity, travel
from fault_campaign.fault import Fault
from fault_campaign.report import upper_bound
from fault_campaign.robot import Log
from fault_campaign.verdicts import detected_ms, violations, ways

ROOT = Path(__file__).parents[3]
BENCH = ROOT / "tools" / "bench"
BUNDLE = ROOT / "demo" / "carracing.ebdl"
SHORT = ("image stops", "NaN score", "monitor SIGKILL", "gate SIGKILL", "restart in the middle of HANDOFF")

FORWARD = (0.5, 0.0, 0.0, 0.0, 0.0, 0.2)
SLOWER = (0.4, 0.0, 0.0, 0.0, 0.0, 0.2)
ZERO = (0.0,) * 6
SPEC = PolicySpec(scores=(Score(name="epistemic", reduction="max", thresholds={4: Thresholds(slow=1.0, handoff=2.0)}),))
FAULT_S, END_S = 1.0, 2.0
FAULT = Fault(lambda run: None, frozenset({"HOLD"}), stop_s=0.5, bad_evidence=True)


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the campaign says of a run of each of the few faults."""
    if not BUNDLE.is_dir():
        pytest.skip(f"needs {BUNDLE}: make it with tools/demo --quick")
    if importlib.util.find_spec("Box2D") is None:
        pytest.skip("needs the extra carracing")
    out = tmp_path_factory.mktemp("faults") / "reports.json"
    command = [sys.executable, str(BENCH / "faults.py"), "--runs", "1", "--jobs", "1", "--bundle", str(BUNDLE)]
    environment = {**os.environ, "ROS_LOG_DIR": str(out.parent)}
    done = subprocess.run(
        [*command, "--json", str(out), "--only", *SHORT], env=environment, capture_output=True, text=True, timeout=240
    )
    assert out.exists(), done.stderr
    return {report["fault"]: report for report in json.loads(out.read_bytes())["reports"]}


@pytest.mark.parametrize("name", SHORT)
def test_the_robot_stops_in_time_and_nothing_happens_that_must_never_happen(reports: dict[str, Any], name: str) -> None:
    (outcome,) = reports[name]["outcomes"]

    assert outcome["violations"] == []
    assert outcome["detected_ms"] is not None
    assert 0.0 < outcome["metres"]["holds"] < outcome["bound_m"]


def assessment(received_s: float, value: float = 0.1, fault: str | None = None) -> Assessment:
    return Assessment(
        sequence=round(received_s * 25),
        stamp_ns=1,
        received_s=received_s,
        boot_id="here",
        bundle="ours",
        scores={"epistemic": value},
        samples=4,
        fault=fault,
    )


def step(now_s: float, level: str, **more: Any) -> Step:
    output = FORWARD if level == "NOMINAL" else ZERO
    usual = {"trigger": "tick", "speed_factor": 1.0, "reason": "", "command": FORWARD, "output": output}
    return Step(now_s=now_s, level=level, sequence=round(now_s * 20), **usual | more)


def times(begin_s: float, end_s: float, rate_hz: float) -> Iterator[float]:
    return (begin_s + index / rate_hz for index in range(round((end_s - begin_s) * rate_hz)))


def sound_run() -> Any:
    """Commands all the time; images until the fault, and 0.3 s later HOLD and zeros."""
    log = Log()
    log.inputs = [Velocity(time_s, FORWARD) for time_s in times(-1.0, END_S, 20)]
    log.outputs = [Velocity(now_s + 0.01, FORWARD if now_s < 1.3 else ZERO) for now_s in times(0.0, END_S, 20)]
    log.assessments = [(now_s + 0.01, assessment(now_s)) for now_s in times(-1.0, FAULT_S, 25)]
    log.steps = [step(now_s, "NOMINAL" if now_s < 1.3 else "HOLD") for now_s in times(0.0, END_S, 20)]
    return SimpleNamespace(
        log=log,
        violations=[],
        begin_s=0.0,
        fault_s=FAULT_S,
        end_s=END_S,
        calm_s=END_S,
        final_level="HOLD",
        harness=SimpleNamespace(spec=SPEC),
    )


def test_a_sound_run_has_no_violations_and_is_measured() -> None:
    run = sound_run()

    assert violations(run, FAULT) == []
    assert detected_ms(run) == pytest.approx(310.0)
    assert ways(run)["holds"].metres == pytest.approx(0.5 * 0.31)
    assert ways(run)["holds"].radians == pytest.approx(0.2 * 0.31)


def test_commands_that_dds_delivered_late_may_pass() -> None:
    run = sound_run()
    late_commands(run)

    assert violations(run, FAULT) == []
    assert detected_ms(run) == pytest.approx(310.0)


def replace_output(index: int, axes: tuple[float, ...]) -> Callable[[Any], None]:
    def change(run: Any) -> None:
        run.log.outputs[index] = run.log.outputs[index]._replace(axes=axes)

    return change


def larger_than_its_command(run: Any) -> None:
    replace_output(5, (0.51, 0.0, 0.0, 0.0, 0.0, 0.204))(run)


def other_sign(run: Any) -> None:
    replace_output(5, (-0.1, 0.0, 0.0, 0.0, 0.0, -0.04))(run)


def one_axis_scaled_alone(run: Any) -> None:
    replace_output(5, (0.25, 0.0, 0.0, 0.0, 0.0, 0.2))(run)


def replace_steps(begin: int, end: int, **changes: Any) -> Callable[[Any], None]:
    """Steps and the outputs that came from them."""

    def change(run: Any) -> None:
        for index in range(begin, end):
            run.log.steps[index] = changed = msgspec.structs.replace(run.log.steps[index], **changes)
            replace_output(index, changed.output)(run)

    return change


def not_the_steps_output(run: Any) -> None:
    replace_output(5, (0.25, 0.0, 0.0, 0.0, 0.0, 0.1))(run)


def step_that_scales_one_axis_alone(run: Any) -> None:
    replace_steps(5, 6, speed_factor=0.5, output=(0.25, 0.0, 0.0, 0.0, 0.0, 0.2))(run)


def step_that_doubles(run: Any) -> None:
    replace_steps(5, 6, output=(1.0, 0.0, 0.0, 0.0, 0.0, 0.4))(run)


def step_with_a_factor_of_two(run: Any) -> None:
    replace_steps(5, 6, speed_factor=2.0, output=(1.0, 0.0, 0.0, 0.0, 0.0, 0.4))(run)


def step_of_a_command_that_nobody_sent(run: Any) -> None:
    replace_steps(5, 6, command=SLOWER, output=SLOWER)(run)


def step_without_a_command(run: Any) -> None:
    replace_steps(5, 6, command=None)(run)


def step_of_a_command_of_long_ago(run: Any) -> None:
    """From 0.2 s on another command is sent, and 0.8 s later the gate still passes on the one before."""
    send_slower(run)
    replace_steps(21, 24, command=SLOWER, output=SLOWER)(run)


def step_that_goes_back(run: Any) -> None:
    send_slower(run)
    replace_steps(7, 8, command=SLOWER, output=SLOWER)(run)
    replace_steps(12, 26, command=SLOWER, output=SLOWER)(run)


def send_slower(run: Any) -> None:
    run.log.inputs = [sent._replace(axes=SLOWER) if sent.time_s > 0.2 else sent for sent in run.log.inputs]


def late_commands(run: Any) -> None:
    """DDS holds up for 0.45 s what is sent from 0.2 s on."""
    send_slower(run)
    replace_steps(14, 26, command=SLOWER, output=SLOWER)(run)


def late_commands_and_lost_steps(run: Any) -> None:
    late_commands(run)
    run.log.steps[10:13] = []


def not_finite(run: Any) -> None:
    replace_output(5, (float("nan"), 0.0, 0.0, 0.0, 0.0, 0.0))(run)


def no_command_for_long(run: Any) -> None:
    run.log.inputs = [sent for sent in run.log.inputs if sent.time_s < 0.0]


def nothing_sent(run: Any) -> None:
    run.log.outputs = [heard for heard in run.log.outputs if not 1.4 < heard.time_s < 1.9]


def drives_on(run: Any) -> None:
    run.log.outputs = [heard._replace(axes=FORWARD) for heard in run.log.outputs]


def nominal_on_bad_evidence(run: Any) -> None:
    run.log.steps = [step(before.now_s, "NOMINAL") for before in run.log.steps]


def nominal_on_an_invalid_assessment(run: Any) -> None:
    run.log.assessments.append((0.5, assessment(0.5, fault="the engine failed")))
    run.log.steps[10] = step(0.502, "NOMINAL", trigger="assessment", age_s=0.002)


def output_in_hold(run: Any) -> None:
    run.log.steps[-1] = msgspec.structs.replace(run.log.steps[-1], output=FORWARD)


def nominal_after_four_good_ones(run: Any) -> None:
    run.log.steps[0] = step(0.0, "HOLD")
    received_s, _ = run.log.assessments[22]  # of the five before the first step in NOMINAL the oldest
    run.log.assessments[22] = (received_s, assessment(received_s - 0.01, value=1.5))


def nominal_soon_after_hold(run: Any) -> None:
    run.log.steps[10] = step(0.5, "HOLD")  # the four before it were good as well, and do not count
    run.log.steps[11:14] = []
    run.log.steps[11] = step(0.7, "NOMINAL")
    run.log.assessments[37:40] = []  # frames of 0.48 to 0.56 s


def stop_left_unasked(run: Any) -> None:
    run.log.steps[30:] = [step(1.5, "STOP"), step(1.55, "HOLD")]


def restarted_into_hold_from_handoff(run: Any) -> None:
    run.log.steps[30:] = [step(1.5, "HANDOFF"), step(1.9, "HOLD")]
    run.log.starts = [(1.7, "gate")]


def wrong_final_level(run: Any) -> None:
    run.final_level = "NOMINAL"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (larger_than_its_command, "no share of its command"),
        (other_sign, "no share of its command"),
        (one_axis_scaled_alone, "no share of its command"),
        (not_the_steps_output, "no share of its command"),
        (step_that_scales_one_axis_alone, "is not 0.5 of"),
        (step_that_doubles, "is not 1 of"),
        (step_with_a_factor_of_two, "is not 2 of"),
        (step_of_a_command_that_nobody_sent, "nobody sent in the last 0.65 s"),
        (step_of_a_command_of_long_ago, "nobody sent in the last 0.65 s"),
        (step_that_goes_back, "from an older command than before"),
        (step_without_a_command, "without a command"),
        (late_commands_and_lost_steps, "no share of its command"),
        (not_finite, "not finite"),
        (no_command_for_long, "motion without a fresh command"),
        (nothing_sent, "nothing was sent to the base"),
        (drives_on, "the base (holds) went"),
        (drives_on, "not zero"),
        (nominal_on_bad_evidence, "NOMINAL on evidence that is"),
        (nominal_on_bad_evidence, "s after the fault"),
        (nominal_on_an_invalid_assessment, "NOMINAL on invalid evidence: the engine failed"),
        (output_in_hold, "HOLD and an output of"),
        (nominal_after_four_good_ones, "NOMINAL after 4 good assessments"),
        (nominal_soon_after_hold, "NOMINAL after 3 good assessments"),
        (stop_left_unasked, "nobody had asked for it"),
        (stop_left_unasked, "conditions were not clear"),
        (restarted_into_hold_from_handoff, "the gate came up in HOLD"),
        (wrong_final_level, "it ended in NOMINAL, expected HOLD"),
    ],
)
def test_the_verdicts_see(monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Any], None], said: str) -> None:
    monkeypatch.setattr("fault_campaign.verdicts._MOST", 1000)
    run = sound_run()
    spoil(run)

    assert any(said in text for text in violations(run, FAULT))


def test_a_robot_that_must_drive_on_must_not_be_slowed() -> None:
    must_drive = Fault(lambda run: None, frozenset({"HOLD"}), must_drive=True)

    assert any("should not slow it" in text for text in violations(sound_run(), must_drive))


def test_a_base_goes_as_far_as_its_commands_say() -> None:
    commands = [Velocity(0.0, FORWARD), Velocity(1.0, ZERO), Velocity(1.5, FORWARD)]

    assert travel(commands, 0.0, 4.0).metres == pytest.approx(0.5 * (1.0 + 2.5))
    assert travel(commands, 0.0, 4.0, timeout_s=0.5).metres == pytest.approx(0.5 * (0.5 + 0.5))
    assert travel(commands, 0.25, 0.75).radians == pytest.approx(0.2 * 0.5)


def test_what_so_many_runs_without_violations_support() -> None:
    assert upper_bound(20) == pytest.approx(0.1391, abs=1e-4)
    assert upper_bound(800) == pytest.approx(0.00374, abs=1e-5)
    assert (1.0 - upper_bound(20)) ** 20 == pytest.approx(0.05)
