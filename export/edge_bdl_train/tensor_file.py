"""Named tensors in a file: safetensors, with what they are in the header.

Nothing in it is pickled. A file is written beside its place, read back, and renamed into it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
import safetensors
import safetensors.torch
from torch import Tensor

from edge_bdl.errors import InputError
from edge_bdl_train.named_tensors import not_finite

Info = TypeVar("Info", bound=msgspec.Struct)


class CheckpointError(InputError):
    """A file of tensors is damaged, something else, or another recipe's or network's."""


@dataclass(frozen=True, kw_only=True)
class TensorFile(Generic[Info]):
    """One kind of file, whose header holds a struct as JSON.

    Attributes:
        what: such a file is called.
        key: of the JSON in the header.
        info: what the JSON holds.
        version: that the ``format_version`` in it must have.
        made_by: what writes one.
        remedy: what to do about a bad one.
    """

    what: str
    key: str
    info: type[Info]
    version: int
    made_by: str
    remedy: str

    def write(self, path: Path, tensors: Mapping[str, Tensor], info: Info) -> None:
        """Writes a file; an existing one is replaced only when the new one is whole.

        Raises:
            CheckpointError: a value is not finite, or the file cannot be written.
        """
        self.refuse_non_finite(path, tensors)
        own = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
        write_whole(path, safetensors.torch.save(own, metadata={self.key: msgspec.json.encode(info).decode()}))

    def read(self, path: Path) -> tuple[Info, dict[str, Tensor]]:
        """What is in a file; the values may be anything.

        Raises:
            CheckpointError: there is no such file, it is damaged, or something else wrote it.
        """
        if not path.is_file():
            raise CheckpointError(f"there is no {self.what} {path}: {self.made_by} writes one")
        metadata, tensors = read_tensors(path, self.remedy)
        if self.key not in metadata:
            raise CheckpointError(f"{path} is no edge-bdl {self.what}: its header has no {self.key!r}")
        try:
            info: Any = msgspec.json.decode(metadata[self.key], type=self.info)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise CheckpointError(f"the header of {path} cannot be read ({error}): {self.remedy}") from error
        if info.format_version != self.version:
            raise CheckpointError(
                f"{path} has format version {info.format_version}, expected {self.version}: {self.remedy}"
            )
        return info, tensors

    def claims(self, path: Path) -> bool:
        """Whether a file says that it is one; whether it is a whole one, reading it tells."""
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                return self.key in (file.metadata() or {})
        except (safetensors.SafetensorError, OSError, ValueError):
            return False

    def refuse_non_finite(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        """Refuses values that a network cannot compute with.

        Raises:
            CheckpointError: there are some; all their tensors are named.
        """
        broken = not_finite(tensors)
        if broken:
            raise CheckpointError(f"the {self.what} {path} is not finite in {', '.join(broken)}: {self.remedy}")


def read_tensors(path: Path, remedy: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The header's strings and all tensors of a safetensors file; ``remedy`` ends the message.

    Raises:
        CheckpointError: it is damaged, or none.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is not a dict)
            return file.metadata() or {}, tensors
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file ({error}): {remedy}") from error


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file beside its place, reads it back, and renames it into place.

    Raises:
        CheckpointError: it cannot be written; what was there before still is.
    """
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror}; choose a folder that exists") from error
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if temporary.read_bytes() != content:
            raise CheckpointError(f"cannot write {path}: the disk did not keep what was written to it")
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
