"""A bundle folder: opened only when every byte of it is accounted for, written only when it opens.

What a folder holds is decided by a literal table of names and by the engines the manifest claims: nothing else may be
in it, nothing may be missing, and nothing may be other than a plain file. Sizes are compared before anything is read,
hashes before anything is decoded, and whatever a decoder raises becomes a ``BundleError``.

A verified folder must not be writable by anyone whom the robot does not trust: engines load their graphs by path.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from edge_bdl import signature
from edge_bdl.disk import BLOCK, PlainFile, flush_folder, only_writer, write_file
from edge_bdl.errors import BundleError, SignatureError
from edge_bdl.manifest import MOST_HEADS, FileEntry, Manifest, decode, encode
from edge_bdl.onnx_references import external_locations
from edge_bdl.stored_tensors import Arrays, read_bank, read_golden

MANIFEST = "manifest.json"
DIGEST = "manifest.sha256"
SIGNATURE = "manifest.sig"
BANK = "bank.safetensors"
GOLDEN = "golden.safetensors"
WEIGHTS = "weights.bin"
SELF_CONTAINED = "self_contained.onnx"

_MIB = 2**20
#: Every name a bundle may hold, with the most bytes a file of that name may have.
MAX_BYTES: Mapping[str, int] = {
    MANIFEST: 4 * _MIB,
    DIGEST: 128,
    SIGNATURE: signature.SIGNATURE_BYTES,
    "det.onnx": 64 * _MIB,
    "trunk.onnx": 64 * _MIB,
    "head.onnx": 64 * _MIB,
    **{f"head_{i}.onnx": 64 * _MIB for i in range(MOST_HEADS)},
    "fused.onnx": 64 * _MIB,
    WEIGHTS: 2048 * _MIB,
    # What a protocol buffer may hold.
    SELF_CONTAINED: 2048 * _MIB - 1,
    "graph.tflite": 2048 * _MIB,
    BANK: 1024 * _MIB,
    GOLDEN: 256 * _MIB,
}


class Identity(NamedTuple):
    """What a bundle says of itself.

    Attributes:
        folder: Its real path.
        manifest: As it is written there.
        digest: SHA-256 (hex) of ``manifest.json``, which names the hashes of all the others.
    """

    folder: Path
    manifest: Manifest
    digest: str


class Bundle:
    """A verified bundle folder.

    Attributes:
        folder: Its real path.
        manifest: What it says of itself.
        digest: SHA-256 (hex) of ``manifest.json``: the bundle's identity.
    """

    def __init__(self, folder: Path, manifest: Manifest, digest: str, bank: Arrays) -> None:
        self.folder = folder
        self.manifest = manifest
        self.digest = digest
        self._bank = bank

    @classmethod
    def open(cls, path: str | os.PathLike[str], trusted_key: bytes | None = None) -> Bundle:
        """Verify every file of a bundle.

        Args:
            path: The folder.
            trusted_key: An ed25519 public key, 32 raw bytes or PEM. With one, the bundle must be signed by it.

        Raises:
            BundleError: Something is missing, unknown, damaged, hostile, or of a newer schema.
            SignatureError: There is a trusted key, and the signature is missing or wrong.
            InputError: ``trusted_key`` is not an ed25519 public key.
            MissingExtraError: There is a trusted key, and ``cryptography`` is not installed.
        """
        folder, manifest, digest = identify(path, trusted_key)
        payload = {name: _payload(folder, name, manifest) for name in sorted(manifest.files)}
        for name, data in payload.items():
            if name.endswith(".onnx"):
                _check_references(folder, name, data)
        bank = _tensors(folder, BANK, payload[BANK], manifest)
        _tensors(folder, GOLDEN, payload[GOLDEN], manifest)
        return cls(folder, manifest, digest, bank)

    def bank(self) -> Arrays:
        """The stored members, by graph input.

        A ``mask_bank`` holds uint8 ``[members, ceil(prod(shape) / 8)]``, bit-packed; a ``weight_bank`` float32
        ``[members, *shape]``, and so a ``gaussian_head`` its draws from N(0, 1); nothing where the graphs hold the
        members themselves. Read-only.
        """
        return dict(self._bank)

    def golden(self) -> Arrays:
        """Inputs and expected outputs of the self-test, read again from the folder.

        Raises:
            BundleError: The file has changed since the bundle was opened.
        """
        return _tensors(self.folder, GOLDEN, _payload(self.folder, GOLDEN, self.manifest), self.manifest)


def identify(path: str | os.PathLike[str], trusted_key: bytes | None = None) -> Identity:
    """What a bundle says of itself, its other files listed but not read: for a process that runs no graph.

    Args:
        path: The folder.
        trusted_key: As for `Bundle.open`.

    Raises:
        BundleError: The manifest is damaged or of a newer schema, or a file is missing or unknown.
        SignatureError: There is a trusted key, and the signature is missing or wrong.
        InputError: ``trusted_key`` is not an ed25519 public key.
        MissingExtraError: There is a trusted key, and ``cryptography`` is not installed.
    """
    folder = _existing(Path(path))
    present = _plain_files(folder)
    raw = _read(folder, MANIFEST)
    if trusted_key is not None:
        _check_signature(folder, present, raw, trusted_key)
    digest = hashlib.sha256(raw).hexdigest()
    if _read(folder, DIGEST) != digest_line(digest):
        raise BundleError(f"{folder}: manifest.sha256 is not the digest of manifest.json; copy the bundle again")
    manifest = decode(raw)
    _check_table(folder, manifest, present)
    return Identity(folder, manifest, digest)


def write_bundle(out: str | os.PathLike[str], manifest: Manifest, staged: Path) -> Manifest:
    """Write a bundle, whole or not at all.

    It is built beside ``out``, flushed to the disk, opened as a robot would open it, and only then put in its place. A
    bundle that is already there stays as it is on any failure. A process killed in the instant between two renames
    leaves it beside ``out``; the next write, or a person told by ``Bundle.open``, puts it back.

    Args:
        out: The bundle's folder ``NAME.ebdl``; an existing bundle is replaced.
        manifest: Its manifest; ``files`` is filled in here.
        staged: A folder with the payload files and nothing else. They are copied.

    Returns:
        The manifest as written.

    Raises:
        BundleError: The files do not make a bundle, ``out`` is something other than a bundle, or the disk refuses.
    """
    target = Path(os.path.realpath(out))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with only_writer(target.parent):
            return _write(target, manifest, staged)
    except OSError as error:
        raise BundleError(f"{out} cannot be written, and is as it was: {error}") from error


def check_replaceable(out: str | os.PathLike[str]) -> None:
    """See that ``write_bundle`` may write at ``out``: nothing is there, or an empty folder, or a bundle.

    Asked before long work, so that its end does not bring the refusal.

    Raises:
        BundleError: Something else is there.
    """
    target = Path(os.path.realpath(out))
    try:
        free = not target.exists() or (target.is_dir() and ((target / MANIFEST).is_file() or not any(target.iterdir())))
    except OSError as error:
        raise BundleError(f"{out} cannot be written: {error}") from error
    if not free:
        raise BundleError(f"{target} is there and is not a bundle; choose another name or remove it")


def sign_bundle(folder: str | os.PathLike[str], private_key: bytes) -> None:
    """Sign a bundle: verify it, then write ``manifest.sig``.

    Args:
        folder: The bundle.
        private_key: An ed25519 private key, 32 raw bytes or unencrypted PEM.

    Raises:
        BundleError: The bundle does not open, or the disk refuses.
        InputError: It is not an ed25519 private key.
        MissingExtraError: ``cryptography`` is not installed.
    """
    bundle = Bundle.open(folder)
    signed = signature.sign(_read(bundle.folder, MANIFEST), private_key)
    # Beside the bundle, not in it: a half-written file inside would be an unknown one.
    beside = bundle.folder.with_name(f".{bundle.folder.name}.sig")
    try:
        write_file(beside, signed)
        os.replace(beside, bundle.folder / SIGNATURE)
        flush_folder(bundle.folder)
    except OSError as error:
        raise BundleError(f"{folder} cannot be signed: {error}") from error


def digest_line(digest: str) -> bytes:
    """The content of ``manifest.sha256``, as ``sha256sum --check`` reads it."""
    return f"{digest}  {MANIFEST}\n".encode()


def payload_files(manifest: Manifest) -> frozenset[str]:
    """The files that a bundle with this manifest must list: its tensors, what its engines run, and what else it names.

    Raises:
        BundleError: The manifest names no engine, or one that this edge-bdl does not know.
    """
    onnx_files = frozenset({WEIGHTS, *(f"{name}.onnx" for name in manifest.graphs)})
    of_engine = {"onnxruntime": onnx_files, "reference": onnx_files, "tflite": frozenset({"graph.tflite"})}
    unknown = sorted(set(manifest.engines) - of_engine.keys())
    if unknown or not manifest.engines:
        raise BundleError(
            f"the bundle is for the engines {list(manifest.engines)}, expected some of {sorted(of_engine)}; "
            "export it again, or pip install -U edge-bdl"
        )
    more = frozenset() if manifest.self_contained is msgspec.UNSET else frozenset({SELF_CONTAINED})
    return frozenset({BANK, GOLDEN}).union(more, *(of_engine[engine] for engine in manifest.engines))


def _existing(path: Path) -> Path:
    # Reaching a bundle through a link (current.ebdl -> v3.ebdl) is the caller's choice; resolving it once makes sure
    # that a link that moves later does not exchange what was verified.
    folder = Path(os.path.realpath(path))
    if folder.is_dir():
        return folder
    if folder.exists():
        raise BundleError(f"{path} is not a folder; a bundle is a folder NAME.ebdl")
    aside = folder.with_name(_aside(folder.name))
    if aside.is_dir():
        raise BundleError(
            f"{path} does not exist; a write was interrupted and left it at {aside}: mv '{aside}' '{folder}'"
        )
    raise BundleError(f"{path} does not exist")


def _aside(name: str) -> str:
    """Where a bundle is put while its successor takes its place."""
    return f".{name}.old"


def _plain_files(folder: Path) -> set[str]:
    """Names of the folder's entries, all of them known and plain files."""
    names = set()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name not in MAX_BYTES:
                    raise BundleError(
                        f"{folder}: {entry.name!r} is no part of a bundle; remove it or copy the bundle again"
                    )
                if not entry.is_file(follow_symlinks=False):
                    raise BundleError(f"{folder}: {entry.name} is a link, a folder or a device, expected a plain file")
                names.add(entry.name)
    except OSError as error:
        raise BundleError(f"{folder} cannot be read: {error.strerror}") from error
    missing = sorted({MANIFEST, DIGEST} - names)
    if missing:
        raise BundleError(f"{folder} is not a bundle, or not all of one: {missing[0]} is missing")
    return names


