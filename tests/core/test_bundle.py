from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from edge_bdl.bundle import MAX_BYTES, Bundle, check_replaceable, identify, payload_files, sign_bundle, write_bundle
from edge_bdl.engines import ENGINES
from edge_bdl.errors import BundleError, InputError, SignatureError
from edge_bdl.manifest import Manifest

BUNDLES = Path(__file__).parents[1] / "bundles"
NAMES = sorted(folder.stem for folder in BUNDLES.glob("*.ebdl"))

Copy = Callable[..., Path]
Reseal = Callable[..., None]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def staged(folder: Path, source: str = "tiny_masks") -> tuple[Manifest, Path]:
    """A manifest and a folder of payload files, as the exporter would have them."""
    bundle = Bundle.open(BUNDLES / f"{source}.ebdl")
    folder.mkdir()
    for name in bundle.manifest.files:
        shutil.copy(bundle.folder / name, folder)
    return bundle.manifest, folder


# Opening


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_bundle_opens(name: str) -> None:
    folder = BUNDLES / f"{name}.ebdl"
    bundle = Bundle.open(folder)
    assert bundle.manifest.name == name
    assert bundle.digest == hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    assert {key: value.tobytes() for key, value in bundle.bank().items()} == {
        key: value.tobytes() for key, value in load_file(folder / "bank.safetensors").items()
    }
    assert bundle.golden().keys() == load_file(folder / "golden.safetensors").keys()


def test_a_bundle_is_identified_without_reading_its_weights(copy_bundle: Copy) -> None:
    folder = copy_bundle()
    opened = Bundle.open(folder)
    (folder / "weights.bin").write_bytes(b"damaged")
    assert identify(folder) == (opened.folder, opened.manifest, opened.digest)
    with pytest.raises(BundleError):
        Bundle.open(folder)
    (folder / "weights.bin").unlink()
    with pytest.raises(BundleError, match=r"weights\.bin is missing"):
        identify(folder)


def test_the_digest_file_is_what_sha256sum_checks(copy_bundle: Copy) -> None:
    folder = copy_bundle()
    checked = subprocess.run(["sha256sum", "--check", "manifest.sha256"], cwd=folder, capture_output=True, text=True)
    assert checked.stdout == "manifest.json: OK\n"


def test_a_link_to_a_bundle_opens_and_may_move_later(copy_bundle: Copy, tmp_path: Path) -> None:
    folder = copy_bundle()
    link = tmp_path / "current.ebdl"
    link.symlink_to(folder)
    assert Bundle.open(str(link)).folder == folder


def test_the_goldens_are_checked_again_when_they_are_read(copy_bundle: Copy) -> None:
    bundle = Bundle.open(copy_bundle())
    (bundle.folder / "golden.safetensors").write_bytes(b"something else")
    with pytest.raises(BundleError, match=r"golden\.safetensors has 14 bytes"):
        bundle.golden()


def test_the_members_cannot_be_changed_by_who_reads_them(copy_bundle: Copy) -> None:
    bundle = Bundle.open(copy_bundle())
    bundle.bank().clear()
    assert bundle.bank()


@pytest.mark.parametrize("engine", sorted(ENGINES.keys() - {"scripted"}))
def test_every_engine_that_runs_graphs_has_its_files_listed(engine: str) -> None:
    manifest = Bundle.open(BUNDLES / "tiny_masks.ebdl").manifest
    assert payload_files(_replace(manifest, engines=(engine,))) <= MAX_BYTES.keys()


def _replace(manifest: Manifest, **fields: Any) -> Manifest:
    return type(manifest)(**{name: getattr(manifest, name) for name in manifest.__struct_fields__} | fields)


# Refusing what is damaged


def _truncate(folder: Path) -> None:
    path = folder / "weights.bin"
    path.write_bytes(path.read_bytes()[:-1])


def _flip(folder: Path) -> None:
    path = folder / "fused.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _link(folder: Path) -> None:
    (folder / "weights.bin").rename(folder.parent / "weights.bin")
    (folder / "weights.bin").symlink_to(folder.parent / "weights.bin")


