"""A trained network's weights in a file, with what they are and how well they did in its header."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from torch import nn

from edge_bdl_train.named_tensors import differences
from edge_bdl_train.tensor_file import CheckpointError, TensorFile

FORMAT_VERSION = 1


class Origin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to build a network again.

    Attributes:
        recipe: name of the recipe that built it.
        arguments: the recipe's config, as JSON values.
        seed: the seed that it was built with.
    """

    recipe: str
    arguments: dict[str, Any]
    seed: int


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

    @property
    def origin(self) -> Origin:
        """How to build its network again."""
        return Origin(recipe=self.recipe, arguments=self.arguments, seed=self.seed)


_FILE = TensorFile(
    what="checkpoint",
    key="edge_bdl_checkpoint",
    info=CheckpointInfo,
    version=FORMAT_VERSION,
    made_by="`edge-bdl train`",
    remedy="train it again",
)


def save_checkpoint(path: Path | str, model: nn.Module, info: CheckpointInfo) -> None:
    """Writes the model's weights and ``info``; an existing file is replaced only when the new one is whole.

    Raises:
        CheckpointError: a weight is not finite, or the file cannot be written.
    """
    _FILE.write(Path(path), model.state_dict(), info)


def read_info(path: Path | str) -> CheckpointInfo:
    """What the checkpoint says of itself.

    Raises:
        CheckpointError: there is no such file, it is damaged, or something else wrote it.
    """
    return _FILE.read(Path(path))[0]


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
    info, tensors = _FILE.read(path)
    if info.recipe != recipe:
        raise CheckpointError(f"{path} is a checkpoint of recipe {info.recipe!r}, expected {recipe!r}")
    different = differences(model.state_dict(), tensors, "is not the model's")
    if different:
        raise CheckpointError(f"{path} does not fit {type(model).__name__}: {'; '.join(different)}: train it again")
    _FILE.refuse_non_finite(path, tensors)
    model.load_state_dict(tensors)
    model.eval()
    return info
