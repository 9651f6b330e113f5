"""ROS images become frames that decode to the very pixels that were sent."""

from __future__ import annotations

import io

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs the extra ros")

from builtin_interfaces.msg import Time
from PIL import Image as Pictures
from sensor_msgs.msg import CompressedImage, Image

from edge_bdl_firmware.frames.decode import FrameError, decode_frame
from edge_bdl_firmware.ros.images import frame_of_compressed, frame_of_image

SHAPE = (6, 5, 3)
RGB = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
ORDERS = {"rgb8": (0, 1, 2), "bgr8": (2, 1, 0), "rgba8": (0, 1, 2, 0), "bgra8": (2, 1, 0, 0), "mono8": (0,)}


def image(encoding: str, padding: int = 0, **fields: object) -> Image:
    pixels = RGB[..., ORDERS.get(encoding, (0, 1, 2))]
    rows = np.pad(pixels.reshape(len(pixels), -1), ((0, 0), (0, padding)), constant_values=77)
    whole = {
        "encoding": encoding, "height": SHAPE[0], "width": SHAPE[1], "step": rows.shape[1], "data": rows.tobytes(),
    }  # fmt: skip
    return Image(**{**whole, **fields})


def compressed(kind: str, text: str) -> CompressedImage:
    file = io.BytesIO()
    Pictures.fromarray(RGB).save(file, kind)
    return CompressedImage(format=text, data=file.getvalue())


@pytest.mark.parametrize("padding", [0, 1, 7])
@pytest.mark.parametrize("big_endian", [0, 1])
@pytest.mark.parametrize("encoding", ORDERS)
def test_every_encoding_decodes_to_the_pixels_that_were_sent(encoding: str, big_endian: int, padding: int) -> None:
    frame = frame_of_image(image(encoding, padding, is_bigendian=big_endian), 0, 0.0)
    expected = np.repeat(RGB[..., :1], 3, axis=2) if encoding == "mono8" else RGB
    np.testing.assert_array_equal(decode_frame(frame, SHAPE), expected)


def test_stamp_sequence_and_receipt_are_kept() -> None:
    message = image("rgb8")
    message.header.stamp = Time(sec=1_700_000_000, nanosec=123_456_789)
    frame = frame_of_image(message, 41, 12.5)
    assert (frame.stamp_ns, frame.sequence, frame.received_s) == (1_700_000_000_123_456_789, 41, 12.5)
    packed = compressed("PNG", "png")
    packed.header.stamp = message.header.stamp
    frame = frame_of_compressed(packed, 42, 13.5)
    assert (frame.stamp_ns, frame.sequence, frame.received_s) == (1_700_000_000_123_456_789, 42, 13.5)


@pytest.mark.parametrize("encoding", ["yuv422_yuy2", "16UC1", "bayer_rggb8", "", "RGB8"])
def test_an_unknown_encoding_keeps_its_name_and_is_refused_by_it(encoding: str) -> None:
    frame = frame_of_image(image(encoding), 0, 0.0)
    assert frame.encoding == encoding
    with pytest.raises(FrameError, match=f"encoding {encoding!r} is not known"):
        decode_frame(frame, SHAPE)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"step": 14}, "row step of 14 bytes"),
        ({"data": b"\0" * 89}, "has 89 bytes"),
        ({"data": b""}, "has 0 bytes"),
        ({"width": 6}, "the frame is 6 x 6"),
        ({"height": 2**32 - 1, "width": 2**32 - 1, "step": 2**32 - 1}, "the frame is 4294967295 x 4294967295"),
    ],
)
def test_a_message_that_contradicts_itself_is_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(FrameError, match=said):
        decode_frame(frame_of_image(image("rgb8", **fields), 0, 0.0), SHAPE)


@pytest.mark.parametrize("text", ["png", "rgb8; png compressed bgr8", "bgr8; png compressed bgr8", "PNG"])
def test_every_way_to_write_png_is_understood(text: str) -> None:
    frame = frame_of_compressed(compressed("PNG", text), 0, 0.0)
    assert frame.encoding == "png"
    np.testing.assert_array_equal(decode_frame(frame, SHAPE), RGB)


@pytest.mark.parametrize("text", ["jpeg", "jpg", "rgb8; jpeg compressed bgr8", "bgr8; jpeg compressed bgr8"])
def test_every_way_to_write_jpeg_is_understood(text: str) -> None:
    message = compressed("JPEG", text)
    frame = frame_of_compressed(message, 0, 0.0)
    assert frame.encoding == "jpeg"
    assert frame.data == bytes(message.data)
    expected = np.asarray(Pictures.open(io.BytesIO(frame.data)).convert("RGB"))
    np.testing.assert_array_equal(decode_frame(frame, SHAPE), expected)


@pytest.mark.parametrize("text", ["", "16UC1; compressedDepth png", "webp"])
def test_an_unknown_format_is_refused(text: str) -> None:
    with pytest.raises(FrameError, match="is not known"):
        decode_frame(frame_of_compressed(compressed("PNG", text), 0, 0.0), SHAPE)
