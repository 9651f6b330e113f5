"""Calibration frames: what the exporter is given of the world, split so that no frame is used for two purposes.

Members are selected and the density is fitted on the first part, thresholds are set on the second, figures are reported
on the third.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_bdl.errors import ExportError
from edge_bdl.manifest import TensorSpec
from edge_bdl.pictures import Pictures, takes_pictures
from edge_bdl_train.frames import CalibrationSets

SELECTION, THRESHOLDS, FIGURES = 0, 1, 2
_SHARES = (0.4, 0.8)
# Thresholds are fitted on two fifths of them, and need ten.
_MINIMUM = 25
_COLUMNS = {"inputs", "labels", "episodes", "split", "period_s"}

Array = NDArray[Any]


@dataclass(frozen=True)
class CalibrationFrames:
    """Frames in recorded order, with what is known of each.

    Attributes:
        inputs: By input name, [n, *input shape].
        split: int [n]: ``SELECTION``, ``THRESHOLDS`` or ``FIGURES``.
        labels: [n, ...] class indices or targets, None where there are none.
        episodes: int [n]: which closed-loop episode a frame belongs to, None where frames are not sequences.
        period_s: Time between two frames of an episode.
    """

    inputs: Mapping[str, Array]
    split: NDArray[np.int64]
    labels: Array | None = None
    episodes: NDArray[np.int64] | None = None
    period_s: float = 0.05

    def part(self, which: int) -> CalibrationFrames:
        """Only the frames of one part, in order."""
        rows = np.flatnonzero(self.split == which)
        return CalibrationFrames(
            inputs={name: values[rows] for name, values in self.inputs.items()},
            split=self.split[rows],
            labels=None if self.labels is None else self.labels[rows],
            episodes=None if self.episodes is None else self.episodes[rows],
            period_s=self.period_s,
        )

    def thinned(self, limit: int) -> CalibrationFrames:
        """At most ``limit`` frames, evenly spaced."""
        rows = np.unique(np.linspace(0, len(self) - 1, min(limit, len(self))).round().astype(np.int64))
        return CalibrationFrames(
            inputs={name: values[rows] for name, values in self.inputs.items()},
            split=self.split[rows],
            labels=None if self.labels is None else self.labels[rows],
        )

    def pictures(self) -> Pictures | msgspec.UnsetType:
        """How light and how sharp a camera's pictures are, but for those that figures are of; unset of other inputs."""
        (values, *others) = self.inputs.values()
        if others or not takes_pictures(values.shape[1:], values.dtype.name):
            return msgspec.UNSET
        known = values[self.split != FIGURES]
        return Pictures.of(known.reshape(-1, *known.shape[-3:]))

    def __len__(self) -> int:
        return len(self.split)

    def __iter__(self) -> Iterator[dict[str, Array]]:
        for row in range(len(self)):
            yield {name: values[row] for name, values in self.inputs.items()}


def read_frames(calibration: Any, specs: Sequence[TensorSpec]) -> CalibrationFrames:
    """Calibration frames from what a caller has.

    Args:
        calibration: A recipe's ``CalibrationSets``; an array or tensor [n, ...] for the only input; or a mapping, or
            the path of an ``.npz`` file, with ``inputs`` (or one entry per input name), and optionally ``labels`` [n,
            ...], ``episodes`` int [n], ``split`` int [n] (0 selection, 1 thresholds, 2 figures) and ``period_s``. A
            leading input axis of 1 may be missing.
        specs: The model's inputs.

    Raises:
        ExportError: A shape, a dtype, a length or a value does not fit; what was expected is named.
    """
    table = _table(calibration)
    for name in sorted(table.keys() - _COLUMNS - {spec.name for spec in specs}):
        raise ExportError(
            f"calibration: {name!r} is not known; it may hold {sorted(_COLUMNS)} or the names of the inputs"
        )
    inputs = {spec.name: _input(table, spec, only=len(specs) == 1) for spec in specs}
    count = len(next(iter(inputs.values())))
    for name, values in inputs.items():
        if len(values) != count:
            raise ExportError(
                f"calibration: {name!r} has {len(values)} frames, another input {count}; give all as many"
            )
    if count < _MINIMUM:
        raise ExportError(f"calibration: {count} frames cannot be split three ways; give hundreds, at least {_MINIMUM}")
    episodes = _column(table, "episodes", count)
    split = _column(table, "split", count)
    return CalibrationFrames(
        inputs=inputs,
        split=_blocks(count, episodes) if split is None else _known_parts(split),
        labels=_labels(table, count),
        episodes=episodes,
        period_s=_period(table),
    )


