"""Frames to pixels: every encoding against Pillow or the plain definition, and all that can be wrong with a frame."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edge_bdl.commands.frames import read_frame
from edge_bdl.errors import EdgeBdlError, InputError
from edge_bdl.manifest import TensorSpec
from edge_bdl_firmware.frames.decode import FrameError, decode_frame, file_encoding, image_shape
from edge_bdl_firmware.messages import FILE_ENCODINGS, RAW_ENCODINGS, Frame

HEIGHT, WIDTH = 6, 9
COLOUR, GREY = (1, HEIGHT, WIDTH, 3), (1, HEIGHT, WIDTH, 1)
RGB = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
MONO = RGB[..., 1]
ALPHA = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 1), dtype=np.uint8)
LUMA = np.asarray(Image.fromarray(RGB).convert("L"))[..., None]

AS_SENT = {
    "rgb8": RGB,
    "bgr8": RGB[..., ::-1],
    "rgba8": np.concatenate([RGB, ALPHA], axis=2),
    "bgra8": np.concatenate([RGB[..., ::-1], ALPHA], axis=2),
    "mono8": MONO[..., None],
}


def raw_frame(encoding: str = "rgb8", padding: int = 0, **changes: Any) -> Frame:
    """A frame of `RGB` (or `MONO`), its rows followed by so many bytes of rubbish."""
    rows = AS_SENT[encoding].reshape(HEIGHT, -1)
    data = np.concatenate([rows, np.full((HEIGHT, padding), 77, np.uint8)], axis=1)
    fields = {
        "encoding": encoding, "height": HEIGHT, "width": WIDTH, "step": data.shape[1], "data": data.tobytes(), **changes
    }  # fmt: skip
    return Frame(sequence=0, stamp_ns=1, received_s=0.0, **fields)


def file_frame(encoding: str = "png", mode: str = "RGB", size: tuple[int, int] = (WIDTH, HEIGHT)) -> Frame:
    content = io.BytesIO()
    image = Image.fromarray(RGB).convert(mode).resize(size, Image.Resampling.NEAREST)
    image.save(content, encoding.upper())
    return Frame(sequence=0, stamp_ns=1, received_s=0.0, encoding=encoding, data=content.getvalue())


# What comes out


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("encoding", RAW_ENCODINGS)
def test_every_raw_encoding_gives_the_same_picture_in_colour(encoding: str, padding: int) -> None:
    pixels = decode_frame(raw_frame(encoding, padding), COLOUR, "uint8")
    expected = np.repeat(MONO[..., None], 3, axis=2) if encoding == "mono8" else RGB
    np.testing.assert_array_equal(pixels, expected)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("encoding", RAW_ENCODINGS)
def test_colour_becomes_grey_exactly_as_pillow_does_it(encoding: str, padding: int) -> None:
    pixels = decode_frame(raw_frame(encoding, padding), GREY, "uint8")
    np.testing.assert_array_equal(pixels, MONO[..., None] if encoding == "mono8" else LUMA)
    assert pixels.flags.c_contiguous


def test_luma_is_pillows_for_all_extremes_of_colour() -> None:
    corners = np.array(np.meshgrid(*[[0, 1, 127, 128, 254, 255]] * 3), np.uint8).reshape(3, -1).T[None]
    frame = raw_frame(height=1, width=216, step=648, data=corners.tobytes())
    grey = decode_frame(frame, (1, 216, 1), "uint8")
    np.testing.assert_array_equal(grey[..., 0], np.asarray(Image.fromarray(corners).convert("L")))


@pytest.mark.parametrize(("encoding", "shape"), [("rgb8", COLOUR), ("mono8", GREY)])
def test_nothing_is_copied_where_the_bytes_are_the_picture(encoding: str, shape: tuple[int, ...]) -> None:
    frame = raw_frame(encoding)
    pixels = decode_frame(frame, shape, "uint8")
    assert np.shares_memory(pixels, np.frombuffer(frame.data, np.uint8))


@pytest.mark.parametrize("shape", [COLOUR, GREY])
@pytest.mark.parametrize(
    ("encoding", "mode"), [("jpeg", "L"), ("jpeg", "RGB"), ("png", "L"), ("png", "RGB"), ("png", "RGBA"), ("png", "P")]
)
def test_files_give_what_the_workstation_reads_from_them(
    encoding: str, mode: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    frame = file_frame(encoding, mode)
    path = tmp_path / f"frame.{encoding}"
    path.write_bytes(frame.data)
    expected = read_frame(path, TensorSpec(name="frame", shape=shape, dtype="uint8"))
    pixels = decode_frame(frame, shape, "uint8")
    np.testing.assert_array_equal(pixels, expected)
    assert pixels.flags.c_contiguous


def test_the_axis_before_the_image_may_be_left_out() -> None:
    np.testing.assert_array_equal(decode_frame(raw_frame(), COLOUR[1:], "uint8"), RGB)


def test_the_last_row_may_come_without_its_padding() -> None:
    frame = raw_frame(padding=5)
    np.testing.assert_array_equal(decode_frame(raw_frame(step=frame.step, data=frame.data[:-5]), COLOUR, "uint8"), RGB)


# What is refused


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (raw_frame(encoding="rgb8", height=HEIGHT + 1), "the frame is 9 x 7, the bundle takes 9 x 6"),
        (raw_frame(width=WIDTH - 1), "the frame is 8 x 6"),
        (raw_frame(width=0, height=0), "the frame is 0 x 0"),
        (raw_frame(step=WIDTH * 3 - 1), "row step of 26 bytes is less than 9 pixels of rgb8"),
        (raw_frame(step=0), "row step of 0 bytes"),
        (raw_frame(step=-27), "row step of -27 bytes"),
        (raw_frame(step=2**62), "6 rows of 4611686018427387904 need"),
        (raw_frame(data=RGB.tobytes()[:-1]), "the frame has 161 bytes, 6 rows of 27 need 162"),
        (raw_frame(data=b""), "the frame has 0 bytes"),
        (raw_frame("rgba8", step=WIDTH * 3), "row step of 27 bytes is less than 9 pixels of rgba8"),
        (file_frame(size=(WIDTH, HEIGHT + 1)), "the frame is 9 x 7, the bundle takes 9 x 6"),
        (file_frame("jpeg", size=(HEIGHT, WIDTH)), "the frame is 6 x 9"),
        (file_frame("png", "I;16"), "mode I;16"),
        (file_frame("jpeg", "CMYK"), "mode CMYK"),
    ],
)
def test_a_frame_of_another_size_or_layout_is_refused(frame: Frame, message: str) -> None:
    with pytest.raises(FrameError, match=message):
        decode_frame(frame, COLOUR, "uint8")


@pytest.mark.parametrize("encoding", ["", "16UC1", "RGB8", "yuv422", "webp", "x" * 10_000])
def test_an_unknown_encoding_is_refused_in_one_short_line(encoding: str) -> None:
    frame = Frame(
        sequence=0, stamp_ns=1, received_s=0.0, encoding=encoding, height=HEIGHT, width=WIDTH, step=27,
        data=RGB.tobytes(),
    )  # fmt: skip
    with pytest.raises(FrameError, match="is not known, expected one of rgb8") as raised:
        decode_frame(frame, COLOUR, "uint8")
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"not an image", bytes(1000)])
@pytest.mark.parametrize("encoding", FILE_ENCODINGS)
def test_rubbish_is_refused(encoding: str, data: bytes) -> None:
    frame = Frame(sequence=0, stamp_ns=1, received_s=0.0, encoding=encoding, data=data)
    with pytest.raises(FrameError, match=f"the {encoding} of {len(data)} bytes cannot be decoded"):
        decode_frame(frame, COLOUR, "uint8")


def test_a_file_of_the_other_kind_is_refused() -> None:
    frame = Frame(sequence=0, stamp_ns=1, received_s=0.0, encoding="jpeg", data=file_frame("png").data)
    with pytest.raises(FrameError, match="cannot be decoded"):
        decode_frame(frame, COLOUR, "uint8")


@pytest.mark.parametrize("encoding", FILE_ENCODINGS)
def test_a_truncated_file_is_refused(encoding: str) -> None:
    data = file_frame(encoding).data
    for kept in (len(data) // 4, len(data) // 2, len(data) * 3 // 4):
        frame = Frame(sequence=0, stamp_ns=1, received_s=0.0, encoding=encoding, data=data[:kept])
        with pytest.raises(FrameError, match="cannot be decoded"):
            decode_frame(frame, COLOUR, "uint8")


def png_of(width: int, height: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8_000, 10_000, 30_000])
def test_a_decompression_bomb_is_refused_by_its_header(side: int) -> None:
    # Above some size Pillow warns, above twice that it raises; below, the size itself is wrong.
    frame = Frame(sequence=0, stamp_ns=1, received_s=0.0, encoding="png", data=png_of(side, side, bytes(10_000_000)))
    with pytest.raises(FrameError):
        decode_frame(frame, COLOUR, "uint8")


@given(data=st.data(), encoding=st.sampled_from(FILE_ENCODINGS))
def test_a_damaged_file_gives_pixels_of_the_right_shape_or_a_frame_error(data: Any, encoding: str) -> None:
    content = bytearray(file_frame(encoding).data)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    frame = Frame(sequence=0, stamp_ns=1, received_s=0.0, encoding=encoding, data=bytes(content))
    with contextlib.suppress(FrameError):
        assert decode_frame(frame, COLOUR, "uint8").shape == COLOUR[1:]


# What a bundle must take


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((1, 3, 6, 9), "uint8"), ((2, 6, 9, 3), "uint8"), ((6, 9), "uint8"), (COLOUR, "float32"), ((1, 6), "float32")],
)
def test_a_bundle_that_takes_no_camera_images_is_refused(shape: tuple[int, ...], dtype: str) -> None:
    with pytest.raises(InputError, match="expected camera images"):
        decode_frame(raw_frame(), shape, dtype)


def test_an_image_one_row_high_is_not_taken_for_a_leading_axis() -> None:
    assert image_shape((1, 9, 3), "uint8") == (1, 9, 3)
    assert image_shape((1, 1, 9, 3), "uint8") == (1, 9, 3)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("jpeg", "jpeg"),
        ("JPG", "jpeg"),
        ("png", "png"),
        ("rgb8; jpeg compressed bgr8", "jpeg"),
        ("mono8; png compressed ", "png"),
    ],
)
def test_formats_of_compressed_images_are_understood(text: str, encoding: str) -> None:
    assert file_encoding(text) == encoding


@pytest.mark.parametrize("text", ["", "tiff", "16UC1; compressedDepth png", "32FC1; compressedDepth"])
def test_formats_that_are_no_camera_picture_become_no_known_encoding(text: str) -> None:
    assert file_encoding(text) == text
    with pytest.raises(EdgeBdlError, match="is not known"):
        decode_frame(
            Frame(sequence=0, stamp_ns=1, received_s=0.0, encoding=file_encoding(text), data=b""), COLOUR, "uint8"
        )
