"""What every recipe offers.

A recipe's file declares its parts in one order: config, model, data, train, calibration frames, held-out data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edge_bdl.errors import InputError
from edge_bdl_train.checkpoint import CheckpointInfo, Origin, read_info, restore, save_checkpoint
from edge_bdl_train.frames import CalibrationSets
from edge_bdl_train.held_out import HeldOut
from edge_bdl_train.posterior import Posterior
from edge_bdl_train.posterior_file import load_posterior, read_posterior_info
from edge_bdl_train.progress import Stage, silent
from edge_bdl_train.randomness import from_seed
from edge_bdl_train.tensor_file import CheckpointError


class Recipe(ABC):
    """One network's config, model, data, training and calibration frames.

    Args:
        config: an instance of ``config_type``; its defaults when None.
        data: folder with the data, for a recipe that does not make its own.
    """

    name: ClassVar[str]
    config_type: ClassVar[type]

    def __init__(self, config: Any = None, data: Path | None = None) -> None:
        self.config = self.config_type() if config is None else config
        self.data = data

    @classmethod
    @abstractmethod
    def quick_config(cls) -> Any:
        """A config that takes seconds, to see that everything works."""

    @abstractmethod
    def build_model(self, seed: int) -> nn.Module:
        """The untrained network, in eval mode: uint8 [N, H, W, 3] -> [N, 2], mean and log-variance of the steering."""

    @abstractmethod
    def fit(self, model: nn.Module, seed: int, stage: Stage = silent) -> dict[str, float]:
        """Trains ``model`` in place; returns what was measured, by name."""

    @abstractmethod
    def calibration_sets(self, model: nn.Module, stage: Stage = silent) -> CalibrationSets:
        """Frames for the export of a trained network, none of which it was trained on."""

    def held_out(self, model: nn.Module, stage: Stage = silent) -> HeldOut:
        """Data to evaluate a trained network on, none of which it was trained on.

        Raises:
            InputError: this recipe keeps none.
        """
        raise InputError(
            f"recipe {self.name!r} keeps no data to evaluate on: define its held_out, or judge predictions of your own "
            "with edge_bdl_train.evaluation"
        )

    def train(self, out: Path | str, *, seed: int = 0, stage: Stage = silent) -> CheckpointInfo:
        """Trains a new network and writes its checkpoint to ``out``; returns what the checkpoint says of itself."""
        _refuse_missing_folder(Path(out))
        model = self.build_model(seed)
        figures = self.fit(model, seed, stage)
        origin = msgspec.structs.asdict(self.origin(seed))
        info = CheckpointInfo(**origin, model=type(model).__name__, figures=figures)
        save_checkpoint(out, model, info)
        return info

    def origin(self, seed: int) -> Origin:
        """How to build the network of this seed again, for the file of a posterior that is fitted to it."""
        arguments = msgspec.json.decode(msgspec.json.encode(self.config))  # as they will be read again
        return Origin(recipe=self.name, arguments=arguments, seed=seed)

    def load(self, path: Path | str) -> nn.Module:
        """The trained network of a checkpoint, in eval mode, built as its own config says.

        Raises:
            CheckpointError: the file is missing or damaged, or was not written by this recipe.
        """
        model = self._built(read_info(path).origin, path, "checkpoint")
        restore(path, model, recipe=self.name)
        return model

    def load_posterior(self, path: Path | str) -> Posterior:
        """The posterior of a file, its network built as the file says; as this recipe's config does, where it does not.

        Raises:
            CheckpointError: the file is missing or damaged, or is of another recipe's network.
        """
        origin = read_posterior_info(path).origin
        network = self.build_model(seed=0) if origin is None else self._built(origin, path, "posterior")
        return load_posterior(path, network)

    def _built(self, origin: Origin, path: Path | str, what: str) -> nn.Module:
        """The untrained network that a file was made with; ``what`` the file is called."""
        if origin.recipe != self.name:
            raise CheckpointError(f"{path} is a {what} of recipe {origin.recipe!r}, expected {self.name!r}")
        try:
            config: Any = msgspec.convert(origin.arguments, self.config_type)
        except msgspec.ValidationError as error:
            raise CheckpointError(f"the arguments in {path} do not fit recipe {self.name!r} ({error})") from error
        return type(self)(config, self.data).build_model(origin.seed)


def seeded(seed: int, build: Callable[[], nn.Module]) -> nn.Module:
    """Builds a network from its seed, in eval mode; torch's global generator stays as it was."""
    with from_seed(seed):
        return build().eval()


def steer_with(model: nn.Module) -> Callable[[NDArray[np.uint8]], float]:
    """The network as a driver: frame (uint8 [H, W, 3]) -> its mean steering, in its present mode, for one frame."""

    @torch.inference_mode()
    def steer(frame: NDArray[np.uint8]) -> float:
        return float(model(torch.from_numpy(frame)[None])[0, 0])

    return steer


def _refuse_missing_folder(out: Path) -> None:
    # A minute of training must not be lost to a mistyped path.
    if not out.parent.is_dir():
        raise CheckpointError(f"cannot write {out}: there is no folder {out.parent}")
