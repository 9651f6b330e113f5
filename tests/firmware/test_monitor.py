"""The monitor: one assessment for every frame it took, whatever the frame, the engine or the clock does."""

from __future__ import annotations

import io
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edge_bdl.bundle import Bundle
from edge_bdl.engines.scripted import ScriptedEngine
from edge_bdl.errors import InputError
from edge_bdl.runtime import Runtime
from edge_bdl_firmware.frames.checks import FrameChecks, FrameChecksConfig
from edge_bdl_firmware.messages import Assessment, Frame, boot_id
from edge_bdl_firmware.monitor import Monitor

BUNDLES = Path(__file__).parents[1] / "bundles"
WARM_UP_RUNS = 3
PATIENCE_S = 30.0
NOW_S = 100.0


class Clock:
    """Time that passes when it is told to, so that nothing here depends on how busy the machine is."""

    def __init__(self, tick_s: float = 0.0) -> None:
        self.now_s = NOW_S
        self.tick_s = tick_s

    def __call__(self) -> float:
        self.now_s += self.tick_s
        return self.now_s


def frame_of(sequence: int, **changes: Any) -> Frame:
    """A good frame for the tiny bundle, different for every sequence."""
    pixels = np.random.default_rng(sequence).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    fields = {
        "stamp_ns": 10**9 + sequence, "received_s": NOW_S, "encoding": "rgb8", "height": 16, "width": 16,
        "step": 48, "data": pixels.tobytes(), **changes,
    }  # fmt: skip
    return Frame(sequence=sequence, **fields)


def file_of(sequence: int, encoding: str) -> Frame:
    frame = frame_of(sequence)
    content = io.BytesIO()
    Image.frombytes("RGB", (16, 16), frame.data).save(content, encoding.upper())
    return frame_of(sequence, encoding=encoding, height=0, width=0, step=0, data=content.getvalue())


def runtime_of(name: str = "tiny_masks", **script: Any) -> Runtime:
    """The tiny bundle on the scripted engine. Faults begin after the warm-up."""
    bundle = Bundle.open(BUNDLES / f"{name}.ebdl")
    script["faults"] = itertools.chain([None] * WARM_UP_RUNS, script.get("faults", ()))
    return Runtime(bundle.manifest, ScriptedEngine(bundle.folder, bundle.manifest, **script), bundle.bank())


class Watched:
    """A running monitor and everything that it said."""

    def __init__(self, runtime: Runtime, checks: FrameChecks | None = None, **options: Any) -> None:
        self.said: list[Assessment] = []
        self.recorded: list[Frame] = []
        self._news = threading.Condition()
        options = {"record": self.recorded.append, "clock": Clock(), **options}
        self.monitor = Monitor(runtime, checks or FrameChecks(), self._hear, bundle="digest", **options)
        self.monitor.start()

    def _hear(self, assessment: Assessment) -> None:
        with self._news:
            self.said.append(assessment)
            self._news.notify_all()

    def wait_for(self, count: int) -> None:
        with self._news:
            assert self._news.wait_for(lambda: len(self.said) >= count, PATIENCE_S), "the monitor said nothing"

    def assess(self, frame: Frame) -> Assessment:
        """Offer one frame and wait for what it becomes."""
        self.monitor.offer(frame)
        self.wait_for(len(self.said) + 1)
        return self.said[-1]


@pytest.fixture
def watch() -> Iterator[Callable[..., Watched]]:
    started: list[Watched] = []

    def start(*arguments: Any, **options: Any) -> Watched:
        started.append(Watched(*arguments, **options))
        return started[-1]

    yield start
    for watched in started:
        watched.monitor.stop()


def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s, "it never happened"
        time.sleep(0.005)


# Good frames


def test_an_assessment_is_what_the_runtime_says_of_the_frame(watch: Callable[..., Watched]) -> None:
    pytest.importorskip("onnxruntime")
    watched = watch(Runtime.open(BUNDLES / "tiny_masks.ebdl"))
    reference = Runtime.open(BUNDLES / "tiny_masks.ebdl")
    for sequence, encoding in enumerate(["rgb8", "jpeg", "png"] * 3):
        frame = frame_of(sequence) if encoding == "rgb8" else file_of(sequence, encoding)
        said = watched.assess(frame)
        picture = (
            np.frombuffer(frame.data, np.uint8).reshape(16, 16, 3)
            if encoding == "rgb8"
            else np.asarray(Image.open(io.BytesIO(frame.data)))
        )
        expected = reference.predict(picture)
        assert said.fault is None
        assert said.scores == expected.scores()
        assert said.mean == tuple(expected.mean.ravel().tolist())
        assert said.samples == expected.samples == 16
        assert (said.sequence, said.stamp_ns, said.received_s) == (frame.sequence, frame.stamp_ns, frame.received_s)
        assert (said.bundle, said.boot_id, said.dropped) == ("digest", boot_id(), 0)
        assert said.stages_ms["engine"] > 0.0


