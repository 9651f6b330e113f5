"""Messages: what goes in comes out, and what is none of ours is refused whatever it is."""

from __future__ import annotations

import math
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_bdl_firmware.messages import (
    AnyMessage,
    Assessment,
    Command,
    Frame,
    Heartbeat,
    Human,
    MessageError,
    Opening,
    Snapshot,
    Step,
    boot_id,
    decode,
    encode,
)

KINDS = (Frame, Assessment, Command, Human, Step, Snapshot, Opening, Heartbeat)
INT64 = st.integers(-(2**63), 2**63 - 1)
VALUES = {int: INT64, int | None: st.none() | INT64}


def built(kind: type[Any]) -> st.SearchStrategy[AnyMessage]:
    """Messages of one kind, every field drawn: a default says nothing of the way there."""
    return st.builds(kind, **{name: VALUES.get(of, st.from_type(of)) for name, of in get_type_hints(kind).items()})


messages = st.one_of([built(kind) for kind in KINDS])


def plain(value: object) -> object:
    """Comparable also where a number is none: NaN equals nothing, not even itself."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else (value, math.copysign(1.0, value))
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return tuple(map(plain, value)) if isinstance(value, tuple | list) else value


def fields(message: AnyMessage) -> dict[str, object]:
    return {
        "kind": type(message).__name__,
        **{name: plain(value) for name, value in msgspec.structs.asdict(message).items()},
    }


@given(messages)
def test_every_message_comes_out_as_it_went_in(message: AnyMessage) -> None:
    assert fields(decode(encode(message))) == fields(message)


def test_the_round_trips_are_of_all_kinds_of_message() -> None:
    assert set(AnyMessage.__args__) == set(KINDS)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, -0.0, 5e-324, 0.1, 1.7976931348623157e308])
def test_numbers_survive_to_the_last_bit_and_those_that_are_none_as_well(number: float) -> None:
    told = decode(encode(Command(axes=(number,), kept=(number,))))
    assert isinstance(told, Command)
    assert plain(told.axes + told.kept) == plain((number, number))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_an_error_of_ours(data: bytes) -> None:
    with suppress(MessageError):
        assert isinstance(decode(data), KINDS)


@given(messages, st.data())
def test_a_message_cut_short_is_none(message: AnyMessage, data: st.DataObject) -> None:
    raw = encode(message)
    with pytest.raises(MessageError):
        decode(raw[: data.draw(st.integers(0, len(raw) - 1))])


@given(messages, st.data())
def test_a_damaged_message_is_one_or_an_error_of_ours(message: AnyMessage, data: st.DataObject) -> None:
    raw = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with suppress(MessageError):
        assert isinstance(decode(bytes(raw)), KINDS)


def packed(value: Any) -> bytes:
    return msgspec.msgpack.encode(value)


COMMAND = {"type": "Command", "axes": [1.0]}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xc1",
        b"\x91" * 100_000,
        b"\x81\xa4type" * 50_000,
        packed(COMMAND)[:-1] + b"\x91" * 100_000,
        packed({"type": "Command", "axes": [1.0], "kept": [], "more": 1}),
        packed({"type": "Shutdown"}),
        packed({"axes": [1.0]}),
        packed({"type": "Command"}),
        packed({"type": "Command", "axes": None}),
        packed({"type": "Command", "axes": ["1.0"]}),
        packed({"type": "Human", "act": "explode"}),
        packed([1, 2, 3]),
        packed(COMMAND) + packed(COMMAND),
        packed({"type": "Heartbeat", "now_s": "soon"}),
    ],
    ids=range(15),
)
def test_hostile_bytes_are_an_error_of_ours(raw: bytes) -> None:
    with pytest.raises(MessageError, match="no message of edge-bdl"):
        decode(raw)


@pytest.mark.parametrize(
    ("message", "short", "long"),
    [
        (Command(axes=(1.0,)), b"axes\x91", b"axes\xdd"),
        (Assessment(sequence=0, stamp_ns=0, received_s=0.0, boot_id="", bundle=""), b"scores\x80", b"scores\xdf"),
        (Frame(sequence=0, stamp_ns=0, received_s=0.0, encoding="rgb8", data=b""), b"data\xc4\x00", b"data\xc6"),
    ],
    ids=["array", "map", "bytes"],
)
def test_a_length_that_nothing_follows_costs_no_memory(message: AnyMessage, short: bytes, long: bytes) -> None:
    raw = encode(message)
    assert raw.count(short) == 1
    tracemalloc.start()
    try:
        with pytest.raises(MessageError):
            decode(raw.replace(short, long + b"\xff\xff\xff\xff"))
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_the_boot_is_that_of_this_machine() -> None:
    assert boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
