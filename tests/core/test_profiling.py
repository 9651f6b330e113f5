"""Profiles: figures one can defend, on machines that hide half of their facts."""

from __future__ import annotations

import html.parser
import importlib.util
import math
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_bdl import profiling
from edge_bdl.bundle import Bundle
from edge_bdl.errors import EngineError, InputError, MissingExtraError
from edge_bdl.findings import Flops
from edge_bdl.machine import read_machine
from edge_bdl.profile_report import to_html, to_text
from edge_bdl.profiling import Report, advice, cold_start, enough_for, median_interval, percentile_ms, profile

BUNDLES = Path(__file__).parents[1] / "bundles"


@pytest.fixture(scope="module")
def engine() -> str:
    for name, package in (
        ("onnxruntime", "onnxruntime"), ("tflite", "ai_edge_litert"), ("tflite", "tflite_runtime"),
    ):  # fmt: skip
        if importlib.util.find_spec(package):
            return name
    pytest.skip("no engine is installed")


@pytest.fixture(scope="module")
def report(engine: str) -> Report:
    return profile(BUNDLES / "tiny_masks.ebdl", [engine], [16, 1, 4], rounds=70, cold_starts=1)


# Percentiles


@pytest.mark.parametrize(("percentile", "fewest"), [(90, 64), (95, 130), (99, 662), (99.9, 6636)])
def test_a_percentile_needs_as_many_samples_as_mlperf_asks_for(percentile: float, fewest: int) -> None:
    assert enough_for(percentile, fewest)
    assert not enough_for(percentile, fewest - 1)
    assert percentile_ms(np.arange(float(fewest)), percentile) is not None
    assert percentile_ms(np.arange(float(fewest - 1)), percentile) is None


def test_percentiles_are_measured_values() -> None:
    values = np.arange(1.0, 1001.0)
    assert percentile_ms(values, 50) == 500.0
    assert percentile_ms(values, 90) == 900.0
    assert percentile_ms(values, 99) == 990.0


def test_the_medians_interval_is_the_tabled_one() -> None:
    # Conover, Practical Nonparametric Statistics: ranks of the 95 % interval of a median.
    for n, lower, upper in ((6, 1, 6), (10, 2, 9), (20, 6, 15), (25, 8, 18)):
        assert median_interval(np.arange(1.0, n + 1)) == (lower, upper)
    assert median_interval(np.arange(5.0)) is None


def test_the_medians_interval_covers_the_median() -> None:
    draws = np.sort(np.random.default_rng(0).exponential(size=(4000, 101)), axis=1)
    covered = 0
    for row in draws:
        low, high = median_interval(row) or (math.nan, math.nan)
        covered += low <= math.log(2) <= high
    assert covered / 4000 >= 0.95 - 4 * math.sqrt(0.95 * 0.05 / 4000)


# Profiles


def test_rows_come_for_every_number_of_samples(report: Report, engine: str) -> None:
    assert [(row.engine, row.threads, row.samples, row.n) for row in report.rows] == [
        (engine, 1, 1, 70), (engine, 1, 4, 70), (engine, 1, 16, 70),
    ]  # fmt: skip


def test_a_row_is_consistent_with_itself(report: Report) -> None:
    for row in report.rows:
        assert row.p50_ms is not None
        assert row.p50_low_ms is not None
        assert row.p50_high_ms is not None
        assert row.p90_ms is not None
        assert row.p50_low_ms <= row.p50_ms <= row.p50_high_ms
        assert row.p50_ms <= row.p90_ms <= row.max_ms
        assert row.p99_ms is None
        assert row.p999_ms is None
        assert row.ratio == pytest.approx(row.engine_p50_ms / row.det_p50_ms)
        assert row.speedup == pytest.approx(row.naive_p50_ms / row.engine_p50_ms)
        assert row.overhead_us > 0
        assert sum(row.histogram.counts) == row.n
        assert len(row.histogram.edges_ms) == len(row.histogram.counts) + 1
    assert len({row.det_p50_ms for row in report.rows}) == 1
    assert set(report.rows[-1].stages_ms) == {"check", "fused", "uncertainty"}
    assert set(report.rows[0].stages_ms) == {"check", "trunk", "head", "uncertainty"}


