"""Light and sharpness: their definitions, what they do not depend on, and what the range of calibration frames is."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest

from edge_bdl.pictures import Pictures, level, sharpness, takes_pictures

RANDOM = np.random.default_rng(0)


def scene(height: int = 120, width: int = 160, seed: int = 0) -> Any:
    """Edges, in grey levels from 60 to 180."""
    generator = np.random.default_rng(seed)
    blocks = generator.integers(60, 181, (height // 8, width // 8, 3))
    return np.kron(blocks, np.ones((8, 8, 1))).astype(np.uint8)


def blurred(pixels: Any, times: int) -> Any:
    """Binomial smoothing, so many times."""
    values = pixels.astype(np.float64)
    for _ in range(times):
        for axis in (0, 1):
            values = (np.roll(values, 1, axis) + 2.0 * values + np.roll(values, -1, axis)) / 4.0
    return np.rint(values).astype(np.uint8)


def test_sharpness_is_the_variance_of_second_differences_over_that_of_the_picture() -> None:
    # Small enough that every pixel is looked at.
    pixels = RANDOM.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    green = pixels[..., 1].astype(np.float64)
    turns = [np.diff(green, 2, axis) for axis in (0, 1)]
    expected = sum((turn**2).mean() for turn in turns) / green.var()
    assert sharpness(pixels) == pytest.approx(expected, rel=1e-5)
    # Independent noise: 1 + 4 + 1 times its variance, in each direction.
    assert sharpness(RANDOM.integers(0, 256, (400, 400, 1), dtype=np.uint8)) == pytest.approx(12.0, rel=0.05)


def test_blur_lowers_it_and_light_does_not() -> None:
    sharp = scene()
    values = [sharpness(blurred(sharp, times)) for times in (0, 1, 4, 16)]
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.1 * values[0]
    for share in (0.25, 0.5, 1.4):
        assert sharpness((share * sharp).astype(np.uint8)) == pytest.approx(values[0], rel=0.05)


@pytest.mark.parametrize("shape", [(3, 3, 1), (16, 16, 3), (480, 640, 3), (1080, 1920, 3), (4, 4000, 1)])
def test_pictures_of_any_size_have_both(shape: tuple[int, int, int]) -> None:
    pixels = RANDOM.integers(0, 256, shape, dtype=np.uint8)
    assert math.isfinite(sharpness(pixels))
    assert level(pixels) == pytest.approx(pixels.mean(), abs=256.0 / math.sqrt(pixels.size / 50.0))
    assert sharpness(np.full(shape, 90, np.uint8)) == 0.0
    assert level(np.full(shape, 90, np.uint8)) == 90.0


def test_the_range_is_that_of_all_frames() -> None:
    frames = [scene(seed=seed) for seed in range(3)] + [blurred(scene(), 3), (0.5 * scene()).astype(np.uint8)]
    known = Pictures.of(frames)
    assert known == Pictures(
        darkest=min(map(level, frames)), brightest=max(map(level, frames)), least_sharp=min(map(sharpness, frames))
    )


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"darkest": -1.0}, "levels are in"), ({"brightest": 256.0}, "levels are in"), ({"darkest": 200.0}, "rise"),
        ({"darkest": math.nan}, "levels are in"), ({"least_sharp": -0.1}, "not negative"),
        ({"least_sharp": math.inf}, "finite"),
    ],
)  # fmt: skip
def test_a_range_that_cannot_be_is_refused(fields: dict[str, float], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        Pictures(**{"darkest": 50.0, "brightest": 150.0, "least_sharp": 0.1, **fields})


@pytest.mark.parametrize(
    ("shape", "dtype", "takes"),
    [
        ((1, 120, 160, 3), "uint8", True), ((120, 160, 1), "uint8", True), ((1, 120, 160, 3), "float32", False),
        ((1, 3, 120, 160), "uint8", False), ((2, 120, 160, 3), "uint8", False), ((1, 2, 160, 3), "uint8", False),
        ((10,), "uint8", False),
    ],
)  # fmt: skip
def test_only_a_camera_s_input_has_pictures(shape: tuple[int, ...], dtype: str, takes: bool) -> None:
    assert takes_pictures(shape, dtype) == takes


def test_both_take_a_fraction_of_the_time_that_a_frame_may_take() -> None:
    pixels = scene()
    took = []
    for _ in range(50):
        began = time.perf_counter()
        level(pixels)
        sharpness(pixels)
        took.append(time.perf_counter() - began)
    assert min(took) < 0.3e-3  # the fastest: another process may have had the core
