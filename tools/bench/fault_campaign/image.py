"""What frames hold: no picture, half a picture, or one that shows nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from fault_campaign.bounds import BAD_FRAME_S, HANDOFF_S
from fault_campaign.fault import HOLD, Fault
from fault_campaign.harness import Run, Setup
from fault_campaign.scenery import Pixels

_BAD_FRAME = "one camera period and the margin"
#: Of 96. Up to 10 the network of the demo finds a blurred road as good as a sharp one, and nobody else looks for it.
_BLUR_PIXELS = 20.0


def _tampered(tamper: Callable[[Run, Any], None]) -> Callable[[Run], None]:
    def inject(run: Run) -> None:
        run.strike()
        run.robot.tamper = lambda message: tamper(run, message)

    return inject


def _encoding(run: Run, message: Any) -> None:
    message.encoding = str(run.rng.choice(["32FC1", "mono16", "yuv422", "", "RGB8 "]))


def _step(run: Run, message: Any) -> None:
    message.step = int(run.rng.choice([0, 1, message.step - 1, message.step * 2, 2**32 - 1]))


def _size(run: Run, message: Any) -> None:
    which = run.rng.integers(3)
    if which == 0:
        message.data = message.data[: int(run.rng.integers(len(message.data)))]
    elif which == 1:
        message.height, message.width = message.height // 2, message.width // 2
    else:
        message.height *= 2


def _corrupt(run: Run, message: Any) -> None:
    which = run.rng.integers(3)
    if which == 0:
        message.data = message.data[: len(message.data) // 2]
    elif which == 1:
        message.data = message.data[:0]
    else:
        noise = run.rng.integers(0, 256, len(message.data), dtype=np.uint8)
        message.data = type(message.data)("B", noise.tobytes())


def _seen(see: Callable[[Pixels], Pixels]) -> Callable[[Run], None]:
    """The camera sees something else from now on; its sensor goes on making noise."""

    def inject(run: Run) -> None:
        usual = run.robot.frames
        run.strike()
        run.robot.frames = lambda index: see(usual(index))

    return inject


def _blurred(pixels: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(_BLUR_PIXELS)))


def _image(tamper: Callable[[Run, Any], None], setup: Setup | None = None) -> Fault:
    return Fault(_tampered(tamper), HOLD, BAD_FRAME_S, _BAD_FRAME, bad_evidence=True, setup=setup or Setup())


def _blind(see: Callable[[Pixels], Pixels]) -> Fault:
    return Fault(_seen(see), HOLD, BAD_FRAME_S, _BAD_FRAME, bad_evidence=True)


FAULTS = {
    "wrong encoding": _image(_encoding),
    "wrong row step": _image(_step),
    "wrong size": _image(_size),
    "corrupt JPEG": _image(_corrupt, Setup(compressed=True)),
    "black frames": _blind(np.zeros_like),
    "overexposed frames": _blind(lambda pixels: np.full_like(pixels, 255)),
    "blurred frames": Fault(
        _seen(_blurred),
        frozenset({"HOLD", "HANDOFF"}),
        HANDOFF_S,
        "one camera period, the ramp of a second, one tick and the margin",
        watch_s=1.8,
        bad_evidence=True,
    ),
}
