"""What a watcher makes of the messages: an old level is never shown as the present one."""

from __future__ import annotations

import math
from typing import Any

import pytest

from edge_bdl_firmware.messages import Assessment, Frame, Opening, Step
from edge_bdl_firmware.watch.report import UNKNOWN, Reporter, ScoreReading, Spread

DIGEST, OTHER = "ab" * 32, "cd" * 32


def step(level: str = "NOMINAL", **changes: Any) -> Step:
    said = {"now_s": 0.0, "trigger": "tick", "speed_factor": 1.0, "reason": "good", "output": (0.5, 0.0)}
    return Step(**(said | {"level": level} | changes))


def assessment(sequence: int = 0, **changes: Any) -> Assessment:
    said = {"stamp_ns": 0, "received_s": 0.0, "boot_id": "boot", "bundle": DIGEST, "scores": {"epistemic": 0.1}}
    return Assessment(**(said | {"sequence": sequence, "samples": 16} | changes))


def opening(process: str = "gate", bundle: str = DIGEST, **parameters: str) -> Opening:
    return Opening(process=process, bundle=bundle, bundle_path="/b/pilot.ebdl", parameters=parameters)  # type: ignore[arg-type]


def test_before_anybody_spoke_nothing_is_known() -> None:
    reporter = Reporter()
    report = reporter.report(100.0)
    assert not reporter.anything
    assert (report.level, report.last_level, report.speed_factor) == (UNKNOWN, None, None)
    assert report.silent_s == {"gate": math.inf, "frames": math.inf, "monitor": math.inf}
    assert report.stages_ms == {}
    assert (report.scores, report.frames_per_s, report.dropped, report.bundle) == ((), 0.0, 0, "")


def test_a_step_says_how_things_stand() -> None:
    reporter = Reporter()
    reporter.hear(
        step("SLOW", speed_factor=0.5, reason="why", bypass=True, human_in_control=True, command=(1.0, 0.0)), 10.0
    )
    report = reporter.report(10.1)
    assert (report.level, report.speed_factor, report.reason) == ("SLOW", 0.5, "why")
    assert (report.command, report.output) == ((1.0, 0.0), (0.5, 0.0))
    assert report.bypass
    assert report.human_in_control
    assert "gate" not in report.silent_s


@pytest.mark.parametrize(("after_s", "known"), [(0.0, True), (0.5, True), (0.51, False), (3600.0, False)])
def test_a_level_is_known_only_while_the_gate_speaks(after_s: float, known: bool) -> None:
    reporter = Reporter()
    reporter.hear(step("NOMINAL", bypass=True), 10.0)
    reporter.hear(opening("gate"), 10.0 + after_s)  # who opens but takes no steps has not spoken
    report = reporter.report(10.0 + after_s)
    assert report.level == ("NOMINAL" if known else UNKNOWN)
    assert report.last_level == "NOMINAL"
    assert report.bypass is known
    assert (report.speed_factor is not None, bool(report.output)) == (known, known)
    assert report.silent_s.get("gate") == (None if known else pytest.approx(after_s))


def test_a_monitor_that_lives_without_frames_is_told_from_one_that_is_gone() -> None:
    reporter = Reporter()
    reporter.hear(assessment(), 10.0)
    assert reporter.report(10.4).silent_s.keys() == {"gate"}
    reporter.hear(opening("monitor"), 11.0)
    report = reporter.report(12.0)
    assert report.silent_s == {"gate": math.inf, "frames": 2.0}
    assert report.scores == ()  # a score of two seconds ago says nothing of now
    assert reporter.report(13.0).silent_s == {"gate": math.inf, "frames": 3.0, "monitor": 2.0}


def test_scores_are_held_against_what_the_gate_says() -> None:
    reporter = Reporter()
    parameters = {
        "threshold.epistemic.slow": "0.25",
        "threshold.epistemic.handoff": "0.5",
        "threshold.density.slow": "inf",
        "threshold.density.handoff": "many",
    }
    reporter.hear(opening("gate", **parameters), 10.0)
    reporter.hear(assessment(scores={"epistemic": 0.3, "density": 7.0, "total": math.nan}), 10.0)
    epistemic, density, total = reporter.report(10.0).scores
    assert epistemic == ScoreReading(name="epistemic", value=0.3, slow=0.25, handoff=0.5)
    assert density == ScoreReading(name="density", value=7.0)
    assert (total.name, total.slow, total.handoff) == ("total", None, None)


