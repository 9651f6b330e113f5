"""Images and labels in IDX files, the format of MNIST and Fashion-MNIST."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_bdl.errors import InputError
from edge_bdl_train.data.npm import read_checked

CLASSES = 10
_PARTS = {"train": 60_000, "t10k": 10_000}
_SIDE = 28
_BYTE_TYPE = 0x08


class LabelledImages(NamedTuple):
    """Images with their classes.

    Attributes:
        images: uint8 [N, 28, 28].
        labels: int64 [N], 0 to 9.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def load_images(folder: Path, sha256: Mapping[str, str], remedy: str) -> tuple[LabelledImages, LabelledImages]:
    """The training and the test part.

    Args:
        folder: where the files are.
        sha256: file name -> digest of the four files; names that end in .gz are compressed.
        remedy: what to do when they are not there, as the end of the sentence.

    Raises:
        InputError: a file is missing or damaged.
    """
    arrays = {name: _read(folder / name, digest, remedy) for name, digest in sha256.items()}

    def part(prefix: str, count: int) -> LabelledImages:
        images = next(array for name, array in arrays.items() if name.startswith(f"{prefix}-images"))
        labels = next(array for name, array in arrays.items() if name.startswith(f"{prefix}-labels"))
        if images.shape != (count, _SIDE, _SIDE) or labels.shape != (count,) or labels.max() >= CLASSES:
            raise InputError(
                f"{folder} holds images {images.shape} and labels {labels.shape}, expected {count} of each"
            )
        return LabelledImages(images, labels.astype(np.int64))

    train, test = (part(prefix, count) for prefix, count in _PARTS.items())
    return train, test


def read_idx(data: bytes) -> NDArray[np.uint8]:
    """The array in an IDX file: four bytes (0, 0, type, axes), each axis as big-endian uint32, then the elements.

    Raises:
        InputError: it is no IDX file of bytes, or not a whole one.
    """
    if len(data) < 4 or data[:2] != b"\x00\x00" or data[2] != _BYTE_TYPE:
        raise InputError("this is no IDX file of bytes")
    header = 4 + 4 * data[3]
    shape = tuple(int(length) for length in np.frombuffer(data[4:header], ">u4")) if len(data) >= header else ()
    if len(shape) != data[3] or len(data) != header + int(np.prod(shape)):
        raise InputError(f"this IDX file of {len(data)} bytes is not whole: its header says {shape}")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _read(path: Path, digest: str, remedy: str) -> NDArray[np.uint8]:
    data = read_checked(path, digest, remedy)
    return read_idx(gzip.decompress(data) if path.suffix == ".gz" else data)
