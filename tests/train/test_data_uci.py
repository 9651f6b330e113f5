"""UCI sets: read with their splits; damaged ones refused; the real ones where they are there."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from edge_bdl.errors import InputError
from edge_bdl_train.data.uci import FOLDER_VARIABLE, SETS, load_uci, uci_folder

REAL_SETS = Path(os.environ.get(FOLDER_VARIABLE, "/work/shared/data/uci"))


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    """A yacht set of ten rows, two features and two splits."""
    place = tmp_path / "yacht"
    place.mkdir()
    rows = np.arange(30.0).reshape(10, 3)
    np.savetxt(place / "data.txt", rows)
    np.savetxt(place / "index_features.txt", [0, 2])
    np.savetxt(place / "index_target.txt", [1])
    for split in range(2):
        np.savetxt(place / f"index_train_{split}.txt", np.arange(2, 10))
        np.savetxt(place / f"index_test_{split}.txt", [0, 1])
    return tmp_path


def test_columns_and_splits_are_those_of_the_index_files(sets: Path) -> None:
    loaded = load_uci("yacht", sets)
    assert loaded.features[1].tolist() == [3.0, 5.0]
    assert loaded.targets.tolist() == list(range(1, 31, 3))
    assert [[part.tolist() for part in split] for split in loaded.splits] == 2 * [[list(range(2, 10)), [0, 1]]]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("data.txt", "1 2 3\n4 five 6\n", "cannot read"),
        ("data.txt", "1 2 3\n4 5\n", "cannot read"),
        ("data.txt", "1 2 3\n4 nan 6\n", "finite"),
        ("index_features.txt", "0\n3\n", "whole numbers below 3"),
        ("index_features.txt", "0\n0\n", "each once"),
        ("index_features.txt", "0\n1\n", "no feature"),
        ("index_target.txt", "0.5\n", "whole numbers"),
        ("index_test_1.txt", "1\n2\n", "split 1 .* trains on rows that it tests on"),
        ("index_test_0.txt", "-1\n", "whole numbers"),
    ],
)
def test_damaged_files_are_refused_by_name(sets: Path, file: str, content: str, message: str) -> None:
    (sets / "yacht" / file).write_text(content)
    with pytest.raises(InputError, match=message):
        load_uci("yacht", sets)


def test_missing_files_splits_sets_and_folders_are_refused(sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="expected one of boston"):
        load_uci("naval", sets)
    with pytest.raises(InputError, match=r"bostonHousing.*data.txt"):
        load_uci("boston", sets)
    for split in range(2):
        (sets / "yacht" / f"index_train_{split}.txt").unlink()
    with pytest.raises(InputError, match="no splits"):
        load_uci("yacht", sets)
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    with pytest.raises(InputError, match=FOLDER_VARIABLE):
        uci_folder()
    monkeypatch.setenv(FOLDER_VARIABLE, str(sets))
    assert uci_folder() == sets
    assert uci_folder(Path("nearer")) == Path("nearer")


@pytest.mark.skipif(not REAL_SETS.is_dir(), reason=f"no UCI sets in {REAL_SETS}; set {FOLDER_VARIABLE}")
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("boston", (506, 13)),
        ("concrete", (1030, 8)),
        ("energy", (768, 8)),
        ("kin8nm", (8192, 8)),
        ("power", (9568, 4)),
        ("wine", (1599, 11)),
        ("yacht", (308, 6)),
    ],
)
def test_the_real_sets_have_their_known_sizes_and_a_tenth_to_test_on(name: str, shape: tuple[int, int]) -> None:
    loaded = load_uci(name, REAL_SETS)
    assert loaded.features.shape == shape
    assert len(loaded.splits) >= 10
    for train, test in loaded.splits:
        assert len(train) + len(test) == shape[0]
        assert len(test) == pytest.approx(shape[0] / 10, abs=1)


def test_every_set_is_a_case_above() -> None:
    assert sorted(SETS) == ["boston", "concrete", "energy", "kin8nm", "power", "wine", "yacht"]
