"""Frame message -> pixels as the bundle takes them: uint8 [H, W, 3] in RGB, or [H, W, 1] in grey.

Nothing is resized, cropped or stretched: what was certified is what runs, and a frame of another size is a fault.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_bdl.errors import EdgeBdlError, InputError, require
from edge_bdl_firmware.messages import FILE_ENCODINGS, RAW_ENCODINGS, Frame

Pixels = NDArray[np.uint8]

#: Bytes of one pixel, and which of them are red, green and blue.
_LAYOUTS = {
    "rgb8": (3, (0, 1, 2)),
    "bgr8": (3, (2, 1, 0)),
    "mono8": (1, (0, 0, 0)),
    "rgba8": (4, (0, 1, 2)),
    "bgra8": (4, (2, 1, 0)),
}
# Others have more than 8 bits, which Pillow clips in silence, or an ink model that cameras do not have.
_FILE_MODES = frozenset({"L", "LA", "P", "RGB", "RGBA"})
# ITU-R BT.601 luma in 1/65536, rounded: the very numbers of Pillow's "L", with which training reads grey images.
_LUMA = (np.uint32(19595), np.uint32(38470), np.uint32(7471))
_LUMA_HALF, _LUMA_SHIFT = np.uint32(1 << 15), np.uint32(16)


class FrameError(InputError):
    """A frame cannot be decoded, or is not what the bundle takes."""


def image_shape(shape: Sequence[int], dtype: str) -> tuple[int, int, int]:
    """Height, width and channels of a bundle's input, if it takes camera images at all.

    Args:
        shape: Of the input; a first axis of 1 may stand before the image.
        dtype: Of the input.

    Raises:
        InputError: It is no uint8 image with one or three channels at the end.
    """
    axes = tuple(shape[1:]) if len(shape) == 4 and shape[0] == 1 else tuple(shape)
    if len(axes) != 3 or axes[2] not in (1, 3) or dtype != "uint8":
        raise InputError(
            f"the bundle takes {dtype} {list(shape)}, expected camera images: uint8 [height, width, 3] or "
            "[height, width, 1]; export the network with its preprocessing inside"
        )
    return axes[0], axes[1], axes[2]


def decode_frame(frame: Frame, shape: Sequence[int], dtype: str = "uint8") -> Pixels:
    """The pixels of a frame.

    Colour becomes grey by ITU-R BT.601 luma where the bundle takes one channel, grey is repeated where it takes three,
    and alpha is dropped. Damage inside a JPEG that leaves it decodable cannot be seen here.

    Args:
        frame: As it came.
        shape: Of the bundle's input, see `image_shape`.
        dtype: Of the bundle's input.

    Returns:
        uint8 [H, W, 3] or [H, W, 1], C-contiguous; read-only and without a copy where the bytes already are that.

    Raises:
        FrameError: Encoding, size, row step or amount of data are wrong, or the file is damaged.
        InputError: The bundle takes no camera images.
        MissingExtraError: It is a JPEG or PNG, and Pillow is not installed.
    """
    expected = image_shape(shape, dtype)
    if frame.encoding in _LAYOUTS:
        return _from_bytes(frame, expected)
    if frame.encoding in FILE_ENCODINGS:
        return _from_file(frame, expected)
    known = ", ".join((*RAW_ENCODINGS, *FILE_ENCODINGS))
    raise FrameError(f"encoding {frame.encoding[:40]!r} is not known, expected one of {known}")


def file_encoding(text: str) -> str:
    """The encoding that a ROS CompressedImage's ``format`` means, such as ``bgr8; jpeg compressed bgr8``.

    Returns:
        ``jpeg``, ``png``, or the text itself, which `decode_frame` will not know.
    """
    lowered = text.lower()
    if "depth" in lowered:
        return text
    return "jpeg" if "jpeg" in lowered or "jpg" in lowered else "png" if "png" in lowered else text


def _from_bytes(frame: Frame, expected: tuple[int, int, int]) -> Pixels:
    height, width, channels = expected
    size, order = _LAYOUTS[frame.encoding]
    _check_size(frame.width, frame.height, expected)
    if frame.step < width * size:
        raise FrameError(f"a row step of {frame.step} bytes is less than {width} pixels of {frame.encoding} take")
    least = frame.step * (height - 1) + width * size  # the last row may come without its padding
    if len(frame.data) < least:
        raise FrameError(f"the frame has {len(frame.data)} bytes, {height} rows of {frame.step} need {least}")
    pixels: Pixels = np.ndarray((height, width, size), np.uint8, frame.data, strides=(frame.step, size, 1))
    if size == channels and order != (2, 1, 0):
        return np.ascontiguousarray(pixels)
    return _luma(pixels, order) if channels == 1 else _reorder(pixels, order)


def _reorder(pixels: Pixels, order: tuple[int, ...]) -> Pixels:
    # Plane by plane is three times as fast as copying a view with its channels reversed.
    ordered = np.empty((*pixels.shape[:2], 3), np.uint8)
    for target, source in enumerate(order):
        ordered[..., target] = pixels[..., source]
    return ordered


def _luma(pixels: Pixels, order: tuple[int, ...]) -> Pixels:
    red, green, blue = (
        np.multiply(pixels[..., source], weight, dtype=np.uint32) for source, weight in zip(order, _LUMA, strict=True)
    )
    return ((red + green + blue + _LUMA_HALF) >> _LUMA_SHIFT).astype(np.uint8)[..., None]


def _from_file(frame: Frame, expected: tuple[int, int, int]) -> Pixels:
    image = require("PIL.Image", "image", "to decode JPEG and PNG frames")
    grey = expected[2] == 1
    try:
        with image.open(io.BytesIO(frame.data), formats=[frame.encoding.upper()]) as opened:
            # Only the header has been read: a file that claims to be huge ends here, before memory is asked for.
            width, height = opened.size
            _check_size(width, height, expected)
            if opened.mode not in _FILE_MODES:
                raise FrameError(f"a {frame.encoding} of mode {opened.mode} is none with 8 bits of grey or RGB")
            pixels: NDArray[Any] = np.asarray(opened.convert("L" if grey else "RGB"))
    except EdgeBdlError:
        raise
    except Exception as error:  # what decoders raise for damaged files has no common base
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FrameError(f"the {frame.encoding} of {len(frame.data)} bytes cannot be decoded: {reason}") from error
    return pixels[..., None] if grey else pixels


def _check_size(width: int, height: int, expected: tuple[int, int, int]) -> None:
    if (height, width) != expected[:2]:
        raise FrameError(f"the frame is {width} x {height}, the bundle takes {expected[1]} x {expected[0]}")