def _check_signature(folder: Path, present: set[str], raw: bytes, trusted_key: bytes) -> None:
    if SIGNATURE not in present:
        raise SignatureError(f"{folder} is not signed, and a trusted key is configured; get a signed bundle")
    signature.verify(raw, _read(folder, SIGNATURE), trusted_key)


def _check_table(folder: Path, manifest: Manifest, present: set[str]) -> None:
    """Compare three lists of names: the manifest's, the engines', the folder's."""
    listed, needed = set(manifest.files), payload_files(manifest)
    for name in sorted(listed - needed):
        raise BundleError(
            f"{folder}: manifest.json lists {name!r}, which a bundle for {list(manifest.engines)} does not hold"
        )
    for name in sorted(needed - listed):
        raise BundleError(f"{folder}: manifest.json does not list {name}, needed for {list(manifest.engines)}")
    for name in sorted(present - listed - {MANIFEST, DIGEST, SIGNATURE}):
        raise BundleError(f"{folder}: {name} is not listed in manifest.json; remove it or copy the bundle again")
    for name in sorted(listed - present):
        raise BundleError(f"{folder}: {name} is missing; copy the bundle again")


def _payload(folder: Path, name: str, manifest: Manifest) -> bytes:
    """Check one listed file; the bytes of those that are decoded here, nothing of those that only engines read."""
    entry = manifest.files[name]
    if entry.bytes > MAX_BYTES[name]:
        raise BundleError(f"{folder}: {name} is said to have {entry.bytes} bytes, at most {MAX_BYTES[name]} are read")
    keep = name not in (WEIGHTS, "graph.tflite")
    kept = []
    digest = hashlib.sha256()
    with PlainFile(folder / name) as file:
        if file.size != entry.bytes:
            raise BundleError(
                f"{folder}: {name} has {file.size} bytes, manifest.json says {entry.bytes}; copy the bundle again"
            )
        for block in file.blocks():
            digest.update(block)
            if keep:
                kept.append(block)
    if digest.hexdigest() != entry.sha256:
        raise BundleError(f"{folder}: {name} is damaged, its SHA-256 is not manifest.json's; copy the bundle again")
    return b"".join(kept)


