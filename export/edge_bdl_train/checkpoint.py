"""Trained weights in a file: safetensors, with what they are and how well they did as JSON in the header.

Nothing in it is pickled. A file is written beside its place, read back, and renamed into it.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from edge_bdl.errors import InputError

FORMAT_VERSION = 1
_METADATA_KEY = "edge_bdl_checkpoint"


class CheckpointError(InputError):
    """A checkpoint is damaged, not a checkpoint, or another recipe's."""


class CheckpointInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a checkpoint says of itself.

    Attributes:
        recipe: name of the recipe that wrote it.
        model: class name of its network.
        arguments: the recipe's config, as JSON values.
        figures: what was measured when it was trained, by name.
        seed: the seed that it was trained with.
        format_version: of this format.
    """

    recipe: str
    model: str
    arguments: dict[str, Any]
    figures: dict[str, float]
    seed: int
    format_version: int = FORMAT_VERSION


def save_checkpoint(path: Path | str, model: nn.Module, info: CheckpointInfo) -> None:
    """Writes the model's weights and ``info``; an existing file is replaced only when the new one is whole.

    Raises:
        CheckpointError: a weight is not finite, or the file cannot be written.
    """
    path = Path(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    _refuse_non_finite(path, tensors)
    content = safetensors.torch.save(tensors, metadata={_METADATA_KEY: msgspec.json.encode(info).decode()})
    write_whole(path, content)


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


def read_info(path: Path | str) -> CheckpointInfo:
    """What the checkpoint says of itself, without reading its weights.

    Raises:
        CheckpointError: there is no such file, it is damaged, or something else wrote it.
    """
    return _read(Path(path))[0]


def restore(path: Path | str, model: nn.Module, *, recipe: str) -> CheckpointInfo:
    """Loads a checkpoint's weights into ``model`` and puts it into eval mode; the model is untouched if that fails.

    Args:
        path: the checkpoint.
        model: the network that its recipe builds.
        recipe: the recipe that must have written it.

    Raises:
        CheckpointError: the file is missing or damaged, is another recipe's, or does not fit the model.
    """
    path = Path(path)
    info, tensors = _read(path)
    if info.recipe != recipe:
        raise CheckpointError(f"{path} is a checkpoint of recipe {info.recipe!r}, expected {recipe!r}")
    wanted = model.state_dict()
    differences = [
        *(f"{name} is missing" for name in sorted(wanted.keys() - tensors.keys())),
        *(f"{name} is not the model's" for name in sorted(tensors.keys() - wanted.keys())),
        *(
            f"{name} is {tensors[name].dtype} {list(tensors[name].shape)}, expected {want.dtype} {list(want.shape)}"
            for name, want in sorted(wanted.items())
            if name in tensors and (tensors[name].shape != want.shape or tensors[name].dtype != want.dtype)
        ),
    ]
    if differences:
        raise CheckpointError(f"{path} does not fit {type(model).__name__}: {'; '.join(differences)}: train it again")
    _refuse_non_finite(path, tensors)
    model.load_state_dict(tensors)
    model.eval()
    return info


def _read(path: Path) -> tuple[CheckpointInfo, dict[str, Tensor]]:
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}: `edge-bdl train` writes one")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is not a dict)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file ({error}): train it again") from error
    if _METADATA_KEY not in metadata:
        raise CheckpointError(f"{path} is no edge-bdl checkpoint: its header has no {_METADATA_KEY!r}")
    try:
        info = msgspec.json.decode(metadata[_METADATA_KEY], type=CheckpointInfo)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise CheckpointError(f"the header of {path} cannot be read ({error}): train it again") from error
    if info.format_version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {info.format_version}, expected {FORMAT_VERSION}: train it again"
        )
    return info, tensors


def _refuse_non_finite(path: Path, tensors: dict[str, Tensor]) -> None:
    broken = sorted(name for name, tensor in tensors.items() if not torch.isfinite(tensor).all())
    if broken:
        raise CheckpointError(f"the weights of {path} are not finite in {', '.join(broken)}: train it again")
