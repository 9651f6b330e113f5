"""The monitor: newest frame in, one assessment out for every frame it took, whatever goes wrong with it.

A worker thread runs the network, so that whoever receives frames never waits for it. Frames are never queued: while
the engine works, a newer frame replaces the one that waits.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec

from edge_bdl.errors import EdgeBdlError, EngineError, InputError
from edge_bdl.runtime import Prediction, Runtime
from edge_bdl_firmware.frames.checks import FrameChecks
from edge_bdl_firmware.frames.decode import FrameError, decode_frame, image_shape
from edge_bdl_firmware.frames.slot import LatestSlot
from edge_bdl_firmware.messages import LARGEST_MEAN, Assessment, Frame, boot_id

_IDLE_S = 0.1
_LONGEST_FAULT = 300


class Monitor:
    """Assesses the frames of one camera.

    Args:
        runtime: Predicts; belongs to the monitor from its start to its stop.
        checks: Of the frames.
        publish: Gets every assessment, in the worker's thread. What it raises ends the worker, which is then not
            `alive` and makes no more `progress`: a monitor that cannot speak must be seen to be dead.
        bundle: Digest of the runtime's bundle.
        clock: CLOCK_MONOTONIC, seconds; what frames' ``received_s`` is counted in.
        camera_clock_ns: What the camera's stamps are counted in; None where no such clock can be read.
        record: Gets every frame that was taken, after its assessment was published. What it raises is counted in
            `unrecorded`, and harms nothing else.
        deadline_ms: For `Runtime.predict`.

    Attributes:
        assessed: Assessments published.
        unrecorded: Frames that `record` failed on.
        progress: Rises at least every 0.1 s, frames or none, unless the worker hangs or has died.

    Raises:
        InputError: The bundle takes no camera images, or the deadline is none.
    """

    def __init__(
        self,
        runtime: Runtime,
        checks: FrameChecks,
        publish: Callable[[Assessment], None],
        *,
        bundle: str,
        clock: Callable[[], float] = time.monotonic,
        camera_clock_ns: Callable[[], int] | None = None,
        record: Callable[[Frame], None] | None = None,
        deadline_ms: float | None = None,
    ) -> None:
        if len(runtime.manifest.inputs) != 1:
            raise InputError(f"the monitor takes bundles with one input, this one has {len(runtime.manifest.inputs)}")
        self._input = runtime.manifest.inputs[0]
        image_shape(self._input.shape, self._input.dtype)
        if deadline_ms is not None and not (math.isfinite(deadline_ms) and deadline_ms > 0.0):
            raise InputError(f"deadline_ms must be positive and finite, got {deadline_ms}")
        self.assessed = 0
        self.unrecorded = 0
        self.progress = 0
        self._runtime = runtime
        self._checks = checks
        if runtime.manifest.pictures is not msgspec.UNSET:
            checks.known = runtime.manifest.pictures
        self._publish = publish
        self._bundle = bundle
        self._clock = clock
        self._camera_clock_ns = camera_clock_ns
        self._record = record
        self._deadline_ms = deadline_ms
        self._slot: LatestSlot[Frame] = LatestSlot()
        self._worker: threading.Thread | None = None
        self._stopping = threading.Event()

    @property
    def received(self) -> int:
        """Frames that were offered while the monitor ran."""
        return self._slot.received

    @property
    def dropped(self) -> int:
        """Frames that newer ones replaced before they were looked at."""
        return self._slot.dropped

    @property
    def alive(self) -> bool:
        """Whether there is a worker; it may hang all the same, which only `progress` tells."""
        return self._worker is not None and self._worker.is_alive()

    def start(self) -> None:
        """Warm the engine up, in this thread, and then take frames.

        Raises:
            InputError: It runs already, or its last worker still hangs in the engine.
            EngineError: The engine failed.
        """
        if self.alive:
            raise InputError("the monitor runs already, or its worker hangs: stop it, or end the process")
        self._runtime.warm_up(anytime=self._deadline_ms is not None)
        self._slot.take(0.0)  # left over from before a stop
        # Each worker has its own event: one that hung through a stop still ends when it wakes up after the next start.
        self._stopping = threading.Event()
        worker = threading.Thread(target=self._work, args=(self._stopping,), name="edge-bdl monitor", daemon=True)
        worker.start()
        self._worker = worker

    def stop(self, timeout_s: float = 1.0) -> None:
        """Take no more frames and publish nothing more; wait so long for the worker, which may hang."""
        self._stopping.set()
        if self._worker is not None:
            self._worker.join(timeout_s)

    def offer(self, frame: Frame) -> None:
        """Hand over a frame; never waits. Before the start and after the stop it is ignored."""
        if self._worker is not None and not self._stopping.is_set():
            self._slot.put(frame)

    def _work(self, stopping: threading.Event) -> None:
        while not stopping.is_set():
            self.progress += 1
            frame = self._slot.take(_IDLE_S)
            if frame is None:
                continue
            assessment = self._assess(frame)
            if stopping.is_set():
                return
            self._publish(assessment)
            self.assessed += 1
            self._hand_to_recorder(frame)

    def _hand_to_recorder(self, frame: Frame) -> None:
        if self._record is None:
            return
        try:
            self._record(frame)
        except Exception:  # whatever ails a recorder, the robot drives on
            self.unrecorded += 1

    def _assess(self, frame: Frame) -> Assessment:
        stages_ms = {"wait": (self._clock() - frame.received_s) * 1e3}
        said: dict[str, Any]
        try:
            prediction = self._predict(frame, stages_ms)
            evidence = prediction.evidence()
            said = {
                "scores": dict(evidence.scores),
                "samples": evidence.samples,
                "fault": evidence.fault,
                "mean": _mean(prediction),
            }
        except Exception as error:  # of engines and decoders anything can come, and the gate must be told
            said = {"fault": _text(error)}
        stages_ms["all"] = (self._clock() - frame.received_s) * 1e3
        return Assessment(
            sequence=frame.sequence,
            stamp_ns=frame.stamp_ns,
            received_s=frame.received_s,
            boot_id=boot_id(),
            bundle=self._bundle,
            stages_ms=stages_ms,
            dropped=self._slot.dropped,
            **said,
        )

    def _predict(self, frame: Frame, stages_ms: dict[str, float]) -> Prediction:
        """What the network says of a frame that is worth asking about.

        Raises:
            FrameError: It is not.
        """
        began = self._clock()
        pixels = decode_frame(frame, self._input.shape, self._input.dtype)
        decoded = self._clock()
        stages_ms["decode"] = (decoded - began) * 1e3
        camera_now_ns = None if self._camera_clock_ns is None else self._camera_clock_ns()
        fault = self._checks.check(frame, pixels, camera_now_ns, decoded)
        stages_ms["check"] = (self._clock() - decoded) * 1e3
        if fault is not None:
            raise FrameError(fault)
        prediction = self._runtime.predict(pixels, deadline_ms=self._deadline_ms)
        stages_ms["engine"] = prediction.engine_ms
        return prediction


def _mean(prediction: Prediction) -> tuple[float, ...]:
    mean = prediction.mean
    return tuple(mean.ravel().tolist()) if mean.size <= LARGEST_MEAN else ()


def _text(error: Exception) -> str:
    """One line for people: our own errors say it, others need their type."""
    message = " ".join(str(error).split())[:_LONGEST_FAULT]
    if isinstance(error, EngineError):
        return f"the engine failed: {message}"
    return message if isinstance(error, EdgeBdlError) else f"{type(error).__name__}: {message}"
