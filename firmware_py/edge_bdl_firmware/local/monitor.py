"""The monitor without ROS: frames of a source in, assessments out as datagrams."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from edge_bdl.bundle import Bundle
from edge_bdl.errors import EdgeBdlError
from edge_bdl.runtime import Runtime
from edge_bdl_firmware.frames.checks import FrameChecks
from edge_bdl_firmware.local.channel import Outbox
from edge_bdl_firmware.messages import Assessment, Opening
from edge_bdl_firmware.monitor import Monitor
from edge_bdl_firmware.signals import StopSignals
from edge_bdl_firmware.sources import Source
from edge_bdl_firmware.telemetry import Telemetry
from edge_bdl_firmware.watchdog import Watchdog

_PERIOD_S = 0.05
_LAST_FRAME_S = 1.0  # the last frame of a source that ended is still assessed, if that takes no longer


def run_monitor(
    bundle: Bundle,
    runtime: Runtime,
    source: Source,
    sockets: Path,
    checks: FrameChecks,
    deadline_ms: float | None = None,
) -> int:
    """Be the monitor until the source or a signal ends it; returns the exit code: 1 where its worker died.

    Args:
        bundle: What the runtime runs.
        runtime: Infers.
        source: Of the frames; closed at the end.
        sockets: Folder of the sockets.
        checks: Of the frames.
        deadline_ms: For every prediction.

    Raises:
        InputError: The source cannot be read any more.
    """
    signals = StopSignals()
    gate, telemetry = Outbox(sockets, "gate"), Telemetry(sockets, opening_of(bundle, runtime, deadline_ms))

    def publish(assessment: Assessment) -> None:
        gate.send(assessment)
        telemetry.tell(assessment)

    monitor = Monitor(
        runtime,
        checks,
        publish,
        bundle=bundle.digest,
        camera_clock_ns=source.clock_ns,
        record=telemetry.record,
        deadline_ms=deadline_ms,
    )
    monitor.start()
    reader = _Reader(source, monitor)
    rounds = 0
    watchdog = Watchdog({"loop": lambda: rounds, "worker": lambda: monitor.progress})
    telemetry.refresh(time.monotonic())
    watchdog.ready()
    reader.start()
    while not signals.asked and monitor.alive and reader.is_alive():
        time.sleep(_PERIOD_S)
        telemetry.refresh(time.monotonic())
        rounds += 1
        watchdog.beat()
    watchdog.stopping()
    source.close()
    if not signals.asked:
        _await_last(monitor)
    died = not monitor.alive
    monitor.stop()
    if reader.error is not None:
        raise reader.error
    return int(died)


def opening_of(bundle: Bundle, runtime: Runtime, deadline_ms: float | None = None) -> Opening:
    """What a monitor runs with, as text."""
    parameters = {
        "engine": runtime.engine.name,
        "engine_version": runtime.engine.version,
        "samples": str(runtime.samples),
        "seed": str(bundle.manifest.bank.seed),
        "deadline_ms": "" if deadline_ms is None else str(deadline_ms),
    }
    return Opening(process="monitor", bundle=bundle.digest, bundle_path=str(bundle.folder), parameters=parameters)


class _Reader(threading.Thread):
    """Reads the source, so that one that hangs does not take the process's loop with it."""

    def __init__(self, source: Source, monitor: Monitor) -> None:
        super().__init__(name="source", daemon=True)
        self._source, self._monitor = source, monitor
        self.error: EdgeBdlError | None = None

    def run(self) -> None:
        try:
            for frame in self._source.frames():
                self._monitor.offer(frame)
        except EdgeBdlError as error:
            self.error = error


def _await_last(monitor: Monitor) -> None:
    until_s = time.monotonic() + _LAST_FRAME_S
    while monitor.assessed < monitor.received - monitor.dropped and time.monotonic() < until_s:
        time.sleep(_PERIOD_S)
