"""Calibration frames: three parts that share nothing, and a clear word on whatever does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edge_bdl.errors import ExportError
from edge_bdl.manifest import TensorSpec
from edge_bdl_export.frames import FIGURES, SELECTION, THRESHOLDS, read_frames

IMAGE = TensorSpec(name="image", shape=(1, 4, 3), dtype="uint8")
SPEED = TensorSpec(name="speed", shape=(1, 2), dtype="float32")
COUNT = 40


def images(count: int = COUNT) -> np.ndarray:
    return np.arange(count * 12, dtype=np.uint32).reshape(count, 1, 4, 3).astype(np.uint8)


def speeds(count: int = COUNT) -> np.ndarray:
    return np.linspace(0.0, 1.0, 2 * count, dtype=np.float32).reshape(count, 1, 2)


@pytest.mark.parametrize(
    "given_as", ["array", "tensor", "without the leading axis", "mapping", "by name", "npz", "path text"]
)
def test_one_input_may_be_given_in_many_ways(given_as: str, tmp_path: Path):
    path = tmp_path / "frames.npz"
    np.savez(path, inputs=images())
    calibration = {
        "array": images(),
        "tensor": torch.from_numpy(images()),
        "without the leading axis": images()[:, 0],
        "mapping": {"inputs": images()},
        "by name": {"image": images()},
        "npz": path,
        "path text": str(path),
    }[given_as]
    frames = read_frames(calibration, [IMAGE])
    assert np.array_equal(frames.inputs["image"], images())
    assert (frames.labels, frames.episodes, frames.period_s) == (None, None, 0.05)


def test_everything_known_of_frames_is_kept():
    calibration = {
        "image": images(), "speed": speeds(), "labels": np.arange(COUNT) / 7.0, "episodes": np.repeat(np.arange(5), 8),
        "period_s": 0.1,
    }  # fmt: skip
    frames = read_frames(calibration, [IMAGE, SPEED])
    assert list(frames.inputs) == ["image", "speed"]
    assert frames.period_s == 0.1
    part = frames.part(THRESHOLDS)
    rows = np.flatnonzero(frames.split == THRESHOLDS)
    assert np.array_equal(part.labels, rows / 7.0)
    assert np.array_equal(part.episodes, rows // 8)
    assert [frame["speed"].shape for frame in part] == [(1, 2)] * len(rows)


@given(count=st.integers(25, 400))
def test_parts_are_contiguous_disjoint_and_of_two_two_and_one_fifth(count: int):
    frames = read_frames(images(count), [IMAGE])
    rows = [np.flatnonzero(frames.split == part) for part in (SELECTION, THRESHOLDS, FIGURES)]
    assert np.array_equal(np.concatenate(rows), np.arange(count))
    for part, share in zip(rows, (0.4, 0.4, 0.2), strict=True):
        assert abs(len(part) - share * count) <= 1.0


@given(lengths=st.lists(st.integers(1, 30), min_size=3, max_size=12), shuffled=st.booleans())
def test_an_episode_is_never_cut(lengths: list[int], shuffled: bool):
    episodes = np.repeat(np.arange(len(lengths)) * 10, lengths)
    count = len(episodes)
    if count < 25:
        return
    if shuffled:
        episodes = np.random.Generator(np.random.Philox(0)).permutation(episodes)
    frames = read_frames({"inputs": images(count), "episodes": episodes}, [IMAGE])
    parts = {int(episode): set(frames.split[episodes == episode]) for episode in np.unique(episodes)}
    assert all(len(found) == 1 for found in parts.values())
    assert {part for found in parts.values() for part in found} == {SELECTION, THRESHOLDS, FIGURES}


def test_a_given_split_is_kept():
    split = np.tile([SELECTION, THRESHOLDS, FIGURES, THRESHOLDS], COUNT // 4)
    assert np.array_equal(read_frames({"inputs": images(), "split": split}, [IMAGE]).split, split)


def test_thinned_frames_are_spread_over_all_of_them():
    frames = read_frames(images(100), [IMAGE])
    thinned = frames.thinned(5)
    assert [int(frame["image"].flat[0]) for frame in thinned] == [
        int(images(100)[i].flat[0]) for i in (0, 25, 50, 74, 99)
    ]
    assert len(frames.thinned(1000)) == 100


def bad(**changes: Any) -> dict[str, Any]:
    return {"image": images(), "speed": speeds(), **changes}


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        ({"speed": speeds()}, "has no 'image'; it holds"),
        ({"inputs": images()}, "has no 'image'"),
        (bad(lables=np.zeros(COUNT)), "'lables' is not known"),
        (bad(image=images()[:, :, :3]), r"frames of 'image' have shape 1x3x3, the example has \(1, 4, 3\)"),
        (bad(image=images().astype(np.float32)), "'image' is float32, the example is uint8"),
        (bad(speed=speeds().astype(np.float64)), "'speed' is float64"),
        (bad(speed=np.where(speeds() > 0.9, np.nan, speeds())), "'speed' holds NaN or infinity"),
        (bad(speed=np.where(speeds() > 0.9, np.inf, speeds()).astype(np.float32)), "'speed' holds NaN or infinity"),
        (bad(speed=speeds(COUNT - 1)), "'speed' has 39 frames, another input 40"),
        (
            {"image": images(24), "speed": speeds(24)},
            "24 frames cannot be split three ways; give hundreds, at least 25",
        ),
        (bad(labels=np.zeros(COUNT - 1)), "'labels' must be one finite number or array per frame, 40 in all"),
        (bad(labels=np.full(COUNT, np.nan)), "'labels' must be one finite"),
        (bad(labels=np.full(COUNT, "left")), "'labels' must be one finite"),
        (bad(labels=3.0), "'labels' must be one finite"),
        (bad(episodes=np.zeros(COUNT)), "'episodes' must be 40 integers, got float64"),
        (bad(episodes=np.zeros((COUNT, 1), int)), r"'episodes' must be 40 integers, got int64 of shape \(40, 1\)"),
        (bad(episodes=np.repeat([0, 1], COUNT // 2)), "2 episodes cannot be split three ways; give at least 3"),
        (bad(split=np.zeros(COUNT, int)), "'split' must hold 0 .*, 1 .* and 2"),
        (bad(split=np.arange(COUNT) % 4), "'split' must hold"),
        (bad(split=np.zeros(3, int)), "'split' must be 40 integers"),
        (bad(period_s=0.0), "'period_s' must be one positive number of seconds"),
        (bad(period_s=float("nan")), "'period_s' must be"),
        (bad(period_s="soon"), "'period_s' must be"),
        (bad(period_s=np.ones(3)), "'period_s' must be"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_was_expected(calibration: dict[str, Any], message: str):
    with pytest.raises(ExportError, match=f"calibration.*{message}") as caught:
        read_frames(calibration, [IMAGE, SPEED])
    assert "\n" not in str(caught.value)


def test_files_that_are_no_archives_are_refused(tmp_path: Path):
    np.savez(tmp_path / "good.npz", inputs=images())
    data = (tmp_path / "good.npz").read_bytes()
    files = {"empty.npz": b"", "text.npz": b"not an archive", "cut.npz": data[: len(data) // 2], "zip.npz": data[:40]}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    np.save(tmp_path / "one.npy", images())
    np.savez(tmp_path / "pickled.npz", inputs=np.array([{}], dtype=object))
    for name in (*files, "one.npy", "pickled.npz", "absent.npz", "."):
        with pytest.raises(ExportError, match=r"is not an \.npz file .*np\.savez"):
            read_frames(tmp_path / name, [IMAGE])
