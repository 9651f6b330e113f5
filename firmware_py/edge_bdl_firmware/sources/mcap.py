"""The camera of a ROS 2 recording, at the pace at which it was recorded."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edge_bdl.errors import EdgeBdlError, InputError, require
from edge_bdl_firmware.frames.decode import file_encoding
from edge_bdl_firmware.messages import Frame
from edge_bdl_firmware.sources.base import Pace

_IMAGE, _COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


class McapSource:
    """Plays one topic of an MCAP file once.

    Args:
        text: ``FILE.mcap`` where it has one topic of images, else ``FILE.mcap:/its/topic``.
        rate_hz: Frames a second; None: the recorded pace.

    Raises:
        InputError: The file cannot be read, or does not have that topic, or has several to choose from.
        MissingExtraError: mcap-ros2-support is not installed.
    """

    clock_ns: Callable[[], int] | None = None

    def __init__(self, text: str, rate_hz: float | None = None) -> None:
        self._decoder: Any = require("mcap_ros2.decoder", "record", "to read MCAP files")
        self._mcap: Any = require("mcap.reader", "record", "to read MCAP files")
        name, separator, topic = text.partition(".mcap:")
        self._path = Path(f"{name}.mcap" if separator else text)
        self._rate_hz = rate_hz
        self._pace = Pace()
        with self._reader() as reader:
            self._topic = self._choose(reader, topic)

    def frames(self) -> Iterator[Frame]:
        """See `Source.frames`; stamps are the recorded ones."""
        first_ns: int | None = None
        with self._reader() as reader:
            for sequence, (schema, _, record, message) in enumerate(reader.iter_decoded_messages([self._topic])):
                first_ns = record.log_time if first_ns is None else first_ns
                recorded_s = (record.log_time - first_ns) * 1e-9
                if not self._pace.wait(recorded_s if self._rate_hz is None else sequence / self._rate_hz):
                    return
                yield Frame(
                    sequence=sequence,
                    stamp_ns=message.header.stamp.sec * 10**9 + message.header.stamp.nanosec,
                    received_s=time.monotonic(),
                    **_content(schema.name, message),
                )

    def close(self) -> None:
        """See `Source.close`."""
        self._pace.end()

    @contextmanager
    def _reader(self) -> Iterator[Any]:
        try:
            with self._path.open("rb") as file:
                yield self._mcap.make_reader(file, decoder_factories=[self._decoder.DecoderFactory()])
        except EdgeBdlError:
            raise
        except OSError as error:
            raise InputError(f"{self._path} cannot be read: {error.strerror or error}") from error
        except Exception as error:  # what decoders raise for damaged files has no common base
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(
                f"{self._path} is no sound MCAP file: {reason}; if its writing was cut short, try edge-bdl recover"
            ) from error

    def _choose(self, reader: Any, topic: str) -> str:
        summary = reader.get_summary()
        if summary is None:
            raise ValueError("it has no summary")
        images = {
            channel.topic
            for channel in summary.channels.values()
            if channel.schema_id in summary.schemas and summary.schemas[channel.schema_id].name in (_IMAGE, _COMPRESSED)
        }
        listed = ", ".join(sorted(images))
        if not images:
            raise InputError(f"{self._path} holds no {_IMAGE} and no {_COMPRESSED}")
        if topic and topic not in images:
            raise InputError(f"{self._path} has no images on {topic}, but on {listed}")
        if not topic and len(images) > 1:
            raise InputError(f"{self._path} has images on {listed}: name one, {self._path}:{min(images)}")
        return topic or images.pop()


def _content(schema: str, message: Any) -> dict[str, Any]:
    """The fields of a frame that say what is in the picture."""
    if schema == _COMPRESSED:
        return {"encoding": file_encoding(message.format), "data": bytes(message.data)}
    return {
        "encoding": message.encoding,
        "height": message.height,
        "width": message.width,
        "step": message.step,
        "data": bytes(message.data),
    }
