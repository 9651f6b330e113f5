"""A recording read back: every message as it came, and the frames with the pixels they had."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec
from mcap.reader import McapReader, make_reader
from mcap_ros2.decoder import DecoderFactory

from edge_bdl.errors import InputError
from edge_bdl_firmware.messages import AnyMessage, Frame, decode
from edge_bdl_firmware.recorder.log_writer import METADATA
from edge_bdl_firmware.recorder.topics import COMPRESSED_IMAGE, IMAGE, RAW


class RecordingError(InputError):
    """A file is no recording of ours, or is damaged."""


class Logged(NamedTuple):
    """A message, and the time of day when it was received, nanoseconds since 1970."""

    time_ns: int
    message: AnyMessage


class Log:
    """A recording.

    Attributes:
        path: The file.
        messages: All of them in the order in which they came; frames without their pixels.
        metadata: What the recorder wrote about itself.

    Args:
        path: The file.

    Raises:
        RecordingError: It cannot be read, is damaged, or is no recording of ours.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.messages: list[Logged] = []
        self.metadata: dict[str, str] = {}
        self._frames: dict[tuple[int, int], Frame] = {}
        with _opened(path) as reader:
            for record in reader.iter_metadata():
                if record.name == METADATA:
                    self.metadata |= record.metadata
            for message, ros in _decoded(reader, [RAW]):
                ours = decode(ros.data)
                self.messages.append(Logged(message.log_time, ours))
                if isinstance(ours, Frame):
                    self._frames[message.log_time, message.sequence] = ours
        if not self.messages:
            raise RecordingError(f"{path} holds nothing that edge-bdl recorded")

    def frames(self) -> Iterator[Frame]:
        """The frames byte for byte as they came. They are read again from the file, as they may not fit in memory.

        Raises:
            RecordingError: The file is damaged.
        """
        with _opened(self.path) as reader:
            for message, ros in _decoded(reader, [IMAGE, COMPRESSED_IMAGE]):
                frame = self._frames.get((message.log_time, message.sequence))
                if frame is not None:
                    yield msgspec.structs.replace(frame, data=ros.data)


def _decoded(reader: McapReader, topics: list[str]) -> Iterator[tuple[Any, Any]]:
    for decoded in reader.iter_decoded_messages(topics=topics, log_time_order=False):
        yield decoded.message, decoded.decoded_message


@contextmanager
def _opened(path: Path) -> Iterator[McapReader]:
    """A reader; whatever it raises until it is done with, for whatever is in the file, becomes a RecordingError."""
    try:
        file: IO[bytes] = path.open("rb")
    except OSError as error:
        raise RecordingError(f"{path} cannot be read: {error.strerror}") from error
    with file:
        try:
            reader = make_reader(file, validate_crcs=True, decoder_factories=[DecoderFactory()])
            if reader.get_summary() is None:
                raise ValueError("there is no summary at its end")
            yield reader
        except (GeneratorExit, InputError):
            raise
        except Exception as error:  # what decoders raise for damaged files has no common base
            reason = " ".join(str(error).split()) or type(error).__name__
            raise RecordingError(
                f"{path} is no sound recording ({reason}); if it was cut short, edge-bdl recover rescues what is in it"
            ) from error
