"""A drive of the real runtime, policy and gate, told as its processes would tell it, and ways to record it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge_bdl.bundle import Bundle
from edge_bdl.runtime import Runtime
from edge_bdl_firmware.gate import Gate
from edge_bdl_firmware.messages import AnyMessage, Assessment, Command, Frame, Human, Opening, boot_id
from edge_bdl_firmware.recorder.log_writer import LogWriter
from edge_bdl_firmware.recorder.ring import Received

BUNDLE = Path(__file__).parents[2] / "bundles" / "tiny_masks.ebdl"
HZ = 20
START_S = 1000.0

#: What the camera sees, and for how many frames: long enough to drive, be slowed, and be handed over.
SIGHTS = (("clear", 30), ("unsure", 15), ("clear", 30), ("black", 2), ("clear", 10), ("strange", 3), ("clear", 10))


def pixels(sight: str, generator: np.random.Generator) -> np.ndarray:
    """A frame that the tiny bundle is sure of, over a SLOW threshold on, or over a HANDOFF threshold on."""
    frame = np.zeros((16, 16, 3), np.uint8)
    if sight == "clear":
        frame[:8] = 250
        frame += generator.integers(0, 6, frame.shape, dtype=np.uint8)
    elif sight == "unsure":
        frame[:, 1::2, 2] = 255
    elif sight == "strange":
        frame[8:, :, 0] = 255
    return frame


def tell_drive(sights: Sequence[tuple[str, int]] = SIGHTS, opening: Opening | None = None) -> list[Received]:
    """All messages of a drive, as the recorder gets them: the real runtime and gate at simulated times."""
    bundle = Bundle.open(BUNDLE)
    runtime = Runtime.open(bundle, bundle.manifest.engines[0])
    gate = Gate(bundle.manifest.policy, bundle.digest, boot_id())
    generator = np.random.default_rng(5)
    told: list[Received] = []

    def tell(now_s: float, *messages: AnyMessage | None) -> None:
        told.extend(Received(round(now_s * 1e9), message) for message in messages if message is not None)

    for number, sight in enumerate(sight for sight, count in sights for _ in range(count)):
        now_s = START_S + number / HZ
        if number % HZ == 0:
            tell(now_s, gate.tick(now_s, 0.25), gate.snapshot(now_s))
            for process in ("monitor", "gate"):
                tell(now_s, Opening(process=process, bundle=bundle.digest, bundle_path=str(BUNDLE)))
        shown = pixels(sight, generator)
        frame = Frame(
            sequence=number, stamp_ns=number * 10**9 // HZ, received_s=now_s + 0.001, encoding="rgb8",
            height=16, width=16, step=48, data=shown.tobytes(),
        )  # fmt: skip
        assessment = _assess(
            runtime, bundle, frame, shown, fault="the frame has no contrast" if sight == "black" else None
        )
        # The gate hears of it before the recorder does, and the frame itself comes last.
        before = gate.level
        step = gate.assess(now_s + 0.010, assessment)
        tell(now_s + 0.010, step)
        if step.level != before.value:
            tell(now_s + 0.010, gate.snapshot(now_s + 0.010))
        tell(now_s + 0.011, assessment, frame)
        tell(now_s + 0.020, gate.command(now_s + 0.020, Command(axes=(1.0, 0.0, 0.0, 0.0, 0.0, 0.25))))
        tell(now_s + 0.035, gate.tick(now_s + 0.035, 0.5))
    human = Human(act="acknowledge")
    tell(now_s + 0.040, human, gate.human(now_s + 0.040, human))
    tell(now_s + 0.041, gate.snapshot(now_s + 0.040))
    return told


def _assess(runtime: Runtime, bundle: Bundle, frame: Frame, shown: np.ndarray, *, fault: str | None) -> Assessment:
    evidence = None if fault is not None else runtime.predict(shown).evidence()
    return Assessment(
        sequence=frame.sequence,
        stamp_ns=frame.stamp_ns,
        received_s=frame.received_s,
        boot_id=boot_id(),
        bundle=bundle.digest,
        scores={} if evidence is None else dict(evidence.scores),
        samples=0 if evidence is None else evidence.samples,
        fault=fault if evidence is None else evidence.fault,
    )


@pytest.fixture(scope="session")
def drive() -> list[Received]:
    """A drive from HOLD through NOMINAL, SLOW, HOLD and HANDOFF."""
    return tell_drive()


Record = Callable[..., Path]


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """Writes messages to a recording, each changed on its way, or left out where the change returns None."""

    def written(
        entries: Sequence[Received], change: Callable[[AnyMessage], AnyMessage | None] | None = None, name: str = "a"
    ) -> Path:
        log = LogWriter(tmp_path / f"{name}.mcap", 10**18, {"trigger": "test"})
        for entry in entries:
            message = entry.message if change is None else change(entry.message)
            if message is not None:
                log.write(Received(entry.received_ns, message))
        log.finish({"end": "test"})
        return log.path

    return written


class RecorderProcess:
    """``edge-bdl record`` as a real process."""

    def __init__(self, sockets: Path, *arguments: str) -> None:
        line = [sys.executable, "-m", "edge_bdl.cli", "record", "--sockets", str(sockets), *arguments]
        self.process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        until_s = time.monotonic() + 30.0
        while not (sockets / "recorder.sock").exists():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < until_s, "the recorder does not come up"
            time.sleep(0.01)

    def end(self, number: int) -> tuple[int, str, str]:
        """Send a signal; exit code and output."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err


@pytest.fixture
def start_recorder(tmp_path: Path) -> Iterator[Callable[..., RecorderProcess]]:
    """Starts recorders, and ends those that a test leaves."""
    started: list[RecorderProcess] = []

    def start(*arguments: str) -> RecorderProcess:
        started.append(RecorderProcess(tmp_path / "sockets", *arguments))
        return started[-1]

    yield start
    for recorder in started:
        if recorder.process.poll() is None:
            recorder.process.kill()
        recorder.process.communicate()


def changed(message: AnyMessage, **fields: object) -> AnyMessage:
    """The message with other fields."""
    return msgspec.structs.replace(message, **fields)
