"""A fitted posterior in a file: safetensors, with its kind and how it was made as JSON in the header.

Nothing in it is pickled. A file is written beside its place, read back, and renamed into it.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import msgspec
import safetensors
import safetensors.torch
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.checkpoint import CheckpointError, write_whole
from edge_bdl_train.methods import METHODS, open_posterior
from edge_bdl_train.posterior import Posterior

FORMAT_VERSION = 1
_METADATA_KEY = "edge_bdl_posterior"


class PosteriorInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a posterior's file says of itself.

    Attributes:
        kind: of the posterior, a key of ``METHODS``.
        settings: how it was made, as JSON values.
        network: class name of its network.
        shapes: of the network's parameters and buffers, by name.
        format_version: of this format.
    """

    kind: str
    settings: dict[str, Any]
    network: str
    shapes: dict[str, tuple[int, ...]]
    format_version: int = FORMAT_VERSION


def save_posterior(path: Path | str, posterior: Posterior) -> None:
    """Writes a posterior; an existing file is replaced only when the new one is whole.

    Raises:
        CheckpointError: a value is not finite, or the file cannot be written.
    """
    path = Path(path)
    info = PosteriorInfo(
        kind=posterior.kind,
        settings=posterior.settings,
        network=type(posterior.network).__name__,
        shapes=_shapes(posterior.network),
    )
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in posterior.state_dict().items()}
    broken = sorted(name for name, tensor in tensors.items() if not tensor.isfinite().all())
    if broken:
        raise CheckpointError(f"the posterior for {path} is not finite in {', '.join(broken)}: fit it again")
    write_whole(path, safetensors.torch.save(tensors, metadata={_METADATA_KEY: msgspec.json.encode(info).decode()}))


def is_posterior_file(path: Path | str) -> bool:
    """Whether a file says that it is a posterior; whether it is a whole one, reading it tells."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return _METADATA_KEY in (file.metadata() or {})
    except (safetensors.SafetensorError, OSError, ValueError):
        return False


def read_posterior_info(path: Path | str) -> PosteriorInfo:
    """What the file says of itself.

    Raises:
        CheckpointError: there is no such file, it is damaged, or something else wrote it.
    """
    return _read(Path(path))[0]


def load_posterior(path: Path | str, network: nn.Module) -> Posterior:
    """The posterior of a file.

    Args:
        path: what ``save_posterior`` wrote.
        network: the deterministic network that it was fitted to, with any weights; the posterior keeps a copy.

    Raises:
        CheckpointError: the file is missing, damaged or foreign, or is another network's.
    """
    path = Path(path)
    info, tensors = _read(path)
    shapes = _shapes(network)
    if shapes != info.shapes:
        differing = sorted(
            name for name in shapes.keys() | info.shapes.keys() if shapes.get(name) != info.shapes.get(name)
        )
        raise CheckpointError(
            f"{path} is a posterior of a {info.network} that differs from this {type(network).__name__} "
            f"in {', '.join(differing)}: build the network as it was when it was fitted"
        )
    try:
        posterior = open_posterior(info.kind).blank(copy.deepcopy(network), info.settings)
        posterior.load_state_dict(tensors)
    except (InputError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} does not hold a whole posterior of kind {info.kind!r} ({error})") from error
    return posterior


def _shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def _read(path: Path) -> tuple[PosteriorInfo, dict[str, Tensor]]:
    if not path.is_file():
        raise CheckpointError(f"there is no posterior {path}: save_posterior writes one")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is not a dict)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file ({error}): fit it again") from error
    if _METADATA_KEY not in metadata:
        raise CheckpointError(f"{path} is no edge-bdl posterior: its header has no {_METADATA_KEY!r}")
    try:
        info = msgspec.json.decode(metadata[_METADATA_KEY], type=PosteriorInfo)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise CheckpointError(f"the header of {path} cannot be read ({error}): fit it again") from error
    if info.format_version != FORMAT_VERSION:
        raise CheckpointError(f"{path} has format version {info.format_version}, expected {FORMAT_VERSION}")
    if info.kind not in METHODS:
        raise CheckpointError(f"{path} is a posterior of kind {info.kind!r}, expected one of {', '.join(METHODS)}")
    return info, tensors
