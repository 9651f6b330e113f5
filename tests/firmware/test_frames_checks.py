"""Faults of stamps and pictures: each is seen, none is seen in good frames, and each ends with its cause."""

from __future__ import annotations

import csv
import math
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_bdl.pictures import Pictures
from edge_bdl_firmware.frames.checks import FrameChecks, FrameChecksConfig
from edge_bdl_firmware.frames.decode import decode_frame
from edge_bdl_firmware.messages import Frame

REAL_DRIVES = Path(os.environ.get("EDGE_BDL_RC_CAR") or Path(__file__).parents[3] / "shared" / "data" / "rc_car")
PERIOD_NS = 50_000_000
START_NS = 1_700_000_000 * 10**9


class Camera:
    """A good camera at 20 Hz, whose frames may be spoilt one by one."""

    def __init__(self, *, clock: bool = True, shape: tuple[int, int, int] = (48, 64, 3), **config: Any) -> None:
        self.checks = FrameChecks(FrameChecksConfig(**config))
        self.clock = clock
        self.shape = shape
        self.index = 0
        self.random = np.random.default_rng(0)

    def check(self, pixels: Any = None, **changes: Any) -> str | None:
        """Check the next frame."""
        self.index += 1
        now_ns, now_s = START_NS + self.index * PERIOD_NS, 100.0 + self.index * 0.05
        if pixels is None:
            pixels = self.random.integers(0, 256, self.shape, dtype=np.uint8)
        fields = {"stamp_ns": now_ns - 5_000_000, "received_s": now_s - 0.001, **changes}
        frame = Frame(sequence=self.index, encoding="rgb8", data=b"", **fields)
        return self.checks.check(frame, pixels, now_ns if self.clock else None, now_s)

    def stamp(self, offset_s: float) -> int:
        """A stamp so far ahead of the clock as it will be at the next check."""
        return START_NS + (self.index + 1) * PERIOD_NS + round(offset_s * 1e9)


def test_a_good_camera_has_no_faults() -> None:
    for clock in (True, False):
        camera = Camera(clock=clock)
        assert [camera.check() for _ in range(50)] == [None] * 50


# Stamps


def test_no_stamp_is_a_fault_and_ends_with_the_next_good_one() -> None:
    camera = Camera()
    assert camera.check(stamp_ns=0) == "the frame has no stamp"
    assert camera.check() is None
    assert camera.check(stamp_ns=0) == "the frame has no stamp"
    assert camera.check(stamp_ns=-5) == "the frame's stamp is negative: -5 ns"
    assert camera.check() is None


@pytest.mark.parametrize("clock", [True, False])
def test_a_repeated_stamp_is_a_fault_for_as_long_as_it_repeats(clock: bool) -> None:
    camera = Camera(clock=clock)
    camera.check()
    stamp_ns = camera.stamp(0.0)
    assert camera.check(stamp_ns=stamp_ns) is None
    for _ in range(3):
        assert camera.check(stamp_ns=stamp_ns) == "the frame's stamp repeats the one before"
    assert camera.check() is None


def test_a_stamp_that_went_back_is_one_fault_and_then_the_new_time_counts() -> None:
    camera = Camera(clock=False)
    camera.check()
    past_ns = START_NS - 3600 * 10**9
    assert camera.check(stamp_ns=past_ns) == "the frame's stamp went back by 3.6e+03 s"
    assert camera.check(stamp_ns=past_ns + PERIOD_NS) is None
    assert camera.check() is None


def test_a_stamp_from_the_future_is_a_fault_and_no_base_for_the_next() -> None:
    camera = Camera()
    camera.check()
    assert camera.check(stamp_ns=camera.stamp(3600.0)) == "the frame's stamp is 3.6e+03 s in the future"
    assert camera.check() is None
    assert camera.check(stamp_ns=camera.stamp(0.11)) == "the frame's stamp is 0.11 s in the future"
    assert camera.check(stamp_ns=camera.stamp(0.09)) is None


def test_without_a_clock_only_the_order_of_stamps_counts() -> None:
    camera = Camera(clock=False)
    assert camera.check(stamp_ns=1) is None
    assert camera.check(stamp_ns=2**62) is None
    assert camera.check() is not None


def test_a_frame_that_is_old_by_its_stamp_is_a_fault() -> None:
    camera = Camera(timeout_s=0.2)
    assert camera.check(stamp_ns=camera.stamp(-0.19)) is None
    assert camera.check(stamp_ns=camera.stamp(-0.21)) == "the frame is 0.21 s old by its stamp, expected at most 0.2"
    assert camera.check() is None


def test_a_frame_that_waited_too_long_is_a_fault_whatever_its_stamp() -> None:
    camera = Camera(clock=False)
    assert camera.check(received_s=99.7) == "the frame came 0.35 s ago, expected at most 0.3"
    assert camera.check() is None