def test_the_stages_say_where_the_time_went(watch: Callable[..., Watched]) -> None:
    # The clock is read when the frame is taken, before and after the decoding, after the checks and at the end.
    said = watch(runtime_of(), clock=Clock(tick_s=0.001)).assess(frame_of(0, received_s=NOW_S - 0.02))
    assert said.stages_ms.pop("engine") >= 0.0
    assert said.stages_ms == pytest.approx({"wait": 21.0, "decode": 1.0, "check": 1.0, "all": 25.0})


def test_the_very_frame_that_was_assessed_is_recorded(watch: Callable[..., Watched]) -> None:
    watched = watch(runtime_of(faults=[None, "raise", None]))
    frames = [frame_of(0), frame_of(1), frame_of(2, encoding="unknown"), frame_of(3, stamp_ns=0), frame_of(4)]
    for frame in frames:
        watched.assess(frame)
    until(lambda: len(watched.recorded) == len(frames))
    assert all(recorded is frame for recorded, frame in zip(watched.recorded, frames, strict=True))
    assert [said.sequence for said in watched.said] == [0, 1, 2, 3, 4]


def test_with_a_deadline_the_first_frame_is_as_good_as_any(watch: Callable[..., Watched]) -> None:
    pytest.importorskip("onnxruntime")
    watched = watch(Runtime.open(BUNDLES / "tiny_masks.ebdl"), deadline_ms=10_000.0)
    said = watched.assess(frame_of(0))
    assert (said.fault, said.samples) == (None, 16)


def test_a_deadline_leaves_fewer_samples(watch: Callable[..., Watched]) -> None:
    bundle = Bundle.open(BUNDLES / "tiny_masks.ebdl")
    slow = ScriptedEngine(bundle.folder, bundle.manifest, latency_s={"head": 0.02})
    watched = watch(Runtime(bundle.manifest, slow, bundle.bank()), deadline_ms=25.0)
    assert 2 <= watched.assess(frame_of(0)).samples < 16


# Faults


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"encoding": "yuv422"}, "encoding 'yuv422' is not known"),
        ({"height": 15}, "the frame is 16 x 15"),
        ({"step": 47}, "row step of 47"),
        ({"data": b"short"}, "the frame has 5 bytes"),
        ({"encoding": "jpeg", "data": b"\xff\xd8 broken"}, "cannot be decoded"),
        ({"stamp_ns": 0}, "no stamp"),
        ({"stamp_ns": 5}, "went back"),
        ({"stamp_ns": 10**9}, "repeats"),
        ({"data": bytes(768)}, "no contrast"),
        ({"received_s": 1.0}, "ago"),
        ({"received_s": 1e9}, "not come yet"),
    ],
)
def test_a_bad_frame_is_a_fault_without_inference(
    watch: Callable[..., Watched], changes: dict[str, Any], fault: str
) -> None:
    watched = watch(runtime_of())
    assert watched.assess(frame_of(0)).fault is None
    said = watched.assess(frame_of(1, **changes))
    assert fault in str(said.fault)
    assert (said.sequence, said.scores, said.samples, said.mean) == (1, {}, 0, ())
    assert "engine" not in said.stages_ms
    assert watched.assess(frame_of(2)).fault is None


def test_frozen_pixels_are_a_fault_until_they_move(watch: Callable[..., Watched]) -> None:
    watched = watch(runtime_of(), FrameChecks(FrameChecksConfig(frozen_frames=2)))
    data = frame_of(0).data
    faults = [watched.assess(frame_of(sequence, data=data)).fault for sequence in range(4)]
    assert [fault is None for fault in faults] == [True, True, False, False]
    assert watched.assess(frame_of(9)).fault is None


