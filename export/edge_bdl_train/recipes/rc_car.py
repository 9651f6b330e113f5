"""Recipe ``rc_car``: imitate the driver of a real camera car, from frames in a folder.

The folder holds ``frames.tar`` (JPEG files, 120 x 160 pixels) and ``labels.csv`` with the columns file, angle (steering
in [-1, 1], positive right), timestamp_ms and kept (0: thrown out by the driver), in the order of time.
"""

from __future__ import annotations

import csv
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edge_bdl.errors import InputError, require
from edge_bdl_train.frames import CalibrationSets, LabelledFrames
from edge_bdl_train.held_out import HeldOut
from edge_bdl_train.imitation import ImitationConfig, imitate, predict, steps_of
from edge_bdl_train.models import SmallCnn
from edge_bdl_train.preprocess import Preprocess
from edge_bdl_train.progress import Stage, silent
from edge_bdl_train.recipes.base import Recipe, seeded

DATA_VARIABLE = "EDGE_BDL_RC_CAR"
FRAME_SHAPE = (120, 160, 3)
FRAME_PERIOD_S = 0.05
_SHORTEST_EPISODE_S = 5.0
_DARK = 0.15  # of the light
_COLUMNS = ("file", "angle", "timestamp_ms", "kept")


@dataclass(frozen=True, kw_only=True)
class RcCarConfig:
    """What the recipe may vary.

    Attributes:
        shares: shares of the drive that train, selection, calibration and test get, in the order of time.
        guard_frames: frames left out between two of them, for neighbours look alike.
        episode_gap_s: a longer pause between two frames starts a new episode.
        use_every: one frame of so many is read.
        dropout: rate of the three dropout layers.
        imitation: how to train.
    """

    shares: tuple[float, float, float, float] = (0.6, 0.1, 0.15, 0.15)
    guard_frames: int = 40
    episode_gap_s: float = 1.0
    use_every: int = 1
    dropout: float = 0.2
    imitation: ImitationConfig = field(default_factory=lambda: ImitationConfig(epochs=5, beta=1.0, mirror=False))

    def __post_init__(self) -> None:
        """Checks that the shares make one whole."""
        if min(self.shares) <= 0.0 or abs(sum(self.shares) - 1.0) > 1e-6:
            raise InputError(f"the shares {self.shares} must be above 0 and add up to 1")


class RcCarRecipe(Recipe):
    """Learns a real car's steering; the frames are divided by time, never at random."""

    name = "rc_car"
    config_type = RcCarConfig
    config: RcCarConfig

    @classmethod
    def quick_config(cls) -> RcCarConfig:
        """Every fourth frame, which is as few a second as a policy can drive by; one epoch."""
        return RcCarConfig(use_every=4, guard_frames=5, imitation=ImitationConfig(epochs=1))

    def build_model(self, seed: int) -> nn.Module:
        """The small CNN; the uppermost sixth of the frame, above the track, is cut off."""
        return seeded(seed, lambda: SmallCnn(Preprocess((60, 96), crop_top=20), dropout=self.config.dropout))

    def blocks(self) -> tuple[LabelledFrames, LabelledFrames, LabelledFrames, LabelledFrames]:
        """Train, selection, calibration and test: four stretches of the drive, one after the other.

        Raises:
            InputError: no folder was given, or what it holds is not what the recipe reads.
            MissingExtraError: Pillow is not installed.
        """
        frames = read_drive(self._folder(), self.config.episode_gap_s, self.config.use_every)
        borders = np.rint(np.cumsum((0.0, *self.config.shares)) * len(frames)).astype(int)
        guards = (0, *(3 * [self.config.guard_frames]))
        if min(np.diff(borders)) <= self.config.guard_frames:
            raise InputError(f"{len(frames)} frames are too few to be divided into {self.config.shares}")
        train, selection, calibration, test = (
            frames[start + guard : stop] for start, stop, guard in zip(borders, borders[1:], guards, strict=False)
        )
        return train, selection, calibration, test

    def fit(self, model: nn.Module, seed: int, stage: Stage = silent) -> dict[str, float]:
        """Imitates the driver; ``test_mae`` is to be compared with that of a constant, ``test_mae_constant``."""
        train, selection, _, test = self.blocks()
        generator = torch.Generator().manual_seed(seed)
        advance = stage("the network learns", steps_of(train, self.config.imitation))
        figures = imitate(model, train, selection, self.config.imitation, generator=generator, advance=advance)
        error = np.abs(predict(model, test.frames)[:, 0] - test.labels)
        return {
            "train_frames": float(len(train)),
            **figures,
            "test_frames": float(len(test)),
            "test_mae": float(error.mean()),
            "test_mae_constant": float(np.abs(np.median(train.labels) - test.labels).mean()),
        }

    def calibration_sets(self, model: nn.Module, stage: Stage = silent) -> CalibrationSets:
        """The three later stretches of the drive; ``model`` has no part in how they were recorded.

        A policy that is replayed needs some seconds to start: of shorter episodes nothing can be learned about it.
        """
        period_s = self.config.use_every * FRAME_PERIOD_S
        _, selection, *episodes = self.blocks()
        calibration, test = (part.of_episodes_from(round(_SHORTEST_EPISODE_S / period_s)) for part in episodes)
        return CalibrationSets(selection, calibration, test, period_s=period_s)

    def held_out(self, model: nn.Module, stage: Stage = silent) -> HeldOut:
        """The last stretch of the drive; outsiders are the same frames with hardly any light."""
        _, selection, _, test = self.blocks()
        return HeldOut.of_steering(selection, test, {"dark": np.uint8(_DARK * test.frames)})

    def _folder(self) -> Path:
        folder = self.data or os.environ.get(DATA_VARIABLE)
        if not folder:
            raise InputError(f"recipe 'rc_car' needs a folder of frames: give --data FOLDER or set {DATA_VARIABLE}")
        return Path(folder)


