"""Thousands of ways to damage real bundles. None may be accepted, and none may raise anything but a BundleError."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load

from edge_bdl.bundle import Bundle
from edge_bdl.errors import BundleError
from edge_bdl.sampling import Members

BUNDLES = Path(__file__).parents[1] / "bundles"
ORIGINALS = {
    folder.name: {path.name: path.read_bytes() for path in folder.iterdir()} for folder in BUNDLES.glob("*.ebdl")
}
FILES = [(folder, name) for folder, files in sorted(ORIGINALS.items()) for name in sorted(files)]
SEALED = ("manifest.json", "manifest.sha256")

Reseal = Callable[..., None]

repeated = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies of all bundles, damaged one file at a time and put right again."""
    place = tmp_path_factory.mktemp("mutations")
    for folder in ORIGINALS:
        shutil.copytree(BUNDLES / folder, place / folder)
    return place


@contextmanager
def changed(folder: Path, name: str, data: bytes) -> Iterator[None]:
    (folder / name).write_bytes(data)
    try:
        yield
    finally:
        for file in {name, *SEALED}:
            (folder / file).write_bytes(ORIGINALS[folder.name][file])


@st.composite
def mutated(draw: st.DrawFn, data: bytes) -> bytes:
    """Other bytes than these: bits flipped, a piece cut out, put in, overwritten or repeated, or the end lost."""
    if not data:
        return draw(st.binary(min_size=1, max_size=64))
    at = draw(st.integers(0, len(data) - 1))
    length = draw(st.integers(1, 64))
    piece = draw(st.binary(min_size=1, max_size=length))
    result = draw(
        st.sampled_from(
            [
                data[:at] + bytes([data[at] ^ 1 << length % 8]) + data[at + 1 :],
                data[:at],
                data[:at] + data[at + length :],
                data[:at] + piece + data[at:],
                data[:at] + piece + data[at + len(piece) :],
                data[: at + length] + data[at:],
                data + piece,
            ]
        )
    )
    return result if result != data else data + b"\0"


@settings(repeated, max_examples=1000)
@given(where=st.sampled_from(FILES), data=st.data())
def test_no_changed_byte_is_accepted(where: tuple[str, str], data: st.DataObject, workplace: Path) -> None:
    folder, name = where
    with changed(workplace / folder, name, data.draw(mutated(ORIGINALS[folder][name]))), pytest.raises(BundleError):
        Bundle.open(workplace / folder)


@settings(repeated, max_examples=200)
@given(where=st.sampled_from(FILES), other=st.sampled_from(FILES))
def test_no_exchanged_file_is_accepted(where: tuple[str, str], other: tuple[str, str], workplace: Path) -> None:
    folder, name = where
    theirs = ORIGINALS[other[0]][other[1]]
    if theirs == ORIGINALS[folder][name]:
        return
    with changed(workplace / folder, name, theirs), pytest.raises(BundleError):
        Bundle.open(workplace / folder)


# From here on the hashes are made to fit again, as somebody who means harm would. What is accepted then must be as
# sound as what the exporter writes.

DECODED = [(folder, name) for folder, name in FILES if name.endswith((".safetensors", ".onnx"))]
# Where the graphs hold the members, the bank's file is empty.
HEADED = [
    (folder, name)
    for folder, name in DECODED
    if name.endswith(".safetensors") and not ORIGINALS[folder][name][8:].startswith(b"{}")
]


@settings(repeated, max_examples=400)
@given(where=st.sampled_from(DECODED), data=st.data())
def test_changed_bytes_with_fitting_hashes_are_refused_or_sound(
    where: tuple[str, str], data: st.DataObject, workplace: Path, reseal: Reseal
) -> None:
    folder, name = where
    with changed(workplace / folder, name, data.draw(mutated(ORIGINALS[folder][name]))):
        reseal(workplace / folder)
        open_and_use(workplace / folder)


@settings(repeated, max_examples=400)
@given(where=st.sampled_from(HEADED), data=st.data())
def test_changed_headers_of_tensors_are_refused(
    where: tuple[str, str], data: st.DataObject, workplace: Path, reseal: Reseal
) -> None:
    folder, name = where
    original = ORIGINALS[folder][name]
    size = int.from_bytes(original[:8], "little")
    header = json.loads(original[8 : 8 + size])
    edited = data.draw(edited_json(header))
    raw = json.dumps(edited).encode()
    with changed(workplace / folder, name, len(raw).to_bytes(8, "little") + raw + original[8 + size :]):
        reseal(workplace / folder)
        bundle = open_and_use(workplace / folder)
        # Metadata, a new name for an old tensor and the like are refused; only what means the same may pass.
        if bundle is not None:
            assert same_tensors(load((workplace / folder / name).read_bytes()), load(original))