def test_stamps_are_compared_with_the_cameras_clock(watch: Callable[..., Watched]) -> None:
    watched = watch(runtime_of(), camera_clock_ns=lambda: 10**9)
    assert "old by its stamp" in str(watched.assess(frame_of(0, stamp_ns=10**8)).fault)
    assert watched.assess(frame_of(1)).fault is None
    assert "in the future" in str(watched.assess(frame_of(2, stamp_ns=2 * 10**9)).fault)


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        ("raise", "the engine failed: scripted could not run fused"),
        ("nan", "not finite"),
        ("inf", "not finite"),
        ("identical", "identical"),
    ],
)
def test_what_engines_do_wrong_is_a_fault_of_that_frame_only(
    watch: Callable[..., Watched], script: Any, fault: str
) -> None:
    watched = watch(runtime_of(faults=[None, script]))
    assert watched.assess(frame_of(0)).fault is None
    assert fault in str(watched.assess(frame_of(1)).fault)
    assert watched.assess(frame_of(2)).fault is None


class Explosive:
    """Faults of an engine that breaks in a way that nobody thought of."""

    def __init__(self) -> None:
        self.runs = 0

    def __iter__(self) -> Explosive:
        return self

    def __next__(self) -> None:
        self.runs += 1
        if self.runs == 2:
            raise MemoryError("out of\nmemory " + "x" * 1000)


def test_an_exception_that_nobody_expected_is_a_fault_in_one_line_and_the_worker_goes_on(
    watch: Callable[..., Watched],
) -> None:
    watched = watch(runtime_of(faults=Explosive()))
    assert watched.assess(frame_of(0)).fault is None
    fault = watched.assess(frame_of(1)).fault
    assert fault is not None
    assert fault.startswith("MemoryError: out of memory xxx")
    assert len(fault) < 400
    assert watched.assess(frame_of(2)).fault is None


def test_a_clock_of_the_camera_that_fails_is_a_fault(watch: Callable[..., Watched]) -> None:
    def broken() -> int:
        raise RuntimeError("no time")

    assert watch(runtime_of(), camera_clock_ns=broken).assess(frame_of(0)).fault == "RuntimeError: no time"


def test_a_recorder_that_fails_is_counted_and_harms_nothing(watch: Callable[..., Watched]) -> None:
    def broken(frame: Frame) -> None:
        raise OSError("disk full")

    watched = watch(runtime_of(), record=broken)
    for sequence in range(3):
        assert watched.assess(frame_of(sequence)).fault is None
    until(lambda: watched.monitor.unrecorded == 3)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_monitor_that_cannot_publish_is_seen_to_be_dead() -> None:
    def broken(assessment: Assessment) -> None:
        raise RuntimeError("nobody listens")

    monitor = Monitor(runtime_of(), FrameChecks(), broken, bundle="digest")
    monitor.start()
    assert monitor.alive
    monitor.offer(frame_of(0))
    until(lambda: not monitor.alive)
    assert monitor.assessed == 0
    progress = monitor.progress
    time.sleep(0.3)
    assert monitor.progress == progress


# The worker


