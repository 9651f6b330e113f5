"""Is this frame something to infer on? Stamps that cannot be, a picture that stands still, a lens that sees nothing.

Pure: frames and times come in, a text comes out where something is wrong. Every fault ends by itself with the frames
that cause it.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_bdl.pictures import Pictures, level, sharpness
from edge_bdl.policy_spec import LONGEST_TIMEOUT_S
from edge_bdl_firmware.messages import Frame

# The picture is judged by about so many of its pixels, on a regular grid.
_GRID_PIXELS = 4096
_DARKEST, _BRIGHTEST = 2, 253
_WHITE = 255.0
# Of what calibration frames were at worst: half the light, half of what is missing to white, half the sharpness.
_MARGIN = 0.5


class FrameChecksConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a frame may be like.

    Attributes:
        timeout_s: A frame is this old at most, by its receipt and by its stamp.
        future_tolerance_s: Its stamp is ahead of the camera's clock by this at most.
        frozen_frames: So many frames in a row with the same pixels as the one before are a camera that hangs; 0 never
            is, for simulators without sensor noise.
        lowest_contrast: Standard deviation of the liveliest channel, of 255, below which the lens is covered or blind.
        most_clipped: Share of values at the very dark or bright end above which the picture is over- or underexposed.
    """

    timeout_s: float = 0.3
    future_tolerance_s: float = 0.1
    frozen_frames: int = 10
    lowest_contrast: float = 2.0
    most_clipped: float = 0.9

    def __post_init__(self) -> None:
        if not 0.0 < self.timeout_s <= LONGEST_TIMEOUT_S:
            raise ValueError(f"timeout_s is above 0 and at most {LONGEST_TIMEOUT_S:g}, got {self.timeout_s}")
        if not 0.0 <= self.future_tolerance_s <= LONGEST_TIMEOUT_S:
            raise ValueError(f"future_tolerance_s is in [0, {LONGEST_TIMEOUT_S:g}], got {self.future_tolerance_s}")
        if self.frozen_frames < 0:
            raise ValueError(f"frozen_frames is at least 1, or 0 for never, got {self.frozen_frames}")
        if not 0.0 <= self.lowest_contrast <= 127.5:
            raise ValueError(f"lowest_contrast is a standard deviation in [0, 127.5], got {self.lowest_contrast}")
        if not 0.0 < self.most_clipped <= 1.0:
            raise ValueError(f"most_clipped is a share above 0 and at most 1, got {self.most_clipped}")


class FrameChecks:
    """Checks the frames of one camera, one after the other.

    Args:
        config: What a frame may be like.

    Attributes:
        known: How light and how sharp the calibration frames were; None where that is not known.
    """

    def __init__(self, config: FrameChecksConfig | None = None) -> None:
        self.config = config or FrameChecksConfig()
        self.known: Pictures | None = None
        self._last_stamp_ns: int | None = None
        self._last: tuple[NDArray[np.uint8], NDArray[np.uint8]] | None = None
        self._identical = 0

    def check(self, frame: Frame, pixels: NDArray[np.uint8], clock_now_ns: int | None, now_s: float) -> str | None:
        """What is wrong with a frame; None where nothing is.

        Args:
            frame: As it came.
            pixels: Its picture, uint8 [H, W, C]; kept until the next frame, so nobody may change it.
            clock_now_ns: The camera's clock now; None where there is none to compare its stamps with.
            now_s: CLOCK_MONOTONIC now.
        """
        return self._age(frame, now_s) or self._stamp(frame.stamp_ns, clock_now_ns) or self._picture(pixels)

    def _age(self, frame: Frame, now_s: float) -> str | None:
        age_s = now_s - frame.received_s
        if not math.isfinite(age_s) or age_s < -self.config.future_tolerance_s:
            return f"the frame has not come yet: {-age_s:.3g} s ahead"
        if age_s > self.config.timeout_s:
            return f"the frame came {age_s:.2f} s ago, expected at most {self.config.timeout_s:g}"
        return None

    def _stamp(self, stamp_ns: int, clock_now_ns: int | None) -> str | None:
        if stamp_ns <= 0:
            return "the frame has no stamp" if stamp_ns == 0 else f"the frame's stamp is negative: {stamp_ns} ns"
        age_s = None if clock_now_ns is None else (clock_now_ns - stamp_ns) * 1e-9
        if age_s is not None and age_s < -self.config.future_tolerance_s:
            # It is no time base either: the first good stamp after it is not going backward.
            return f"the frame's stamp is {-age_s:.3g} s in the future"
        last_ns, self._last_stamp_ns = self._last_stamp_ns, stamp_ns
        if last_ns is not None and stamp_ns == last_ns:
            return "the frame's stamp repeats the one before"
        if last_ns is not None and stamp_ns < last_ns:
            return f"the frame's stamp went back by {(last_ns - stamp_ns) * 1e-9:.3g} s"
        if age_s is not None and age_s > self.config.timeout_s:
            return f"the frame is {age_s:.3g} s old by its stamp, expected at most {self.config.timeout_s:g}"
        return None

    def _picture(self, pixels: NDArray[np.uint8]) -> str | None:
        stride = max(1, round(math.sqrt(pixels.shape[0] * pixels.shape[1] / _GRID_PIXELS)))
        # One row for each channel, in one piece: what follows is several times as fast.
        grid = np.ascontiguousarray(pixels[::stride, ::stride].transpose(2, 0, 1)).reshape(pixels.shape[2], -1)
        return self._frozen(pixels, grid) or self._blind(grid) or self._unlike(pixels)

    def _frozen(self, pixels: NDArray[np.uint8], grid: NDArray[np.uint8]) -> str | None:
        # Two frames of a live camera differ in the grid already; only equal grids are worth a look at everything.
        last, self._last = self._last, (grid, pixels)
        same = last is not None and np.array_equal(grid, last[0]) and np.array_equal(pixels, last[1])
        self._identical = self._identical + 1 if same else 0
        if self.config.frozen_frames and self._identical >= self.config.frozen_frames:
            return f"the picture is frozen: {self._identical} frames in a row are the one before"
        return None

    def _blind(self, grid: NDArray[np.uint8]) -> str | None:
        # Channel by channel: a cap may be blue.
        contrast = float(grid.std(axis=1).max())
        if contrast < self.config.lowest_contrast:
            return f"the picture has no contrast: {contrast:.2g} of 255, expected {self.config.lowest_contrast:g}"
        clipped = np.count_nonzero((grid <= _DARKEST) | (grid >= _BRIGHTEST)) / grid.size
        if clipped > self.config.most_clipped:
            return f"{clipped:.0%} of the picture is clipped, expected at most {self.config.most_clipped:.0%}"
        return None

    def _unlike(self, pixels: NDArray[np.uint8]) -> str | None:
        """Far outside of what the network was calibrated on: its density may well not see that it sees nothing."""
        if self.known is None:
            return None
        light, known = level(pixels), self.known
        if light < _MARGIN * known.darkest:
            return f"the picture is dark: {light:.0f} of 255, calibration frames {known.darkest:.0f} at least"
        if _WHITE - light < _MARGIN * (_WHITE - known.brightest):
            return f"the picture is overexposed: {light:.0f} of 255, calibration frames {known.brightest:.0f} at most"
        sharp = sharpness(pixels)
        if sharp < _MARGIN * known.least_sharp:
            return f"the picture is blurred: sharpness {sharp:.2g}, calibration frames {known.least_sharp:.2g} at least"
        return None