def test_naive_sampling_takes_as_many_passes_as_samples(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[str] = []
    real = profiling.Runtime.open

    def counting(*args: Any, **options: Any) -> Any:
        runtime = real(*args, **options)
        det = runtime.engine.graph("det")
        run = det.run
        det.run = lambda inputs: (runs.append("det"), run(inputs))[1]
        return runtime

    monkeypatch.setattr(profiling.Runtime, "open", counting)
    profile(BUNDLES / "tiny_masks.ebdl", [engine], [4, 16], rounds=10, cold_starts=0)
    assert len(runs) == (5 + 10) * (1 + 4 + 16)


def test_the_json_has_the_documented_fields(report: Report) -> None:
    data = msgspec.json.decode(msgspec.json.encode(report))
    assert {"machine", "cold_start_ms", "peak_rss_mb", "rows"} <= set(data)
    assert {
        "engine", "threads", "samples", "n", "p50_ms", "p90_ms", "p99_ms", "p999_ms", "max_ms", "det_p50_ms", "ratio",
        "naive_p50_ms", "speedup", "overhead_us",
    } <= set(data["rows"][0])  # fmt: skip
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report


def test_a_cold_start_is_that_of_a_process_of_its_own(engine: str) -> None:
    ballast = np.ones(40_000_000)  # 320 MB in this process must not count
    took_ms, peak_mb = cold_start(Bundle.open(BUNDLES / "tiny_masks.ebdl"), engine, 1, 1)
    assert ballast.size
    assert took_ms is not None
    assert peak_mb is not None
    assert took_ms > 10
    assert 20 < peak_mb < 300


def test_a_cold_start_that_fails_says_why() -> None:
    with pytest.raises(EngineError, match=r"a fresh process could not predict with nothing: .*no engine is called"):
        cold_start(Bundle.open(BUNDLES / "tiny_masks.ebdl"), "nothing", 1, 1)


def test_without_cold_starts_there_is_no_figure(engine: str) -> None:
    report = profile(BUNDLES / "tiny_points.ebdl", [engine], rounds=3, cold_starts=0)
    assert (report.cold_start_ms, report.peak_rss_mb) == (None, None)
    assert [row.samples for row in report.rows] == [4, 8]
    assert report.rows[0].p90_ms is None
    assert "cold start not measured" in to_text(report)
    assert "n/a" in to_text(report)


def test_bad_requests_are_refused(engine: str) -> None:
    bundle = BUNDLES / "tiny_weights.ebdl"
    with pytest.raises(InputError, match="holds 8 sets of weights"):
        profile(bundle, [engine], [9], rounds=2, cold_starts=0)
    with pytest.raises(InputError, match="rounds must be at least 1"):
        profile(bundle, [engine], rounds=0)
    with pytest.raises(InputError, match="at least one number of samples"):
        profile(bundle, [engine], [], rounds=1)
    with pytest.raises(InputError, match="threads must be"):
        profile(bundle, [engine], threads=[0], rounds=1)


def test_an_engine_that_is_not_installed_is_skipped_unless_asked_for(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = "tflite" if engine == "onnxruntime" else "onnxruntime"
    for package in ("ai_edge_litert", "tflite_runtime") if other == "tflite" else ("onnxruntime",):
        for loaded in [name for name in sys.modules if name.partition(".")[0] == package]:
            monkeypatch.delitem(sys.modules, loaded)
        monkeypatch.setitem(sys.modules, package, None)
    report = profile(BUNDLES / "tiny_masks.ebdl", rounds=2, cold_starts=0)
    assert {row.engine for row in report.rows} == {engine}
    assert any(line.startswith("not measured") and "pip install" in line for line in report.warnings)
    with pytest.raises(MissingExtraError):
        profile(BUNDLES / "tiny_masks.ebdl", [other], rounds=2, cold_starts=0)


# Advice


def test_a_nearly_empty_trunk_is_pointed_out() -> None:
    manifest = Bundle.open(BUNDLES / "tiny_masks.ebdl").manifest
    (warning,) = advice(msgspec.structs.replace(manifest, flops=Flops(total=100, deterministic=20)), 10)
    assert "only 20% of" in warning
    assert "10 samples cost about 8.2 deterministic passes" in warning
    assert "deterministic=" in warning
    assert advice(msgspec.structs.replace(manifest, flops=Flops(total=100, deterministic=50)), 10) == []


# The machine


def test_facts_that_cannot_be_read_are_none(tmp_path: Path) -> None:
    machine = read_machine(tmp_path)
    for name in ("processor", "board", "governor", "clock_mhz", "temperature_c", "throttled", "memory_mb", "nvpmodel"):
        assert getattr(machine, name) is None


def test_facts_are_read_from_where_kernels_put_them(tmp_path: Path) -> None:
    for path, content in {
        "proc/cpuinfo": "processor\t: 0\nmodel name\t: ARMv8 Processor rev 1\n",
        "proc/meminfo": "MemTotal:        7802476 kB\nMemFree: 1 kB\n",
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano\0",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1510400\n",
        "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "1728000\n",
        "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "2\n",
        "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "3\n",
        "sys/class/thermal/thermal_zone0/temp": "48500\n",
        "sys/class/thermal/thermal_zone1/temp": "51250\n",
        "sys/class/thermal/thermal_zone2/temp": "broken\n",
        "var/lib/nvpmodel/status": "pmode:0002\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    machine = read_machine(tmp_path)
    assert (machine.processor, machine.board, machine.governor) == (
        "ARMv8 Processor rev 1", "NVIDIA Jetson Orin Nano", "schedutil",
    )  # fmt: skip
    assert (machine.clock_mhz, machine.max_clock_mhz) == pytest.approx((1510.4, 1728.0))
    assert (machine.temperature_c, machine.throttled, machine.nvpmodel) == (51.25, 5, "pmode:0002")
    assert machine.memory_mb == pytest.approx(7619.6, abs=0.1)


def test_a_raspberry_pis_throttling_flags_are_hexadecimal(tmp_path: Path) -> None:
    flags = tmp_path / "sys/devices/platform/soc/soc:firmware/get_throttled"
    flags.parent.mkdir(parents=True)
    flags.write_text("50005\n")
    assert read_machine(tmp_path).throttled == 0x50005


def test_this_machine_can_be_read() -> None:
    machine = read_machine()
    assert machine.cores
    assert machine.architecture


# Pages


class Page(html.parser.HTMLParser):
    """Checks nesting, and collects what a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_well_formed_and_needs_nothing_else(report: Report) -> None:
    hostile = msgspec.structs.replace(report, bundle="<script>alert(1)</script>", warnings=["a < b & c"])
    page = Page()
    page.feed(to_html(hostile))
    assert page.open == []
    assert page.links == []
    assert "<script>alert(1)</script>" in page.text
    assert "a < b & c" in page.text
    assert to_html(hostile).count("<svg") == 3
    assert "<script" not in to_html(hostile)


def test_the_text_has_a_line_for_every_row_and_warning(report: Report) -> None:
    text = to_text(msgspec.structs.replace(report, warnings=["mind the step"]))
    assert sum(line.lstrip().startswith(report.rows[0].engine) for line in text.splitlines()) == 3
    assert "warning: mind the step" in text
    assert "n/a" in text