class Gate:
    """Sleeps of a scripted engine that last until they are let go."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def sleep(self, seconds: float) -> None:
        if seconds > 0.0:
            self.reached.set()
            assert self.go_on.wait(PATIENCE_S)


def test_while_the_engine_works_only_the_newest_frame_waits_and_the_rest_are_counted(
    watch: Callable[..., Watched],
) -> None:
    gate = Gate()
    watched = watch(runtime_of(faults=["hang"], sleep=gate.sleep))
    watched.monitor.offer(frame_of(0))
    assert gate.reached.wait(PATIENCE_S)
    for sequence in range(1, 6):
        watched.monitor.offer(frame_of(sequence))
    gate.go_on.set()
    watched.wait_for(2)
    assert [said.sequence for said in watched.said] == [0, 5]
    assert [said.dropped for said in watched.said] == [4, 4]
    until(lambda: watched.monitor.assessed == 2)
    assert (watched.monitor.received, watched.monitor.dropped) == (6, 4)


def test_a_hung_engine_stops_the_progress_and_nothing_else(watch: Callable[..., Watched]) -> None:
    gate = Gate()
    watched = watch(runtime_of(faults=["hang"], sleep=gate.sleep))
    before = watched.monitor.progress
    until(lambda: watched.monitor.progress > before + 2)  # idle
    watched.monitor.offer(frame_of(0))
    assert gate.reached.wait(PATIENCE_S)
    hung = watched.monitor.progress
    for sequence in range(1, 50):
        watched.monitor.offer(frame_of(sequence))  # comes back at once, or the test never ends
    time.sleep(0.4)
    assert watched.monitor.progress == hung
    assert watched.monitor.alive
    assert watched.said == []
    gate.go_on.set()
    until(lambda: watched.monitor.progress > hung)


def test_a_frame_that_waited_for_a_hung_engine_is_too_old(watch: Callable[..., Watched]) -> None:
    gate, clock = Gate(), Clock()
    watched = watch(runtime_of(faults=["hang"], sleep=gate.sleep), clock=clock)
    watched.monitor.offer(frame_of(0))
    assert gate.reached.wait(PATIENCE_S)
    watched.monitor.offer(frame_of(1))
    clock.now_s += 0.35
    gate.go_on.set()
    watched.wait_for(2)
    assert [said.fault for said in watched.said] == [None, "the frame came 0.35 s ago, expected at most 0.3"]


def test_after_the_stop_nothing_is_published_and_it_may_start_again(watch: Callable[..., Watched]) -> None:
    watched = watch(runtime_of())
    watched.assess(frame_of(0))
    watched.monitor.stop()
    assert not watched.monitor.alive
    watched.monitor.offer(frame_of(1))
    assert watched.monitor.received == 1
    watched.monitor.start()
    assert watched.assess(frame_of(2)).sequence == 2
    assert [said.sequence for said in watched.said] == [0, 2]


def test_a_worker_that_hung_through_the_stop_says_nothing_when_it_wakes_and_blocks_a_second_one(
    watch: Callable[..., Watched],
) -> None:
    gate = Gate()
    watched = watch(runtime_of(faults=["hang"], sleep=gate.sleep))
    watched.monitor.offer(frame_of(0))
    assert gate.reached.wait(PATIENCE_S)
    watched.monitor.stop(timeout_s=0.05)
    assert watched.monitor.alive
    with pytest.raises(InputError, match="runs already, or its worker hangs"):
        watched.monitor.start()
    gate.go_on.set()
    until(lambda: not watched.monitor.alive)
    assert watched.said == []


def test_a_frame_that_waited_through_the_stop_is_not_assessed_after_the_next_start(
    watch: Callable[..., Watched],
) -> None:
    gate = Gate()
    watched = watch(runtime_of(faults=["hang"], sleep=gate.sleep))
    watched.monitor.offer(frame_of(0))
    assert gate.reached.wait(PATIENCE_S)
    watched.monitor.offer(frame_of(1))
    watched.monitor.stop(timeout_s=0.05)
    gate.go_on.set()
    until(lambda: not watched.monitor.alive)
    watched.monitor.start()
    assert watched.assess(frame_of(2)).sequence == 2
    assert [said.sequence for said in watched.said] == [2]


def test_frames_before_the_start_are_ignored_and_the_engine_is_warm_before_the_first() -> None:
    bundle = Bundle.open(BUNDLES / "tiny_masks.ebdl")
    runs: list[None] = []

    def count() -> Iterator[None]:
        while True:
            runs.append(None)
            yield None

    runtime = Runtime(bundle.manifest, ScriptedEngine(bundle.folder, bundle.manifest, faults=count()), bundle.bank())
    monitor = Monitor(runtime, FrameChecks(), lambda said: None, bundle=bundle.digest)
    monitor.offer(frame_of(0))
    assert (monitor.received, monitor.progress, runs) == (0, 0, [])
    monitor.start()
    assert len(runs) == WARM_UP_RUNS
    monitor.stop()


@pytest.mark.parametrize("name", ["tiny_dense", "tiny_points", "tiny_weights"])
def test_a_bundle_that_takes_no_camera_images_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"expected camera images|takes bundles with one input"):
        Monitor(runtime_of(name), FrameChecks(), lambda said: None, bundle="digest")


@pytest.mark.parametrize("deadline_ms", [0.0, -1.0, float("nan"), float("inf")])
def test_a_deadline_that_is_none_is_refused(deadline_ms: float) -> None:
    with pytest.raises(InputError, match="deadline_ms must be positive"):
        Monitor(runtime_of(), FrameChecks(), lambda said: None, bundle="digest", deadline_ms=deadline_ms)