def read_drive(folder: Path, episode_gap_s: float = 1.0, use_every: int = 1) -> LabelledFrames:
    """The frames that the driver kept, in the order of time; a pause starts a new episode.

    Raises:
        InputError: a file is missing, or is not what this recipe reads.
        MissingExtraError: Pillow is not installed.
    """
    names, angles, seconds = _read_labels(folder / "labels.csv", use_every)
    episode = np.concatenate([[0], np.cumsum(np.diff(seconds) > episode_gap_s)]).astype(np.int64)
    frames = np.empty((len(names), *FRAME_SHAPE), np.uint8)
    position = {name: index for index, name in enumerate(names)}
    for name, frame in _read_frames(folder / "frames.tar", set(names)):
        frames[position.pop(name)] = frame
    if position:
        raise InputError(f"{folder / 'frames.tar'} lacks {len(position)} frames, first {next(iter(position))}")
    return LabelledFrames(frames, angles, episode)


def _read_labels(path: Path, use_every: int) -> tuple[list[str], NDArray[np.float32], NDArray[np.float64]]:
    if not path.is_file():
        raise InputError(f"there is no {path}: the folder must hold labels.csv and frames.tar")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = set(_COLUMNS) - set(reader.fieldnames or ())
        if missing:
            raise InputError(f"{path} lacks the columns {', '.join(sorted(missing))}")
        rows = [row for row in reader if row["kept"] == "1"][::use_every]
    try:
        angles = np.array([float(row["angle"]) for row in rows], np.float32)
        seconds = np.array([float(row["timestamp_ms"]) for row in rows]) / 1000.0
    except (TypeError, ValueError) as error:
        raise InputError(f"{path} holds something that is not a number ({error})") from error
    names = [row["file"] for row in rows]
    if not rows or len(set(names)) != len(names) or not np.all(np.diff(seconds) >= 0.0):
        raise InputError(f"{path} must list kept frames, each once, in the order of time; it lists {len(rows)}")
    if not np.all(np.abs(angles) <= 1.0):
        raise InputError(f"{path} holds angles outside [-1, 1]")
    return names, angles, seconds


def _read_frames(path: Path, wanted: set[str]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    image: Any = require("PIL.Image", "image", "to decode camera frames")
    if not path.is_file():
        raise InputError(f"there is no {path}: the folder must hold labels.csv and frames.tar")
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                if name not in wanted:
                    continue
                wanted = wanted - {name}
                with image.open(archive.extractfile(member)) as picture:
                    frame = np.asarray(picture.convert("RGB"))
                if frame.shape != FRAME_SHAPE:
                    raise InputError(f"{name} in {path} is {frame.shape}, expected {FRAME_SHAPE}")
                yield name, frame
    except (tarfile.TarError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error})") from error
