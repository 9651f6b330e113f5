from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_bdl.onnx_references import external_locations

GRAPHS = sorted((Path(__file__).parents[1] / "bundles").glob("*/*.onnx"))


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(value)) + value


def tensor(*entry: bytes) -> bytes:
    return field(13, b"".join(entry))


OUTSIDE = tensor(field(1, b"location"), field(2, b"/etc/passwd"))


@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: f"{path.parent.stem}-{path.stem}")
def test_shipped_graphs_name_their_weights_file_and_nothing_else(path: Path) -> None:
    assert external_locations(path.read_bytes()) <= {"weights.bin"}


def test_some_shipped_graph_has_external_weights() -> None:
    assert set().union(*(external_locations(path.read_bytes()) for path in GRAPHS)) == {"weights.bin"}


@pytest.mark.parametrize(
    "path",
    [
        (7, 5),  # a graph's initializer
        (7, 15, 1),  # a sparse one's values
        (7, 15, 2),  # and indices
        (7, 1, 5, 5),  # a node's tensor
        (7, 1, 5, 10),  # and tensors
        (7, 1, 5, 22, 1),  # and sparse tensor
        (7, 1, 5, 23, 2),  # and sparse tensors
        (7, 1, 5, 6, 5),  # a branch of an If
        (7, 1, 5, 11, 1, 5, 6, 5),  # a branch in a branch
        (25, 7, 5, 5),  # a function's node
        (25, 11, 5),  # and its default attributes
        (20, 1, 5),  # training's graphs
        (20, 2, 5),
    ],
)
def test_a_location_is_found_wherever_a_tensor_may_be(path: tuple[int, ...]) -> None:
    model = OUTSIDE
    for number in reversed(path):
        model = field(number, model)
    assert external_locations(varint(1 << 3) + varint(10) + model) == {"/etc/passwd"}


@pytest.mark.parametrize(
    "entry",
    [
        [field(2, b"/etc/passwd"), field(1, b"location")],
        [field(1, b"offset"), field(1, b"location"), field(2, b"/etc/passwd")],
        [field(1, b"location"), field(2, b"weights.bin"), field(2, b"/etc/passwd")],
        [field(1, b"location"), field(2, b"/etc/passwd"), field(2, b"weights.bin")],
        [field(3, b"\x6a\x17"), field(1, b"location"), field(2, b"/etc/passwd")],
        [b"\x0a\x88\x00location", field(2, b"/etc/passwd")],  # a length in more bytes than it needs
        [b"\x8a\x00\x08location", field(2, b"/etc/passwd")],  # a tag likewise
    ],
)
def test_a_location_is_found_however_it_is_written(entry: list[bytes]) -> None:
    assert "/etc/passwd" in external_locations(field(7, field(5, tensor(*entry))))


def test_names_and_values_that_only_look_like_locations_are_none() -> None:
    named = field(8, b"location\x12\x0b/etc/passwd")
    offset = tensor(field(1, b"offset"), field(2, b"location"))
    assert external_locations(field(7, field(5, named + offset))) == set()


@pytest.mark.parametrize(
    "data",
    [
        b"\x3a",  # no length
        b"\x3a\x05ab",  # less than the length says
        b"\x08",  # no value
        b"\x08" + b"\xff" * 11,  # a number without end
        b"\x0d\x00",  # half a fixed number
        b"\x0b\x0c",  # groups, which ONNX has none of
        b"\xba\x80\x80\x80\x80\x01\x00",  # a tag of more than 32 bits, which others cut
    ],
)
def test_what_is_no_protobuf_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="ONNX model"):
        external_locations(data)


def test_depth_costs_no_stack() -> None:
    model = OUTSIDE
    for _ in range(3_000):
        model = field(1, field(5, field(6, model)))  # a branch in a branch in a branch
    assert isinstance(external_locations(field(7, model)), set)


def test_every_message_on_the_way_to_a_tensor_is_walked() -> None:
    from edge_bdl.onnx_references import _FIELDS

    onnx = pytest.importorskip("onnx", reason="the extra reference")
    messages = onnx.ModelProto.DESCRIPTOR.file.message_types_by_name
    children = {
        name: {item.number: item.message_type.name for item in message.fields if item.message_type}
        for name, message in messages.items()
    }
    leading = {"TensorProto"}
    while more := {name for name, fields in children.items() if leading & set(fields.values())} - leading:
        leading |= more
    expected = {
        name: {number: child for number, child in children[name].items() if child in leading}
        for name in leading - {"TensorProto"}
    }
    # A type's denotation and a function's value_info hold no data; only what reaches TensorProto is left above.
    assert {name: fields for name, fields in _FIELDS.items() if name != "TensorProto"} == expected
    assert children["TensorProto"][13] == "StringStringEntryProto"


def locations(message: Any) -> Iterator[str | bytes]:
    """All external locations of a parsed message, by protobuf's own reflection."""
    if message.DESCRIPTOR.name == "TensorProto":
        yield from (entry.value for entry in message.external_data if entry.key == "location")
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None:
            for item in [value] if hasattr(value, "ListFields") else value:
                yield from locations(item)


@settings(max_examples=400)
@given(path=st.sampled_from(GRAPHS), data=st.data())
def test_nothing_that_protobuf_finds_is_missed(path: Path, data: st.DataObject) -> None:
    onnx = pytest.importorskip("onnx", reason="the extra reference")
    from google.protobuf.message import DecodeError

    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        model = onnx.ModelProto.FromString(bytes(raw))
    except (DecodeError, UnicodeDecodeError):
        return
    try:
        found = external_locations(bytes(raw))
    except ValueError:
        return
    # Text that is not UTF-8 comes out of protobuf as bytes.
    known = {value.decode(errors="replace") if isinstance(value, bytes) else value for value in locations(model)}
    assert known <= found