@pytest.mark.parametrize(
    ("value", "slow", "handoff", "zone"),
    [
        (0.25, 0.25, 0.5, "ok"),  # a threshold is crossed above it, as in the policy
        (0.26, 0.25, 0.5, "SLOW"),
        (0.5, 0.25, 0.5, "SLOW"),
        (0.51, 0.25, 0.5, "HANDOFF"),
        (9.0, None, None, "ok"),
        (math.nan, 0.25, 0.5, "invalid"),
        (math.inf, None, None, "invalid"),
    ],
)
def test_a_score_asks_for_a_level(value: float, slow: float | None, handoff: float | None, zone: str) -> None:
    assert ScoreReading(name="s", value=value, slow=slow, handoff=handoff).zone == zone


def test_latencies_are_of_the_last_five_seconds() -> None:
    reporter = Reporter()
    for index, engine in enumerate((90.0, 1.0, 2.0, 9.0)):
        reporter.hear(assessment(index, stages_ms={"engine": engine, "all": engine + 1.0}), float(index))
        reporter.hear(step(late_ms=engine / 10.0), float(index))
    assert reporter.report(5.0).stages_ms["engine"] == Spread(5.5, 90.0)
    report = reporter.report(5.5)
    assert report.stages_ms == {"engine": Spread(2.0, 9.0), "all": Spread(3.0, 10.0)}
    assert report.late_ms == Spread(0.2, 0.9)
    assert reporter.report(100.0).stages_ms == {}
    assert reporter.report(100.0).late_ms is None


def test_only_ticks_can_be_late() -> None:
    reporter = Reporter()
    reporter.hear(step(trigger="command", late_ms=0.0), 1.0)
    assert reporter.report(1.0).late_ms is None


def test_numbers_that_are_none_do_not_spoil_the_others() -> None:
    reporter = Reporter()
    reporter.hear(assessment(0, stages_ms={"all": math.nan}), 1.0)
    assert reporter.report(1.0).stages_ms == {}
    reporter.hear(assessment(1, stages_ms={"all": 3.0}), 1.1)
    assert reporter.report(1.1).stages_ms == {"all": Spread(3.0, 3.0)}


def test_the_frame_rate_falls_while_no_frame_comes() -> None:
    reporter = Reporter()
    for index in range(101):
        reporter.hear(assessment(index), index / 20)
    assert reporter.report(5.0).frames_per_s == pytest.approx(20.0)
    assert reporter.report(7.5).frames_per_s == pytest.approx(10.0, abs=0.1)
    assert reporter.report(10.1).frames_per_s == 0.0


def test_drops_are_counted_since_the_start_and_lately() -> None:
    reporter = Reporter()
    for index, dropped in enumerate((10, 12, 15, 15)):
        reporter.hear(assessment(index, dropped=dropped), 2.0 * index)
    report = reporter.report(6.0)
    assert (report.dropped, report.dropped_lately) == (15, 3)
    reporter.hear(assessment(0, dropped=1), 6.1)  # the monitor was started again
    report = reporter.report(6.1)
    assert (report.dropped, report.dropped_lately) == (1, 0)


def test_two_bundles_are_told_apart() -> None:
    reporter = Reporter()
    reporter.hear(opening("monitor", OTHER), 1.0)
    assert (reporter.report(1.0).bundle, reporter.report(1.0).other_bundle) == (OTHER, None)
    reporter.hear(opening("gate", DIGEST), 1.0)
    assert (reporter.report(1.0).bundle, reporter.report(1.0).other_bundle) == (DIGEST, OTHER)
    reporter.hear(assessment(bundle=DIGEST), 1.0)
    assert reporter.report(1.0).other_bundle is None


def test_it_has_heard_everything_only_with_step_assessment_and_thresholds() -> None:
    reporter = Reporter()
    complete = []
    for message in (opening("monitor"), step(), assessment(), opening("gate")):
        reporter.hear(message, 1.0)
        complete.append(reporter.complete)
    assert complete == [False, False, False, True]


def test_other_messages_are_passed_over() -> None:
    reporter = Reporter()
    reporter.hear(Frame(sequence=0, stamp_ns=0, received_s=0.0, encoding="rgb8", data=b""), 1.0)
    assert not reporter.anything