# What the tensors and files of a bundle must agree with. The rest of a manifest is the exporter's word.
STRUCTURE = (("schema_version",), ("files",), ("form",), ("inputs",), ("bank", "members"), ("outputs", 0, "shape"))


@settings(repeated, max_examples=400)
@given(folder=st.sampled_from(sorted(ORIGINALS)), data=st.data())
def test_changed_fields_of_a_manifest_are_refused_or_sound(
    folder: str, data: st.DataObject, workplace: Path, reseal: Reseal
) -> None:
    original = json.loads(ORIGINALS[folder]["manifest.json"])
    edited = data.draw(edited_json(original))
    with changed(workplace / folder, "manifest.json", json.dumps(edited).encode()):
        raw = (workplace / folder / "manifest.json").read_bytes()
        (workplace / folder / "manifest.sha256").write_text(f"{hashlib.sha256(raw).hexdigest()}  manifest.json\n")
        if open_and_use(workplace / folder) is not None:
            assert [at(edited, path) for path in STRUCTURE] == [at(original, path) for path in STRUCTURE]


def open_and_use(folder: Path) -> Bundle | None:
    """Open a bundle; if that is possible, its members and goldens must be there to be used."""
    try:
        bundle = Bundle.open(folder)
    except BundleError:
        return None
    manifest, bank = bundle.manifest, bundle.manifest.bank
    members = Members(manifest.form, bank, bundle.bank()).take(0, bank.members)
    assert {name: array.shape for name, array in members.items()} == {
        spec.name: (bank.members, *spec.shape) for spec in bank.inputs if not bank.built_in
    }
    golden = bundle.golden()
    if manifest.closed is not None:
        expected = {f"fused.{spec.name}": spec.shape for spec in manifest.outputs[:2]}
    else:
        expected = {"fused.members": (bank.members, *manifest.output.shape)}
    assert {name: golden[name].shape[1:] for name in expected} == expected
    assert all(np.isfinite(array).all() for array in (*members.values(), *golden.values()))
    return bundle


def same_tensors(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    return ours.keys() == theirs.keys() and all(ours[name].tobytes() == theirs[name].tobytes() for name in ours)


def at(value: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        value = value[step]
    return value


HOSTILE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 20),
    st.sampled_from([2**31, 2**63, 2**64, 2**200, -(2**63), 1e308, -0.0, 0.5]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(["float32", "F32", "U8", "I64", "../x", "/x", "\0", "tflite"]),
    st.sampled_from(["mask_bank", "weight_bank", "gaussian_head", "moments"]),
    st.lists(st.integers(0, 2**40), max_size=4),
    st.dictionaries(st.text(max_size=3), st.none(), max_size=2),
    st.integers(1, 3000).map(lambda depth: json.loads("[" * (depth % 500 + 1) + "]" * (depth % 500 + 1))),
)


@st.composite
def edited_json(draw: st.DrawFn, original: Any) -> Any:
    """Another JSON value than this one: one field replaced, removed, added or moved to another's place."""
    result = copy.deepcopy(original)
    parent, key = result, draw(st.sampled_from(sorted(result)))
    while isinstance(parent[key], (dict, list)) and parent[key] and draw(st.integers(0, 3)):
        parent = parent[key]
        key = draw(st.sampled_from(sorted(parent))) if isinstance(parent, dict) else draw(index_of(parent))
    how = draw(st.sampled_from(["replace", "nudge", "remove", "add", "double"]))
    if how == "remove":
        del parent[key]
    elif how == "nudge" and isinstance(parent[key], (int, float)):
        parent[key] += draw(st.sampled_from([-1, 1]))
    elif how == "add" and isinstance(parent, dict):
        parent[draw(st.text(max_size=4))] = draw(HOSTILE)
    elif how == "double" and isinstance(parent, list):
        parent.append(copy.deepcopy(parent[key]))
    else:
        parent[key] = draw(HOSTILE)
    return result


def index_of(values: list[Any]) -> st.SearchStrategy[int]:
    return st.integers(0, len(values) - 1)
