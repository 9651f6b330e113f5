"""The monitor's parameters, in one table, and what they mean together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from sensor_msgs.msg import CompressedImage, Image

from edge_bdl.bundle import Bundle
from edge_bdl.errors import InputError, MissingExtraError
from edge_bdl.policy_spec import LONGEST_TIMEOUT_S
from edge_bdl.runtime import Runtime
from edge_bdl_firmware.frames.checks import FrameChecksConfig
from edge_bdl_firmware.messages import Frame
from edge_bdl_firmware.ros import topics
from edge_bdl_firmware.ros.images import frame_of_compressed, frame_of_image
from edge_bdl_firmware.ros.parameters import Row, Value, rows_of, struct_of
from edge_bdl_firmware.ros.topics import Topic


class Transport(NamedTuple):
    """One way in which images come."""

    message: Any
    topic: Topic
    frame_of: Callable[[Any, int, float], Frame]


TRANSPORTS = {
    "raw": Transport(Image, topics.IMAGE, frame_of_image),
    "compressed": Transport(CompressedImage, topics.IMAGE_COMPRESSED, frame_of_compressed),
}

#: What the process itself is started with.
START = (
    Row("autostart", True, "Configure and activate at the start; else a lifecycle manager does.", read_only=True),
    Row("sockets", "", "Folder of the sockets of recorder and watchers; default: $EDGE_BDL_SOCKETS.", read_only=True),
)

_CHECKS = (
    Row("timeout_s", 0.0, "A frame is this old at most, by its receipt and by its stamp.", 0.01, LONGEST_TIMEOUT_S),
    Row("future_tolerance_s", 0.0, "A stamp is ahead of the ROS clock by this at most.", 0.0, LONGEST_TIMEOUT_S),
    Row("frozen_frames", 0, "So many identical frames in a row are a camera that hangs; 0: never.", 0, 1000),
    Row("lowest_contrast", 0.0, "Standard deviation, of 255, below which the lens is covered.", 0.0, 127.5),
    Row("most_clipped", 0.0, "Share of values at the dark or bright end above which nothing is seen.", 0.01, 1.0),
)

#: What ``configure`` reads; it cannot change while the node is configured.
CONFIGURED = (
    Row("bundle", "", "Folder of the bundle, NAME.ebdl. Required."),
    Row("trusted_key", "", "File with the ed25519 public key that must have signed the bundle."),
    Row("engine", "", "onnxruntime, tflite or reference; default: the bundle's first that is installed."),
    Row("threads", 1, "Threads inside the engine.", 1, 256),
    Row("samples", 0, "Members per prediction; 0: all of the bank.", 0, 4096),
    Row("deadline_ms", 0.0, "Time for a prediction, with the members that fit; 0: as long as it takes.", 0.0, 400.0),
    Row("image_transport", "raw", f"How images come: {' or '.join(TRANSPORTS)}."),
    *rows_of(FrameChecksConfig(), _CHECKS),
)


def transport_of(values: Mapping[str, Value]) -> Transport:
    """How images come.

    Raises:
        InputError: In no way that we know.
    """
    name = str(values["image_transport"])
    if name not in TRANSPORTS:
        raise InputError(f"image_transport is {' or '.join(TRANSPORTS)}, got {name!r}")
    return TRANSPORTS[name]


def checks_of(values: Mapping[str, Value]) -> FrameChecksConfig:
    """What a frame may be like.

    Raises:
        InputError: The values make no sense.
    """
    return struct_of(FrameChecksConfig, values)


def deadline_ms_of(values: Mapping[str, Value]) -> float | None:
    """Time for a prediction; None where it may take what it takes."""
    return float(values["deadline_ms"]) or None


def runtime_of(values: Mapping[str, Value], bundle: Bundle, open_runtime: Callable[..., Runtime]) -> Runtime:
    """A runtime on the engine that is asked for, else on the bundle's first one that is installed.

    Args:
        values: Of the parameters.
        bundle: What it runs.
        open_runtime: As `Runtime.open`.

    Raises:
        InputError: The samples are not possible.
        MissingExtraError: The engine, or every engine of the bundle, is not installed.
        EngineError: The engine cannot load the bundle.
    """
    engines: Iterable[str] = (str(values["engine"]),) if values["engine"] else bundle.manifest.engines
    missing = []
    for engine in engines:
        try:
            return open_runtime(bundle, engine, values["threads"], values["samples"] or None)
        except MissingExtraError as error:
            missing.append(error)
    raise missing[0]