def read_outsiders(outsiders: Any, specs: Sequence[TensorSpec]) -> CalibrationFrames:
    """Frames that the network should not know, in the format of calibration frames; only their inputs matter.

    Raises:
        ExportError: As ``read_frames``.
    """
    try:
        return read_frames(outsiders, specs)
    except ExportError as error:
        raise ExportError(str(error).replace("calibration", "outsiders", 1)) from error


def _table(calibration: Any) -> Mapping[str, Any]:
    if isinstance(calibration, (str, Path)):
        try:
            # numpy leaves a file open that it cannot read, but not one that it was given open.
            with open(calibration, "rb") as file:
                archive = np.load(file, allow_pickle=False)
                if isinstance(archive, np.ndarray):
                    raise ValueError("it holds one array without a name")
                return {name: archive[name] for name in archive.files}
        except (OSError, ValueError, AttributeError, KeyError, EOFError, BadZipFile) as error:
            raise ExportError(
                f"calibration: {calibration} is not an .npz file ({error}); write it with np.savez"
            ) from error
    if isinstance(calibration, CalibrationSets):
        return _recipe_table(calibration)
    return calibration if isinstance(calibration, Mapping) else {"inputs": calibration}


def _recipe_table(sets: CalibrationSets) -> Mapping[str, Any]:
    parts = (sets.selection, sets.calibration, sets.test)
    # Episodes are numbered within each set; the parts never mix.
    return {
        "inputs": np.concatenate([part.frames for part in parts]),
        "labels": np.concatenate([part.labels for part in parts]),
        "episodes": np.concatenate([part.episode for part in parts]),
        "split": np.repeat((SELECTION, THRESHOLDS, FIGURES), [len(part) for part in parts]),
        "period_s": sets.period_s,
    }


def _input(table: Mapping[str, Any], spec: TensorSpec, only: bool) -> Array:
    key = "inputs" if only and "inputs" in table else spec.name
    if key not in table:
        raise ExportError(f"calibration has no {key!r}; it holds {sorted(table)}")
    values = np.asarray(table[key])
    if spec.shape[:1] == (1,) and values.shape[1:] == spec.shape[1:]:
        values = values[:, None]
    if values.shape[1:] != spec.shape:
        got = "x".join(map(str, values.shape[1:]))
        raise ExportError(f"calibration: frames of {key!r} have shape {got}, the example has {spec.shape}")
    if values.dtype != spec.dtype:
        raise ExportError(f"calibration: {key!r} is {values.dtype}, the example is {spec.dtype}")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ExportError(f"calibration: {key!r} holds NaN or infinity; leave such frames out")
    return values


def _column(table: Mapping[str, Any], name: str, count: int) -> NDArray[np.int64] | None:
    if table.get(name) is None:
        return None
    values = np.asarray(table[name])
    if values.shape != (count,) or values.dtype.kind not in "iu":
        raise ExportError(f"calibration: {name!r} must be {count} integers, got {values.dtype} of shape {values.shape}")
    return values.astype(np.int64)


def _labels(table: Mapping[str, Any], count: int) -> Array | None:
    if table.get("labels") is None:
        return None
    values = np.asarray(table["labels"])
    if values.shape[:1] != (count,) or values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        raise ExportError(
            f"calibration: 'labels' must be one finite number or array per frame, {count} in all, got {values.dtype} "
            f"of shape {values.shape}"
        )
    return values


def _period(table: Mapping[str, Any]) -> float:
    values = np.asarray(table.get("period_s", 0.05))
    if values.size != 1 or values.dtype.kind not in "iuf" or not 0.0 < float(values.item()) < np.inf:
        raise ExportError(f"calibration: 'period_s' must be one positive number of seconds, got {values}")
    return float(values.item())


def _known_parts(split: NDArray[np.int64]) -> NDArray[np.int64]:
    if set(np.unique(split)) != {SELECTION, THRESHOLDS, FIGURES}:
        raise ExportError(
            "calibration: 'split' must hold 0 (selection), 1 (thresholds) and 2 (figures), each at least once"
        )
    return split


def _blocks(count: int, episodes: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Contiguous parts of 40, 40 and 20 %: neighbouring frames are nearly equal. Episodes are never cut."""
    units = np.arange(count) if episodes is None else np.unique(episodes, return_inverse=True)[1]
    total = int(units.max()) + 1
    if total < 3:
        raise ExportError(f"calibration: {total} episodes cannot be split three ways; give at least 3")
    first = max(1, round(_SHARES[0] * total))
    second = min(max(first + 1, round(_SHARES[1] * total)), total - 1)
    return np.digitize(units, [first, second]).astype(np.int64)
