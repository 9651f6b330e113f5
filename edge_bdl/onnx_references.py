"""Where an ONNX file says its weights are, read without the onnx package.

Hashes prove that a bundle is the one that was written; they do not prove that its writer meant well. An ONNX tensor
may name any path as its external data, and not every onnxruntime since 1.18 refuses the ones that leave the folder. A
robot has no onnx package, so the few protobuf messages on the way to a tensor are walked here (field numbers are those
of ``onnx.proto``).
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# For each message: the fields that lead on to a tensor's external data.
_FIELDS: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {13: "StringStringEntryProto"},
}


def external_locations(model: bytes) -> set[str]:
    """Every path that some tensor of an ONNX model names as its external data.

    Args:
        model: The bytes of an ONNX file.

    Raises:
        ValueError: They are not a protobuf message.
    """
    locations: set[str] = set()
    pending = [("ModelProto", memoryview(model))]
    while pending:
        message, data = pending.pop()
        if message == "StringStringEntryProto":
            locations |= _location(data)
            continue
        onward = _FIELDS[message]
        pending += [(onward[number], value) for number, value in _fields(data) if number in onward]
    return locations


def _location(entry: memoryview) -> set[str]:
    """The values of a ``location`` entry. A field given twice counts with all its values, whichever a parser takes."""
    fields = [(number, bytes(value)) for number, value in _fields(entry)]
    if (1, b"location") not in fields:
        return set()
    return {value.decode(errors="replace") for number, value in fields if number == 2}


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The length-delimited fields of one protobuf message; the others are skipped over."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        kind = tag & 7
        if tag >= 1 << 32:
            raise ValueError("not an ONNX model")  # other parsers cut such a tag to 32 bits, and so see another field
        if kind == _VARINT:
            _, position = _varint(data, position)
        elif kind in (_FIXED64, _FIXED32):
            position += 8 if kind == _FIXED64 else 4
        elif kind == _BYTES:
            length, start = _varint(data, position)
            position = start + length
            yield tag >> 3, data[start:position]
        else:
            raise ValueError("not an ONNX model")
        if position > len(data):
            raise ValueError("an ONNX model that ends too early")


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise ValueError("an ONNX model that ends too early")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("not an ONNX model")