@pytest.mark.parametrize("received_s", [math.nan, math.inf, -math.inf, 1000.0])
def test_a_time_of_receipt_that_cannot_be_is_a_fault(received_s: float) -> None:
    camera = Camera()
    assert camera.check(received_s=received_s) is not None
    assert camera.check() is None


@given(
    stamps=st.lists(st.integers(-(2**63), 2**63) | st.integers(START_NS, START_NS + 10 * PERIOD_NS), max_size=20),
    clock=st.booleans(),
)
def test_good_frames_clear_every_fault_of_stamps_within_two(stamps: list[int], clock: bool) -> None:
    camera = Camera(clock=clock)
    for stamp_ns in stamps:
        camera.check(stamp_ns=stamp_ns)
    camera.check()
    assert camera.check() is None


@given(stamps=st.lists(st.integers(1, 9), min_size=2, max_size=30))
def test_no_frame_passes_whose_stamp_does_not_rise(stamps: list[int]) -> None:
    camera = Camera(clock=False)
    faults = [camera.check(stamp_ns=stamp_ns) for stamp_ns in stamps]
    for before, after, fault in zip(stamps, stamps[1:], faults[1:], strict=False):
        assert (fault is None) == (after > before)


# Pictures


def test_a_frozen_picture_with_new_stamps_is_a_fault_until_it_moves() -> None:
    camera = Camera(frozen_frames=3)
    picture = camera.random.integers(0, 256, camera.shape, dtype=np.uint8)
    faults = [camera.check(picture.copy()) for _ in range(6)]
    assert faults[:3] == [None] * 3
    assert faults[3] == "the picture is frozen: 3 frames in a row are the one before"
    assert faults[5] == "the picture is frozen: 5 frames in a row are the one before"
    assert camera.check() is None


def test_one_value_that_differs_off_the_grid_is_a_camera_that_lives() -> None:
    camera = Camera(frozen_frames=2, shape=(480, 640, 3))
    picture = camera.random.integers(0, 255, camera.shape, dtype=np.uint8)
    for index in range(10):
        changed = picture.copy()
        changed[1, 1, 1] += index % 2
        assert camera.check(changed) is None


def test_zero_frames_switch_the_frozen_check_off_for_simulators() -> None:
    camera = Camera(frozen_frames=0)
    picture = camera.random.integers(0, 256, camera.shape, dtype=np.uint8)
    assert [camera.check(picture) for _ in range(100)] == [None] * 100


def test_faulty_stamps_in_between_do_not_thaw_a_frozen_picture() -> None:
    camera = Camera(frozen_frames=4)
    picture = camera.random.integers(0, 256, camera.shape, dtype=np.uint8)
    faults = [camera.check(picture, **({} if index % 2 else {"stamp_ns": 0})) for index in range(10)]
    assert faults[9] == "the picture is frozen: 4 frames in a row are the one before"


def noisy(level: float, deviation: float, shape: tuple[int, ...] = (48, 64, 3), seed: int = 0) -> Any:
    noise = np.random.default_rng(seed).normal(level, deviation, shape)
    return np.clip(np.rint(noise), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("level", [0, 40, 128, 255])
def test_an_even_picture_is_a_covered_or_blind_lens(level: int) -> None:
    camera = Camera()
    for index in range(5):
        assert "no contrast" in str(camera.check(noisy(level, 1.0, seed=index)))
    assert camera.check() is None


def test_an_even_picture_of_a_colour_has_no_contrast_either() -> None:
    blue = np.zeros((48, 64, 3), np.uint8)
    blue[..., 2] = 200
    assert "no contrast" in str(Camera().check(blue))


def test_contrast_in_one_channel_is_contrast() -> None:
    picture = np.full((48, 64, 3), 90, np.uint8)
    picture[:, ::2, 0] = 100
    assert Camera().check(picture) is None


@pytest.mark.parametrize(("low", "high"), [(0, 60), (253, 180), (2, 255)])
def test_a_picture_that_is_nearly_all_clipped_is_over_or_underexposed(low: int, high: int) -> None:
    picture = np.full((50, 64, 3), low, np.uint8)
    picture[:3] = high  # 6 % that are no evidence of a working camera
    assert "of the picture is clipped, expected at most 90%" in str(Camera().check(picture))


def test_a_picture_with_enough_that_is_not_clipped_passes() -> None:
    picture = np.zeros((50, 64, 3), np.uint8)
    picture[:10] = noisy(90, 20, (10, 64, 3))
    assert Camera().check(picture) is None
    assert "80% of the picture is clipped" in str(Camera(most_clipped=0.75).check(picture))


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 3), (16, 16, 1), (480, 640, 1), (1080, 1920, 3), (4, 4000, 3)])
def test_pictures_of_any_size_are_judged_alike(shape: tuple[int, int, int]) -> None:
    assert "no contrast" in str(Camera().check(np.zeros(shape, np.uint8)))
    if shape[0] > 1:
        assert Camera().check(noisy(128, 40, shape)) is None


