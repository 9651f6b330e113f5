"""Frames from files: ``.npy`` arrays as they are, images as uint8 by Pillow."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_bdl.errors import EdgeBdlError, InputError, require
from edge_bdl.manifest import TensorSpec

_IMAGES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".webp"})
_SUFFIXES = _IMAGES | {".npy"}


def read_frame(path: Path, spec: TensorSpec) -> NDArray[Any]:
    """Read one frame; nothing is resized or cast, because preprocessing is the bundle's own.

    Args:
        path: A ``.npy`` file, or an image.
        spec: The input that it is for: with one channel at the end an image is read as grey, else as RGB.

    Raises:
        InputError: The file is not there, or cannot be read.
        MissingExtraError: It is an image, and Pillow is not installed.
    """
    if not path.is_file():
        raise InputError(f"{path} is not a file")
    if path.suffix.lower() not in _SUFFIXES:
        raise InputError(f"{path} is neither a .npy file nor an image ({', '.join(sorted(_IMAGES))})")
    try:
        return _read_image(path, spec) if path.suffix.lower() in _IMAGES else _read_array(path)
    except EdgeBdlError:
        raise
    except Exception as error:  # what decoders raise for damaged files has no common base
        raise InputError(f"{path} cannot be read: {error}") from error


def frame_files(folder: Path) -> list[Path]:
    """All frames of a folder, in the order of their names; numbers in names count as numbers.

    Raises:
        InputError: It is not a folder, or holds no frame.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder of frames")
    files = [path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES and path.is_file()]
    if not files:
        raise InputError(f"{folder} holds no frames: neither .npy files nor images ({', '.join(sorted(_IMAGES))})")
    return sorted(files, key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    parts = re.findall(r"\d+|\D+", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _read_array(path: Path) -> NDArray[Any]:
    # Mapped first: a header that claims more than the file holds is found out before memory is asked for.
    return np.array(np.lib.format.open_memmap(path, mode="r"))


def _read_image(path: Path, spec: TensorSpec) -> NDArray[Any]:
    image = require("PIL.Image", "image", "to read images")
    grey = spec.shape[-1:] == (1,)
    with image.open(path) as opened:
        pixels = np.asarray(opened.convert("L" if grey else "RGB"))
    return pixels[..., None] if grey else pixels