def _read(folder: Path, name: str) -> bytes:
    """All of a small file whose size nothing else declares."""
    with PlainFile(folder / name) as file:
        if file.size > MAX_BYTES[name]:
            raise BundleError(f"{folder}: {name} has {file.size} bytes, at most {MAX_BYTES[name]} are read")
        return b"".join(file.blocks())


def _check_references(folder: Path, name: str, model: bytes) -> None:
    known = set() if name == SELF_CONTAINED else {WEIGHTS}
    try:
        strange = sorted(external_locations(model) - known)
    except ValueError as error:
        raise BundleError(f"{folder}: {name} cannot be read ({error}); export the bundle again") from error
    if strange:
        expected = f"{WEIGHTS} and nothing else" if known else "all of them inside"
        raise BundleError(f"{folder}: {name} takes weights from {strange[0]!r}, expected {expected}")


def _tensors(folder: Path, name: str, data: bytes, manifest: Manifest) -> Arrays:
    try:
        return read_bank(data, manifest) if name == BANK else read_golden(data, manifest)
    except BundleError as error:
        raise BundleError(
            f"{folder}: {name} is not what manifest.json describes: {error}; export the bundle again"
        ) from error


def _write(target: Path, manifest: Manifest, staged: Path) -> Manifest:
    """Build, verify, exchange. The caller holds the parent folder."""
    fresh, aside = target.with_name(f".{target.name}.new"), target.with_name(_aside(target.name))
    _tidy(target, fresh, aside)
    check_replaceable(target)
    fresh.mkdir()
    try:
        written = _fill(fresh, manifest, staged)
        Bundle.open(fresh)
        _exchange(target, fresh, aside)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return written


