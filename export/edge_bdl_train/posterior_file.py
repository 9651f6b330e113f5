"""A fitted posterior in a file, with its kind and how it was made in its header."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import msgspec
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.checkpoint import Origin
from edge_bdl_train.methods import METHODS, open_posterior
from edge_bdl_train.posterior import Posterior
from edge_bdl_train.tensor_file import CheckpointError, TensorFile

FORMAT_VERSION = 1


class PosteriorInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a posterior's file says of itself.

    Attributes:
        kind: of the posterior, a key of ``METHODS``.
        settings: how it was made, as JSON values.
        network: class name of its network.
        shapes: of the network's parameters and buffers, by name.
        origin: how to build the network again; None where no recipe built it.
        format_version: of this format.
    """

    kind: str
    settings: dict[str, Any]
    network: str
    shapes: dict[str, tuple[int, ...]]
    origin: Origin | None = None
    format_version: int = FORMAT_VERSION


_FILE = TensorFile(
    what="posterior",
    key="edge_bdl_posterior",
    info=PosteriorInfo,
    version=FORMAT_VERSION,
    made_by="save_posterior",
    remedy="fit it again",
)


def save_posterior(path: Path | str, posterior: Posterior, *, origin: Origin | None = None) -> None:
    """Writes a posterior; an existing file is replaced only when the new one is whole.

    Args:
        path: where to.
        posterior: what to write.
        origin: of its network, ``Recipe.origin`` or the ``origin`` of a checkpoint's info: with it the file can be
            opened by who does not know how the network was built.

    Raises:
        CheckpointError: a value is not finite, or the file cannot be written.
    """
    info = PosteriorInfo(
        kind=posterior.kind,
        settings=posterior.settings,
        network=type(posterior.network).__name__,
        shapes=_shapes(posterior.network),
        origin=origin,
    )
    _FILE.write(Path(path), posterior.state_dict(), info)


def is_posterior_file(path: Path | str) -> bool:
    """Whether a file says that it is a posterior; whether it is a whole one, reading it tells."""
    return _FILE.claims(Path(path))


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
    info, tensors = _FILE.read(path)
    if info.kind not in METHODS:
        raise CheckpointError(f"{path} is a posterior of kind {info.kind!r}, expected one of {', '.join(METHODS)}")
    return info, tensors
