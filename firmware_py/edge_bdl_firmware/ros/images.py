"""ROS images as frames: the bytes as they came, copied once, and judged by nobody before the worker looks at them."""

from __future__ import annotations

from typing import Any

from edge_bdl_firmware.frames.decode import file_encoding
from edge_bdl_firmware.messages import Frame
from edge_bdl_firmware.ros.conversions import nanoseconds_of


def frame_of_image(message: Any, sequence: int, received_s: float) -> Frame:
    """A ``sensor_msgs/Image`` as a frame. An encoding that nobody can decode keeps its name: it becomes a fault.

    ``is_bigendian`` says nothing about bytes.

    Args:
        message: As it came.
        sequence: Of the frame.
        received_s: When it came, CLOCK_MONOTONIC.
    """
    return Frame(
        sequence=sequence,
        stamp_ns=nanoseconds_of(message.header.stamp),
        received_s=received_s,
        encoding=message.encoding,
        height=message.height,
        width=message.width,
        step=message.step,
        data=bytes(message.data),
    )


def frame_of_compressed(message: Any, sequence: int, received_s: float) -> Frame:
    """A ``sensor_msgs/CompressedImage`` as a frame, its file unopened.

    Args:
        message: As it came; its ``format`` may be ``jpeg``, or ``bgr8; jpeg compressed bgr8``.
        sequence: Of the frame.
        received_s: When it came, CLOCK_MONOTONIC.
    """
    return Frame(
        sequence=sequence,
        stamp_ns=nanoseconds_of(message.header.stamp),
        received_s=received_s,
        encoding=file_encoding(message.format),
        data=bytes(message.data),
    )
