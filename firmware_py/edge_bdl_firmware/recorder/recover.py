"""A recording that was cut short, rescued: all that is whole in it becomes a new, sound file beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

import msgspec
from mcap.reader import make_reader
from mcap.records import Attachment, Channel, Chunk, Footer, Header, McapRecord, Message, Metadata, Schema
from mcap.stream_reader import StreamReader, breakup_chunk
from mcap.writer import CompressionType, Writer

from edge_bdl.disk import flush_folder
from edge_bdl_firmware.recorder.log_reader import RecordingError
from edge_bdl_firmware.recorder.log_writer import PARTIAL

_MAGIC = b"\x89MCAP0\r\n"


class Rescue(msgspec.Struct, kw_only=True):
    """What was rescued.

    Attributes:
        sound: The file was whole: there was nothing to do, and nothing was written.
        path: The new file; None where none was written.
        messages: In it.
        seconds: From its first message to its last.
        damaged_chunks: Pieces in the middle that cannot be read.
        lost_bytes: At the end of the old file, that cannot be read.
    """

    sound: bool = False
    path: str | None = None
    messages: int = 0
    seconds: float = 0.0
    damaged_chunks: int = 0
    lost_bytes: int = 0


def recover(path: Path) -> Rescue:
    """Rescue what is whole in a recording, or in any other MCAP file.

    Args:
        path: Stays as it is.

    Raises:
        RecordingError: It cannot be read, is no MCAP file, or the new file cannot be written or is there already.
    """
    try:
        with path.open("rb") as file:
            return Rescue(sound=True) if _is_sound(file) else _recover(path, file)
    except OSError as error:
        raise RecordingError(f"{path} cannot be recovered: {error}") from error


def _recover(path: Path, file: IO[bytes]) -> Rescue:
    target = path.with_name(path.name.removesuffix(PARTIAL).removesuffix(".mcap") + ".recovered.mcap")
    if target.exists():
        raise RecordingError(f"{target} is there already: remove it or give it another name")
    salvage = _Salvage(file)
    fresh = target.with_name(target.name + PARTIAL)
    try:
        with fresh.open("xb") as out:
            rescue = _copy(salvage, out)
            out.flush()
            os.fsync(out.fileno())
        if rescue.messages:
            fresh.rename(target)
            flush_folder(target.parent)
            rescue.path = str(target)
    finally:
        with suppress(FileNotFoundError):
            fresh.unlink()
    rescue.damaged_chunks, rescue.lost_bytes = salvage.damaged_chunks, _size(file) - salvage.sound_until
    return rescue


def _is_sound(file: IO[bytes]) -> bool:
    """Whether it reads to its end, every chunk with its checksum."""
    if not _MAGIC.startswith(file.read(len(_MAGIC))):
        raise RecordingError("no MCAP file: it does not begin as one does")
    file.seek(0)
    try:
        for record in StreamReader(file, emit_chunks=True, record_size_limit=_size(file)).records:
            if isinstance(record, Chunk):
                breakup_chunk(record, validate_crc=True)
        file.seek(0)
        return make_reader(file).get_summary() is not None
    except OSError:
        raise
    except Exception:  # what decoders raise for damaged files has no common base
        return False


def _size(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size


class _Salvage:
    """The records of a damaged file, for as long as they can be read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._size = file, _size(file)
        self.sound_until = 0
        self.damaged_chunks = 0

    def records(self) -> Iterator[McapRecord]:
        """All of them in their order, those of chunks in the place of the chunk."""
        self._file.seek(0)
        # A length beyond the file is damage, not a reason to ask for memory.
        reader = StreamReader(self._file, emit_chunks=True, record_size_limit=self._size)
        records = iter(reader.records)
        while True:
            try:
                record = next(records)
            except OSError:
                raise
            except (StopIteration, Exception):  # what decoders raise for damaged files has no common base
                return
            yield from self._whole(record)
            if isinstance(record, Footer):
                self.sound_until = self._size
                return

    def _whole(self, record: McapRecord) -> Iterator[McapRecord]:
        if isinstance(record, Chunk):
            try:
                # Before the first is used: half a chunk is none.
                inner = breakup_chunk(record, validate_crc=True)
            except Exception:  # as above
                # The reader does not notice where the file ends within a chunk.
                if self._file.tell() < self._size:
                    self.damaged_chunks += 1
                return
            yield from inner
        else:
            yield record
        self.sound_until = self._file.tell()


class _Copy:
    """A new MCAP file with the content of a damaged one."""

    def __init__(self, out: IO[bytes], header: McapRecord | None) -> None:
        self._writer = Writer(out, compression=CompressionType.LZ4)
        if isinstance(header, Header):
            self._writer.start(header.profile, header.library)
        else:
            self._writer.start()
        # By the number that they had; the one of no schema stays.
        self._schemas = {0: 0}
        self._channels: dict[int, int] = {}
        self._first_ns: int | None = None
        self._last_ns = 0
        self.messages = 0

    def add(self, record: McapRecord) -> None:
        """Take over a record; indexes and statistics are made anew."""
        writer = self._writer
        if isinstance(record, Schema) and record.id not in self._schemas:
            self._schemas[record.id] = writer.register_schema(record.name, record.encoding, record.data)
        elif isinstance(record, Channel) and record.id not in self._channels and record.schema_id in self._schemas:
            self._channels[record.id] = writer.register_channel(
                record.topic, record.message_encoding, self._schemas[record.schema_id], record.metadata
            )
        elif isinstance(record, Message) and record.channel_id in self._channels:
            self._add_message(record)
        elif isinstance(record, Metadata):
            writer.add_metadata(record.name, record.metadata)
        elif isinstance(record, Attachment):
            writer.add_attachment(record.create_time, record.log_time, record.name, record.media_type, record.data)

    def finish(self) -> Rescue:
        """Make the file whole."""
        self._writer.finish()  # type: ignore[no-untyped-call]
        seconds = 0.0 if self._first_ns is None else (self._last_ns - self._first_ns) / 1e9
        return Rescue(messages=self.messages, seconds=seconds)

    def _add_message(self, message: Message) -> None:
        channel = self._channels[message.channel_id]
        self._writer.add_message(channel, message.log_time, message.data, message.publish_time, message.sequence)
        self.messages += 1
        self._first_ns = message.log_time if self._first_ns is None else min(self._first_ns, message.log_time)
        self._last_ns = max(self._last_ns, message.log_time)


def _copy(salvage: _Salvage, out: IO[bytes]) -> Rescue:
    records = salvage.records()
    copy = _Copy(out, next(records, None))
    for record in records:
        copy.add(record)
    return copy.finish()