def _replaced(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return damage


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))  # the absolute path may be longer than a socket's may be


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, "weights.bin has 10111 bytes, manifest.json says 10112"),
        (_flip, "fused.onnx is damaged"),
        (_link, "weights.bin is a link"),
        (lambda folder: (folder / "weights.bin").unlink(), "weights.bin is missing"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda folder: (folder / "manifest.sha256").unlink(), "manifest.sha256 is missing"),
        (lambda folder: (folder / "notes.txt").write_text("x"), "'notes.txt' is no part of a bundle"),
        (lambda folder: (folder / ".hidden").write_text("x"), "'.hidden' is no part of a bundle"),
        (lambda folder: (folder / "sub").mkdir(), "'sub' is no part of a bundle"),
        (_replaced("weights.bin", Path.mkdir), "weights.bin is a link, a folder"),
        (_replaced("weights.bin", os.mkfifo), "weights.bin is a link, a folder"),
        (_replaced("manifest.json", os.mkfifo), "manifest.json is a link, a folder"),
        (_replaced("manifest.sha256", _socket), "manifest.sha256 is a link, a folder"),
        (lambda folder: (folder / "manifest.json").write_bytes(b"{}"), "manifest.sha256 is not the digest"),
        (lambda folder: (folder / "manifest.sha256").write_bytes(b"x" * 129), "129 bytes, at most 128"),
        (lambda folder: (folder / "manifest.sha256").write_bytes(b""), "manifest.sha256 is not the digest"),
    ],
)
def test_a_damaged_folder_is_refused(
    damage: Callable[[Path], None], message: str, copy_bundle: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_bundle()
    monkeypatch.chdir(folder)
    damage(folder)
    with pytest.raises(BundleError, match=message):
        Bundle.open(folder)


def test_a_manifest_larger_than_any_is_not_read(copy_bundle: Copy) -> None:
    folder = copy_bundle()
    with (folder / "manifest.json").open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(BundleError, match="at most 4194304 are read"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    ("path", "message"),
    [("nowhere.ebdl", "does not exist"), ("file.ebdl", "not a folder"), ("empty.ebdl", "not a bundle")],
)
def test_what_is_no_bundle_is_refused(path: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "file.ebdl").write_text("x")
    (tmp_path / "empty.ebdl").mkdir()
    with pytest.raises(BundleError, match=message):
        Bundle.open(tmp_path / path)


# Refusing what is consistent and hostile


def _entry(name: str, **fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: manifest["files"].setdefault(name, {"bytes": 1, "sha256": "0" * 64}).update(fields)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_entry("/etc/passwd"), "lists '/etc/passwd'"),
        (_entry("../weights.bin"), r"lists '\.\./weights\.bin'"),
        (_entry("sub/weights.bin"), "lists 'sub/weights.bin'"),
        (_entry("."), "lists '.'"),
        (_entry(""), "lists ''"),
        (_entry("manifest.json"), "lists 'manifest.json'"),
        (_entry("manifest.sig"), "lists 'manifest.sig'"),
        (_entry("weights.bin", bytes=2**62), "said to have 4611686018427387904 bytes"),
        (_entry("weights.bin", bytes=2**80), "said to have 1208925819614629174706176 bytes"),
        (_entry("weights.bin", bytes=0), "weights.bin has 10112 bytes, manifest.json says 0"),
        (_entry("weights.bin", sha256="f" * 64), "weights.bin is damaged"),
        (lambda manifest: manifest["files"].pop("weights.bin"), "does not list weights.bin"),
        (lambda manifest: manifest["files"].clear(), "does not list"),
        (lambda manifest: manifest.update(engines=[]), "for the engines"),
        (lambda manifest: manifest.update(engines=["onnxruntime", "abacus"]), "abacus"),
        (lambda manifest: manifest.update(engines=["onnxruntime"]), "lists 'graph.tflite'"),
        (lambda manifest: manifest.update(engines=["tflite"]), "lists 'det.onnx'"),
        (
            lambda manifest: [manifest.update(engines=["onnxruntime"]), manifest["files"].pop("graph.tflite")],
            r"graph\.tflite is not listed",
        ),
        (lambda manifest: manifest.update(schema_version=3), "schema 3"),
        (lambda manifest: manifest.update(schema_version=2), "a mask_bank is of schema 1, got 2"),
        (
            lambda manifest: manifest["bank"].update(members=15),
            r"'mask_0' is uint8 \[16, 9\], expected uint8 \[15, 9\]",
        ),
        (lambda manifest: manifest["bank"].update(chunk=3), "'fresh.mask_0' is"),
        (lambda manifest: manifest["bank"]["inputs"].pop(), "'mask_1' does not belong there"),
        (lambda manifest: manifest["bank"]["inputs"][0].update(name="det.output"), "'det.output' is missing"),
        (lambda manifest: manifest["bank"]["inputs"][0].update(shape=[2**40, 2**40]), "'mask_0' is uint8"),
        (lambda manifest: manifest["inputs"][0].update(dtype="float32"), "'input.frame' is uint8"),
        (lambda manifest: manifest["inputs"][0].update(dtype="no such dtype"), "'input.frame' is uint8"),
        (lambda manifest: manifest["outputs"][0].update(shape=[1, 4]), "'det.output' is float32"),
        (lambda manifest: manifest["outputs"].pop(), "'density' does not belong there"),
        (lambda manifest: manifest.update(form="weight_bank"), "'mask_0' is uint8"),
    ],
)
def test_a_consistent_manifest_that_lies_is_refused(
    edit: Callable[[dict[str, Any]], object], message: str, copy_bundle: Copy, reseal: Reseal
) -> None:
    folder = copy_bundle()
    reseal(folder, edit)
    with pytest.raises(BundleError, match=message):
        Bundle.open(folder)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("bank", lambda t: t.update(mask_0=t["mask_0"].astype(np.float32)), "'mask_0' is float32"),
        ("bank", lambda t: t.update(mask_0=t["mask_0"].view(np.int8)), "'mask_0' is int8"),
        ("bank", lambda t: t.update(mask_0=t["mask_0"].ravel()), r"'mask_0' is uint8 \[144\]"),
        ("bank", lambda t: t.update(mask_9=t["mask_0"]), "'mask_9' does not belong there"),
        ("bank", lambda t: t.pop("mask_1"), "'mask_1' is missing"),
        ("bank", lambda t: t.clear(), "is missing"),
        ("golden", lambda t: t.pop("det.output"), "no frames"),
        ("golden", lambda t: t.update({"det.output": np.zeros((), np.float32)}), "no frames"),
        ("golden", lambda t: t.update({"det.output": np.zeros((0, 1, 2), np.float32)}), "no frames"),
        ("golden", lambda t: t.update({"det.output": t["det.output"][:2]}), "expected"),
        ("golden", lambda t: t.update(density=t["density"].astype(np.float64)), "'density' is float64"),
        ("golden", lambda t: t["fused.members"].__setitem__((0, 0, 0, 0), np.nan), "not finite"),
        ("golden", lambda t: t["fresh.members"].__setitem__((0, 0, 0, 0), np.inf), "not finite"),
    ],
)
def test_tensors_that_do_not_fit_the_manifest_are_refused(
    file: str, change: Callable[[dict[str, Any]], object], message: str, copy_bundle: Copy, reseal: Reseal
) -> None:
    folder = copy_bundle()
    path = folder / f"{file}.safetensors"
    tensors = {name: array.copy() for name, array in load_file(path).items()}
    change(tensors)
    save_file(tensors, path)
    reseal(folder)
    with pytest.raises(BundleError, match=message):
        Bundle.open(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(value: float, copy_bundle: Copy, reseal: Reseal) -> None:
    folder = copy_bundle("tiny_weights")
    tensors = {name: array.copy() for name, array in load_file(folder / "bank.safetensors").items()}
    next(iter(tensors.values())).flat[-1] = value
    save_file(tensors, folder / "bank.safetensors")
    reseal(folder)
    with pytest.raises(BundleError, match="not finite"):
        Bundle.open(folder)


@pytest.mark.parametrize(("file", "name"), [("bank", "mask_0"), ("bank", "mask_1"), ("golden", "fresh.mask_1")])
def test_bits_behind_the_last_unit_of_a_mask_are_refused(
    file: str, name: str, copy_bundle: Copy, reseal: Reseal
) -> None:
    folder = copy_bundle("tiny_points")  # 5 and 12 units: 3 and 4 bits are padding
    path = folder / f"{file}.safetensors"
    tensors = {key: array.copy() for key, array in load_file(path).items()}
    tensors[name][-1, -1] |= 1
    save_file(tensors, path)
    reseal(folder)
    with pytest.raises(BundleError, match="behind its last unit"):
        Bundle.open(folder)


@pytest.mark.parametrize("data", [b"", b"\xff" * 64, b"\x02" + bytes(7) + b"{}", b"\x80" + bytes(7) + b"[" * 128])
def test_what_is_no_safetensors_file_is_refused(data: bytes, copy_bundle: Copy, reseal: Reseal) -> None:
    folder = copy_bundle()
    (folder / "bank.safetensors").write_bytes(data)
    reseal(folder)
    with pytest.raises(BundleError, match=r"bank\.safetensors is not what"):
        Bundle.open(folder)


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/passwd", "weights.bin/../../x", "bank.safetensors", ""])
def test_a_graph_that_takes_its_weights_from_elsewhere_is_refused(
    location: str, copy_bundle: Copy, reseal: Reseal
) -> None:
    folder = copy_bundle()
    entry = b"\x0a\x08location\x12" + bytes([len(location)]) + location.encode()
    tensor = b"\x6a" + bytes([len(entry)]) + entry
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    with (folder / "head.onnx").open("ab") as file:  # protobuf merges what follows into what is there
        file.write(b"\x3a" + bytes([len(graph)]) + graph)
    reseal(folder)
    with pytest.raises(BundleError, match=r"head\.onnx takes weights from"):
        Bundle.open(folder)


# Signatures


@pytest.fixture
def keys() -> tuple[bytes, bytes]:
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519", reason="the extra sign")
    private = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    return bytes(range(32)), private.public_key().public_bytes_raw()


def test_a_signed_bundle_opens_with_its_key_and_without(copy_bundle: Copy, keys: tuple[bytes, bytes]) -> None:
    folder = copy_bundle()
    private, public = keys
    sign_bundle(folder, private)
    assert (folder / "manifest.sig").stat().st_size == 64
    assert Bundle.open(folder, public).digest == Bundle.open(folder).digest
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_missing_signature_is_refused_where_a_key_is_trusted(copy_bundle: Copy, keys: tuple[bytes, bytes]) -> None:
    with pytest.raises(SignatureError, match="not signed"):
        Bundle.open(copy_bundle(), keys[1])


def test_a_signature_by_another_key_is_refused(copy_bundle: Copy, keys: tuple[bytes, bytes]) -> None:
    folder = copy_bundle()
    sign_bundle(folder, bytes(32))
    with pytest.raises(SignatureError, match="not the trusted key's"):
        Bundle.open(folder, keys[1])


@pytest.mark.parametrize("position", [0, 31, 32, 63])
def test_a_changed_signature_is_refused(position: int, copy_bundle: Copy, keys: tuple[bytes, bytes]) -> None:
    folder = copy_bundle()
    sign_bundle(folder, keys[0])
    signature = bytearray((folder / "manifest.sig").read_bytes())
    signature[position] ^= 1
    (folder / "manifest.sig").write_bytes(signature)
    with pytest.raises(SignatureError):
        Bundle.open(folder, keys[1])


@pytest.mark.parametrize("size", [0, 63])
def test_a_signature_of_another_length_is_refused(size: int, copy_bundle: Copy, keys: tuple[bytes, bytes]) -> None:
    folder = copy_bundle()
    (folder / "manifest.sig").write_bytes(bytes(size))
    with pytest.raises(SignatureError):
        Bundle.open(folder, keys[1])


def test_a_changed_manifest_is_refused_though_all_its_hashes_fit(
    copy_bundle: Copy, reseal: Reseal, keys: tuple[bytes, bytes]
) -> None:
    folder = copy_bundle()
    sign_bundle(folder, keys[0])
    reseal(folder, lambda manifest: manifest["policy"]["config"].update(slow_factor=1.0))
    Bundle.open(folder)
    with pytest.raises(SignatureError, match="not the trusted key's"):
        Bundle.open(folder, keys[1])


def test_keys_come_as_pem_too(copy_bundle: Copy, keys: tuple[bytes, bytes]) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.from_private_bytes(keys[0])
    pem = serialization.Encoding.PEM
    plain, pkcs8 = serialization.NoEncryption(), serialization.PrivateFormat.PKCS8
    folder = copy_bundle()
    sign_bundle(folder, private.private_bytes(pem, pkcs8, plain))
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    assert Bundle.open(folder, private.public_key().public_bytes(pem, spki)).digest


def test_what_is_no_key_is_an_input_error(copy_bundle: Copy, keys: tuple[bytes, bytes]) -> None:
    folder = copy_bundle()
    for key in (b"", b"short", b"-----BEGIN NONSENSE-----\n"):
        with pytest.raises(InputError, match="not an ed25519 private key"):
            sign_bundle(folder, key)
    sign_bundle(folder, keys[0])
    for key in (b"short", b"-----BEGIN NONSENSE-----\n"):
        with pytest.raises(InputError, match="not an ed25519 public key"):
            Bundle.open(folder, key)


# Writing


@pytest.mark.parametrize("name", NAMES)
def test_a_written_bundle_is_the_one_that_was_staged(name: str, tmp_path: Path) -> None:
    manifest, folder = staged(tmp_path / "staged", name)
    written = write_bundle(tmp_path / "new" / "out.ebdl", _replace(manifest, files={}), folder)
    assert written == manifest
    assert content(tmp_path / "new" / "out.ebdl") == content(BUNDLES / f"{name}.ebdl")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out.ebdl"]


def test_a_bundle_is_replaced_with_its_signature(copy_bundle: Copy, tmp_path: Path, keys: tuple[bytes, bytes]) -> None:
    out = copy_bundle("tiny_weights")
    sign_bundle(out, keys[0])
    write_bundle(out, *staged(tmp_path / "staged"))
    assert content(out) == content(BUNDLES / "tiny_masks.ebdl")


def _staged_damage(name: str, data: bytes | None) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink() if data is None else (folder / name).write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        _staged_damage("head.onnx", None),
        _staged_damage("bank.safetensors", None),
        _staged_damage("bank.safetensors", b"not tensors"),
        _staged_damage("surplus.bin", b"x"),
        lambda folder: (folder / "sub").mkdir(),
        lambda folder: [(folder / "weights.bin").unlink(), (folder / "weights.bin").symlink_to("/etc/passwd")],
    ],
)
def test_a_failed_write_leaves_the_old_bundle_and_nothing_else(
    damage: Callable[[Path], object], copy_bundle: Copy, tmp_path: Path
) -> None:
    out = copy_bundle("tiny_weights")
    before = content(out)
    manifest, folder = staged(tmp_path / "staged")
    damage(folder)
    with pytest.raises(BundleError):
        write_bundle(out, manifest, folder)
    assert content(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["staged", out.name]


def test_the_old_bundle_comes_back_when_the_new_one_cannot_take_its_place(
    copy_bundle: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = copy_bundle("tiny_weights")
    before = content(out)
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name.endswith(".new"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(BundleError, match="is as it was"):
        write_bundle(out, *staged(tmp_path / "staged"))
    assert content(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["staged", out.name]


def test_what_is_no_bundle_is_never_replaced(tmp_path: Path) -> None:
    manifest, folder = staged(tmp_path / "staged")
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "photo.jpg").write_text("dear")
    (tmp_path / "letter").write_text("dear")
    for name in ("holiday", "letter"):
        with pytest.raises(BundleError, match="is there and is not a bundle; choose another name or remove it"):
            write_bundle(tmp_path / name, manifest, folder)
        with pytest.raises(BundleError, match="is there and is not a bundle; choose another name or remove it"):
            check_replaceable(tmp_path / name)
    assert (tmp_path / "holiday" / "photo.jpg").read_text() == (tmp_path / "letter").read_text() == "dear"


def test_where_nothing_or_a_bundle_is_one_may_be_written_and_asking_writes_nothing(
    copy_bundle: Copy, tmp_path: Path
) -> None:
    out = copy_bundle("tiny_masks")
    before = content(out)
    check_replaceable(out)
    check_replaceable(tmp_path / "no" / "such" / "folder.ebdl")
    assert content(out) == before
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_an_empty_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "out.ebdl").mkdir()
    check_replaceable(tmp_path / "out.ebdl")
    write_bundle(tmp_path / "out.ebdl", *staged(tmp_path / "staged"))
    Bundle.open(tmp_path / "out.ebdl")


# Writes a bundle over another in a forked process that is killed at its n-th step on the file system, for every n; says
# what each left behind, and what the next write made of it.
KILLED_WRITERS = """
import itertools, json, os, shutil, signal, sys
from pathlib import Path
from edge_bdl.bundle import Bundle, write_bundle
from edge_bdl.errors import BundleError

old, staged, workplace = map(Path, sys.argv[1:])
out = workplace / "out.ebdl"
manifest = Bundle.open(staged.with_name("new.ebdl")).manifest

def die_at(step):
    steps = itertools.count()
    def hook(event, arguments):
        about_files = event == "open" or event.startswith(("os.", "shutil."))
        if about_files and str(workplace) in repr(arguments) and next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

def state():
    try:
        return Bundle.open(out).manifest.name
    except BundleError as error:
        return str(error)

for step in itertools.count():
    shutil.rmtree(workplace)
    workplace.mkdir()
    shutil.copytree(old, out)
    child = os.fork()
    if not child:
        die_at(step)
        write_bundle(out, manifest, staged)
        os._exit(0)
    killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    left = state()
    write_bundle(out, manifest, staged)
    print(json.dumps({"killed": killed, "left": left, "after": state(), "files": sorted(os.listdir(workplace))}))
    if not killed:
        break
"""


def test_a_writer_killed_at_any_step_loses_nothing(tmp_path: Path) -> None:
    staged(tmp_path / "staged")
    shutil.copytree(BUNDLES / "tiny_masks.ebdl", tmp_path / "new.ebdl")
    (tmp_path / "work").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", KILLED_WRITERS, BUNDLES / "tiny_weights.ebdl", tmp_path / "staged", tmp_path / "work"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    runs = [json.loads(line) for line in done.stdout.splitlines()]
    assert [run["killed"] for run in runs] == [True] * (len(runs) - 1) + [False]
    aside = {run["left"] for run in runs} - {"tiny_weights", "tiny_masks"}
    # Between the two renames there is an instant without either; then the message says where the old one is.
    assert len(aside) == 1
    assert ".out.ebdl.old: mv " in aside.pop()
    assert {"tiny_weights", "tiny_masks"} <= {run["left"] for run in runs}
    assert all(run["after"] == "tiny_masks" and run["files"] == ["out.ebdl"] for run in runs)


def test_an_interrupted_replacement_is_put_right_even_if_the_next_write_fails(
    copy_bundle: Copy, tmp_path: Path
) -> None:
    out = copy_bundle("tiny_weights")
    before = content(out)
    out.rename(tmp_path / f".{out.name}.old")
    manifest, folder = staged(tmp_path / "staged")
    (folder / "head.onnx").unlink()
    with pytest.raises(BundleError):
        write_bundle(out, manifest, folder)
    assert content(out) == before