# Beside calibration frames


def scene(seed: int = 0, light: float = 1.0) -> Any:
    """Edges in grey levels from 60 to 180, at this much light."""
    blocks = np.random.default_rng(seed).integers(60, 181, (15, 20, 3))
    return np.clip(light * np.kron(blocks, np.ones((8, 8, 1))), 0, 255).astype(np.uint8)


def calibrated() -> Camera:
    camera = Camera()
    camera.checks.known = Pictures.of([scene(seed) for seed in range(20)])
    return camera


def smoothed(pixels: Any, width: int) -> Any:
    """The mean of so many neighbours, across and down."""
    values = pixels.astype(np.float64)
    for axis in (0, 1):
        values = sum(np.roll(values, shift, axis) for shift in range(width)) / width
    return np.rint(values).astype(np.uint8)


def test_pictures_like_the_calibration_frames_are_no_fault() -> None:
    camera = calibrated()
    assert [camera.check(scene(seed, light)) for seed, light in ((30, 1.0), (31, 0.7), (32, 1.2), (33, 0.9))] == [
        None
    ] * 4


@pytest.mark.parametrize(
    ("spoilt", "what"),
    [
        (lambda pixels: (0.15 * pixels).astype(np.uint8), "the picture is dark: 18 of 255, calibration frames 11"),
        (lambda pixels: 255 - (0.3 * (255 - pixels.astype(float))).astype(np.uint8), "the picture is overexposed: 2"),
        (lambda pixels: smoothed(pixels, 7), "the picture is blurred: sharpness 0.0"),
    ],
    ids=["dark", "overexposed", "blurred"],
)
def test_pictures_far_outside_of_them_are_until_they_end(spoilt: Any, what: str) -> None:
    camera = calibrated()
    for seed in range(3):
        assert what in str(camera.check(spoilt(scene(seed))))
    assert camera.check(scene(9)) is None


def test_a_bundle_that_knows_no_calibration_frames_asks_for_nothing() -> None:
    camera = Camera()
    assert camera.check(smoothed(scene(0, 0.15), 7)) is None


@pytest.mark.parametrize(
    "config",
    [
        {"timeout_s": 0.0}, {"timeout_s": 0.41}, {"timeout_s": math.nan}, {"future_tolerance_s": -0.1},
        {"future_tolerance_s": math.nan}, {"frozen_frames": -1}, {"lowest_contrast": -1.0}, {"lowest_contrast": 200.0},
        {"lowest_contrast": math.nan}, {"most_clipped": 0.0}, {"most_clipped": 1.01}, {"most_clipped": math.nan},
    ],
)  # fmt: skip
def test_a_configuration_that_makes_no_sense_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(config))):
        FrameChecksConfig(**config)


@pytest.mark.skipif(not REAL_DRIVES.is_dir(), reason=f"no real drive in {REAL_DRIVES}; set EDGE_BDL_RC_CAR")
def test_no_frame_of_a_real_drive_is_a_fault_and_spoilt_ones_are() -> None:
    with (REAL_DRIVES / "labels.csv").open() as file:
        stamps = {row["file"]: int(row["timestamp_ms"]) * 10**6 for row in csv.DictReader(file)}
    checks = FrameChecks(FrameChecksConfig())
    faults: dict[str, str] = {}
    spoilt: dict[str, list[str | None]] = {"dark": [], "overexposed": [], "blurred": []}
    pictures: list[Any] = []
    with tarfile.open(REAL_DRIVES / "frames.tar") as archive:
        contents = {member.name: archive.extractfile(member) for member in archive if member.isfile()}
        for index, (name, stamp_ns) in enumerate(list(stamps.items())[::5]):
            content = contents[name]
            assert content is not None
            frame = Frame(sequence=index, stamp_ns=stamp_ns, received_s=0.0, encoding="jpeg", data=content.read())
            pixels = decode_frame(frame, (120, 160, 3), "uint8")
            # The first half of the drive is what the second is held against.
            pictures.append(pixels)
            if len(pictures) == len(stamps) // 10:
                checks.known = Pictures.of(pictures)
            fault = checks.check(frame, pixels, None, 0.0)
            if fault is not None:
                faults[name] = fault
            if checks.known is not None and index % 20 == 0:
                spoilt["dark"].append(checks._picture((0.15 * pixels).astype(np.uint8)))
                spoilt["overexposed"].append(checks._picture(np.clip(3.0 * pixels, 0, 255).astype(np.uint8)))
                spoilt["blurred"].append(checks._picture(smoothed(smoothed(pixels, 7), 7)))
    assert faults == {}
    assert index > 2000
    for what, said in spoilt.items():
        assert len(said) > 50
        assert np.mean([fault is not None and (what in fault or "clipped" in fault) for fault in said]) > 0.95, what
