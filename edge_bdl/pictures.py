"""How light and how sharp a camera's pictures are: known of calibration frames, measured on every frame. Pure numpy.

The exporter notes the range of both in the manifest; the monitor holds every picture against it. A bundle takes
pictures of one size, so both measure the same pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_bdl.part import Part

Pixels = NDArray[np.uint8]

# About so many pixels are looked at in each direction.
_PIXELS = 4800


class Pictures(Part, frozen=True, kw_only=True):
    """Between what calibration frames were.

    Attributes:
        darkest: Lowest `level` of a frame.
        brightest: Highest `level` of a frame.
        least_sharp: Lowest `sharpness` of a frame.
    """

    darkest: float
    brightest: float
    least_sharp: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.darkest <= self.brightest <= 255.0:
            raise ValueError(f"levels are in [0, 255] and rise, got {self.darkest} and {self.brightest}")
        if not (math.isfinite(self.least_sharp) and self.least_sharp >= 0.0):
            raise ValueError(f"sharpness is finite and not negative, got {self.least_sharp}")

    @classmethod
    def of(cls, frames: Iterable[Pixels]) -> Pictures:
        """The range of at least one frame, uint8 [H, W, C] each."""
        seen = [(level(frame), sharpness(frame)) for frame in frames]
        levels, sharp = zip(*seen, strict=True)
        return cls(darkest=min(levels), brightest=max(levels), least_sharp=min(sharp))


def takes_pictures(shape: Sequence[int], dtype: str) -> bool:
    """Whether an input is a camera's: uint8 [H, W, 1 or 3], with or without an axis of 1 in front."""
    axes = shape[1:] if len(shape) == 4 and shape[0] == 1 else shape
    return len(axes) == 3 and axes[2] in (1, 3) and min(axes[:2]) >= 3 and dtype == "uint8"


def level(pixels: Pixels) -> float:
    """Mean of a picture, uint8 [H, W, C], in [0, 255]."""
    return float(pixels[:: _every(pixels)].mean())


def sharpness(pixels: Pixels) -> float:
    """Variance of the second differences of neighbours, over that of the picture; 0 for one without contrast.

    The variance of the Laplacian tells a picture in focus from one that is not (Pech-Pacheco et al. 2000, "Diatom
    autofocusing in brightfield microscopy"); without the mixed part it takes half the time. Divided by the variance it
    does not depend on the light. Of colours the middle one is looked at: green has most of the detail.

    Args:
        pixels: uint8 [H, W, C], at least 3 x 3.
    """
    every = _every(pixels)
    channel = pixels[..., pixels.shape[2] // 2]
    rows, columns = channel[::every].astype(np.float32), channel[:, ::every].astype(np.float32)
    around = (rows - rows.mean()).ravel()
    variance: float = float(around @ around) / around.size
    if variance == 0.0:
        return 0.0
    steps, falls = rows[:, 1:] - rows[:, :-1], columns[1:] - columns[:-1]
    turns = (steps[:, 1:] - steps[:, :-1]).ravel(), (falls[1:] - falls[:-1]).ravel()
    roughness = math.fsum(float(turn @ turn) / turn.size for turn in turns)
    return roughness / variance


def _every(pixels: Pixels) -> int:
    return max(1, int(pixels.shape[0] * pixels.shape[1] / _PIXELS + 0.5))