def _tidy(target: Path, fresh: Path, aside: Path) -> None:
    """Put right what a killed writer left. Nobody else writes here now, so whatever is there is a leftover."""
    if aside.exists() and not target.exists():
        aside.rename(target)
    for leftover in (fresh, aside):
        if leftover.exists():
            shutil.rmtree(leftover)


def _fill(fresh: Path, manifest: Manifest, staged: Path) -> Manifest:
    files = {}
    for name in sorted(path.name for path in staged.iterdir()):
        shutil.copyfile(staged / name, fresh / name, follow_symlinks=False)
        files[name] = _entry(fresh / name)
    written = msgspec.structs.replace(manifest, files=files)
    raw = encode(written)
    write_file(fresh / MANIFEST, raw)
    write_file(fresh / DIGEST, digest_line(hashlib.sha256(raw).hexdigest()))
    flush_folder(fresh)
    return written


def _entry(path: Path) -> FileEntry:
    """Flush a file to the disk; its size and digest."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        os.fsync(file.fileno())
        while block := file.read(BLOCK):
            digest.update(block)
    return FileEntry(bytes=path.stat().st_size, sha256=digest.hexdigest())


def _exchange(target: Path, fresh: Path, aside: Path) -> None:
    """Put ``fresh`` in the place of ``target``: two renames, because no folder can be renamed over a full one."""
    replaces = target.exists()
    if replaces:
        target.rename(aside)
    try:
        fresh.rename(target)
    except BaseException:
        if replaces:
            aside.rename(target)
        raise
    flush_folder(target.parent)
    shutil.rmtree(aside, ignore_errors=True)
