"""Prometheus reads what the view shows, from this machine only."""

from __future__ import annotations

import math
import socket
import urllib.request
from typing import Any

import pytest

pytest.importorskip("prometheus_client")

from prometheus_client.parser import text_string_to_metric_families

from edge_bdl.errors import InputError
from edge_bdl_firmware.messages import AnyMessage, Assessment, Opening, Step
from edge_bdl_firmware.watch.metrics import Metrics
from edge_bdl_firmware.watch.report import Reporter

Samples = dict[tuple[str, frozenset[str]], float]


def step(level: str = "NOMINAL", **changes: Any) -> Step:
    said = {"now_s": 0.0, "trigger": "tick", "speed_factor": 1.0, "reason": "good", "output": (0.5, 0.0)}
    return Step(**(said | {"level": level} | changes))


def assessment(**changes: Any) -> Assessment:
    said = {"sequence": 0, "stamp_ns": 0, "received_s": 0.0, "boot_id": "boot", "bundle": "ab", "samples": 16}
    return Assessment(**(said | changes))


class Scraped:
    """Metrics with a server, fed and read as Prometheus would."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.reporter = Reporter()
        self.port = self.metrics.serve(0)

    def hear(self, message: AnyMessage, now_s: float = 10.0) -> None:
        self.reporter.hear(message, now_s)
        self.metrics.hear(message)

    def read(self, now_s: float = 10.0) -> Samples:
        """All samples at a time, by name and label values."""
        since_s = {name: now_s - at_s for name, at_s in self.reporter.last_heard_s.items()}
        self.metrics.show(self.reporter.report(now_s), since_s)
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=60) as answer:
            families = text_string_to_metric_families(answer.read().decode())
            return {
                (sample.name, frozenset(sample.labels.values())): sample.value
                for family in families
                for sample in family.samples
            }


def key(name: str, *labels: str) -> tuple[str, frozenset[str]]:
    return f"edge_bdl_{name}", frozenset(labels)


def level_of(samples: Samples) -> str:
    (level,) = [labels for (name, labels), value in samples.items() if name == "edge_bdl_level" and value == 1.0]
    return "".join(level)


@pytest.fixture
def scraped() -> Scraped:
    return Scraped()


def test_before_anybody_spoke_nothing_is_claimed(scraped: Scraped) -> None:
    samples = scraped.read()
    assert level_of(samples) == "UNKNOWN"
    assert math.isnan(samples[key("speed_factor")])
    for source in ("gate", "frames", "monitor"):
        assert samples[key("seconds_since_last_word", source)] == math.inf
    assert samples[key("frames_total", "true")] == 0.0
    assert not [name for name, _ in samples if name == "edge_bdl_score"]


def test_nothing_of_this_process_itself_is_served(scraped: Scraped) -> None:
    assert all(name.startswith("edge_bdl_") for name, _ in scraped.read())


def test_the_report_is_served(scraped: Scraped) -> None:
    parameters = {"threshold.epistemic.slow": "0.25", "threshold.epistemic.handoff": "0.5"}
    scraped.hear(Opening(process="gate", bundle="ab" * 32, bundle_path="/b/pilot.ebdl", parameters=parameters))
    scraped.hear(assessment(scores={"epistemic": 0.3, "total": math.nan}))
    scraped.hear(step("SLOW", speed_factor=0.5, bypass=True))
    samples = scraped.read(10.25)
    assert level_of(samples) == "SLOW"
    assert samples[key("speed_factor")] == 0.5
    assert samples[key("bypass")] == 1.0
    assert samples[key("human_in_control")] == 0.0
    assert samples[key("score", "epistemic")] == 0.3
    assert math.isnan(samples[key("score", "total")])
    assert samples[key("threshold", "epistemic", "SLOW")] == 0.25
    assert samples[key("threshold", "epistemic", "HANDOFF")] == 0.5
    assert samples[key("bundle_info", "ab" * 32, "/b/pilot.ebdl")] == 1.0
    assert samples[key("seconds_since_last_word", "gate")] == 0.25


def test_a_gate_and_a_camera_that_fell_silent_leave_no_old_values(scraped: Scraped) -> None:
    scraped.hear(step("NOMINAL"))
    scraped.hear(assessment(scores={"epistemic": 0.3}))
    assert level_of(scraped.read(10.1)) == "NOMINAL"
    samples = scraped.read(11.0)
    assert level_of(samples) == "UNKNOWN"
    assert math.isnan(samples[key("speed_factor")])
    assert key("score", "epistemic") not in samples
    scraped.hear(assessment(scores={"epistemic": 0.1}), 12.0)
    assert scraped.read(12.0)[key("score", "epistemic")] == 0.1


def test_a_level_of_a_newer_gate_is_unknown_and_no_crash(scraped: Scraped) -> None:
    scraped.hear(step("CRAWL"))
    assert level_of(scraped.read()) == "UNKNOWN"


def test_latencies_are_histograms_in_seconds(scraped: Scraped) -> None:
    for engine_ms in (1.5, 4.0, 40.0):
        scraped.hear(assessment(stages_ms={"engine": engine_ms}))
    scraped.hear(step(late_ms=3.0))
    scraped.hear(step(trigger="command"))
    samples = scraped.read()
    assert samples[key("stage_seconds_count", "engine")] == 3.0
    assert samples[key("stage_seconds_sum", "engine")] == pytest.approx(0.0455)
    within = {bound: samples[key("stage_seconds_bucket", "engine", bound)] for bound in ("0.001", "0.005", "0.05")}
    assert within == {"0.001": 0.0, "0.005": 2.0, "0.05": 3.0}
    assert samples[key("tick_late_seconds_count")] == 1.0
    assert samples[key("tick_late_seconds_sum")] == pytest.approx(0.003)


def test_frames_steps_and_transitions_are_counted(scraped: Scraped) -> None:
    for fault in (None, "black", None):
        scraped.hear(assessment(fault=fault))
    for level in ("HOLD", "HOLD", "NOMINAL", "SLOW", "NOMINAL"):
        scraped.hear(step(level))
    scraped.hear(step("NOMINAL", trigger="assessment"))
    samples = scraped.read()
    assert samples[key("frames_total", "true")] == 2.0
    assert samples[key("frames_total", "false")] == 1.0
    assert samples[key("steps_total", "tick")] == 5.0
    assert samples[key("steps_total", "assessment")] == 1.0
    # Where the gate was when we came is no transition.
    transitions = {level: samples[key("transitions_total", level)] for level in ("HOLD", "NOMINAL", "SLOW", "STOP")}
    assert transitions == {"HOLD": 0.0, "NOMINAL": 2.0, "SLOW": 1.0, "STOP": 0.0}


def test_drops_go_on_counting_when_the_monitor_starts_again(scraped: Scraped) -> None:
    for dropped in (3, 5, 5, 0, 2):
        scraped.hear(assessment(dropped=dropped))
    assert scraped.read()[key("dropped_frames_total")] == 7.0


def addresses_of_this_machine() -> list[str]:
    """Others than the one it is served at: another of the loopback's, and where there is one, of the network's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing, only looks for the way (RFC 5737: nobody is there)
            return ["127.0.0.2", probe.getsockname()[0]]
        except OSError:
            return ["127.0.0.2"]


def test_other_addresses_of_this_machine_are_refused(scraped: Scraped) -> None:
    for address in addresses_of_this_machine():
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address, scraped.port), timeout=60)
    socket.create_connection(("127.0.0.1", scraped.port), timeout=60).close()


def test_a_port_that_is_taken_is_said(scraped: Scraped) -> None:
    with pytest.raises(InputError, match=rf"cannot serve metrics at 127\.0\.0\.1:{scraped.port}: .*in use"):
        Metrics().serve(scraped.port)


def test_two_of_them_share_nothing() -> None:
    first, second = Scraped(), Scraped()
    first.hear(step())
    assert key("steps_total", "tick") in first.read()
    assert key("steps_total", "tick") not in second.read()
