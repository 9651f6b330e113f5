"""Recipe rc_car: how a folder of frames is read and divided; the real drive where it is there."""

from __future__ import annotations

import csv
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_bdl.errors import InputError
from edge_bdl_train.imitation import ImitationConfig, predict
from edge_bdl_train.recipes import open_recipe
from edge_bdl_train.recipes.rc_car import DATA_VARIABLE, RcCarConfig, RcCarRecipe, read_drive

REAL_DRIVE = Path(os.environ.get(DATA_VARIABLE) or Path(__file__).parents[3] / "shared" / "data" / "rc_car")


def write_drive(folder: Path, count: int, *, size: tuple[int, int] = (160, 120), **columns: list) -> Path:
    """A drive at 20 frames a second, each frame of one colour; ``columns`` replace those of labels.csv."""
    table = {
        "file": [f"{index:06d}.jpg" for index in range(count)],
        "angle": [0.01 * (index % 100) for index in range(count)],
        "timestamp_ms": [1_000_000 + 50 * index for index in range(count)],
        "kept": [1] * count,
        **columns,
    }
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))
    with tarfile.open(folder / "frames.tar", "w") as archive:
        for index in range(count):
            content = io.BytesIO()
            Image.new("RGB", size, (index, index, index)).save(content, "JPEG")
            member = tarfile.TarInfo(f"{index:06d}.jpg")
            member.size = content.tell()
            content.seek(0)
            archive.addfile(member, content)
    return folder


def test_frames_come_with_their_labels_in_the_order_of_time(tmp_path: Path) -> None:
    drive = read_drive(write_drive(tmp_path, 30))
    assert drive.frames.shape == (30, 120, 160, 3)
    np.testing.assert_allclose(drive.frames[:, 60, 80, 0], np.arange(30), atol=2)
    np.testing.assert_allclose(drive.labels, 0.01 * np.arange(30), rtol=1e-6)


def test_frames_that_the_driver_threw_out_are_left_out(tmp_path: Path) -> None:
    drive = read_drive(write_drive(tmp_path, 6, kept=[1, 0, 0, 1, 1, 0]))
    np.testing.assert_allclose(drive.labels, [0.0, 0.03, 0.04], rtol=1e-6)


def test_a_pause_starts_a_new_episode(tmp_path: Path) -> None:
    drive = read_drive(write_drive(tmp_path, 5, timestamp_ms=[0, 50, 3000, 3050, 9000]))
    assert drive.episode.tolist() == [0, 0, 1, 1, 2]


def test_blocks_follow_each_other_with_a_gap_between_them(tmp_path: Path) -> None:
    config = RcCarConfig(shares=(0.4, 0.2, 0.2, 0.2), guard_frames=3)
    blocks = RcCarRecipe(config, write_drive(tmp_path, 100)).blocks()
    steps = [np.rint(block.labels * 100).astype(int) for block in blocks]
    assert [(block[0], block[-1]) for block in steps] == [(0, 39), (43, 59), (63, 79), (83, 99)]


def test_a_folder_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    with pytest.raises(InputError, match=DATA_VARIABLE):
        open_recipe("rc_car").blocks()


def test_the_folder_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(write_drive(tmp_path, 60)))
    blocks = RcCarRecipe(RcCarConfig(guard_frames=1)).blocks()
    assert sum(map(len, blocks)) == 57


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"angle": ["left", 0, 0]}, "not a number"),
        ({"angle": [0, 1.5, 0]}, r"outside \[-1, 1\]"),
        ({"angle": [0, "nan", 0]}, r"outside \[-1, 1\]"),
        ({"timestamp_ms": [0, 100, 50]}, "order of time"),
        ({"file": ["000000.jpg", "000000.jpg", "000001.jpg"]}, "each once"),
        ({"file": ["000000.jpg", "000001.jpg", "none.jpg"]}, "lacks 1 frames, first none.jpg"),
        ({"kept": [0, 0, 0]}, "it lists 0"),
    ],
)
def test_labels_that_make_no_drive_are_refused(tmp_path: Path, columns: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_drive(write_drive(tmp_path, 3, **columns))


def test_missing_files_and_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no .*labels\.csv"):
        read_drive(tmp_path)
    (tmp_path / "labels.csv").write_text("file,angle\n")
    with pytest.raises(InputError, match="lacks the columns kept, timestamp_ms"):
        read_drive(tmp_path)
    write_drive(tmp_path, 2)
    (tmp_path / "frames.tar").unlink()
    with pytest.raises(InputError, match=r"there is no .*frames\.tar"):
        read_drive(tmp_path)


def test_frames_of_another_size_and_damaged_archives_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected \(120, 160, 3\)"):
        read_drive(write_drive(tmp_path, 2, size=(80, 60)))
    archive = tmp_path / "frames.tar"
    archive.write_bytes(archive.read_bytes()[:700])
    with pytest.raises(InputError):
        read_drive(tmp_path)
    archive.write_bytes(b"nothing like an archive")
    with pytest.raises(InputError, match="cannot be read"):
        read_drive(tmp_path)


def test_too_few_frames_and_shares_that_are_no_whole_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="too few"):
        open_recipe("rc_car", data=write_drive(tmp_path, 50)).blocks()
    with pytest.raises(InputError, match="add up to 1"):
        RcCarConfig(shares=(0.5, 0.2, 0.2, 0.2))


@pytest.mark.skipif(not REAL_DRIVE.is_dir(), reason=f"no real drive in {REAL_DRIVE}; set {DATA_VARIABLE}")
def test_a_short_training_on_the_real_drive_learns_to_steer_where_it_was_not_trained() -> None:
    # Too short to beat a constant in absolute error, which the whole recipe does: the figures are in its checkpoint.
    config = RcCarConfig(use_every=4, guard_frames=10, imitation=ImitationConfig(epochs=4, beta=1.0, mirror=False))
    recipe = RcCarRecipe(config, REAL_DRIVE)
    model = recipe.build_model(0)
    figures = recipe.fit(model, seed=0)
    sets = recipe.calibration_sets(model)
    assert figures["test_frames"] >= len(sets.test) > 0
    assert min(np.unique(sets.calibration.episode, return_counts=True)[1]) >= 25
    assert sets.period_s == pytest.approx(0.2)
    # Three seeds gave 0.33 to 0.48, untrained networks at most 0.03.
    assert np.corrcoef(predict(model, sets.test.frames)[:, 0], sets.test.labels)[0, 1] > 0.2
