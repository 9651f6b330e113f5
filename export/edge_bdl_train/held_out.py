"""Data that a recipe keeps for judging what it trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from edge_bdl.errors import InputError
from edge_bdl_train.frames import LabelledFrames
from edge_bdl_train.likelihoods.base import Likelihood
from edge_bdl_train.likelihoods.gaussian import HeteroscedasticGaussian


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Examples that nothing was trained on.

    Attributes:
        inputs: [N, ...], as the network takes them.
        targets: [N], classes as whole numbers, or numbers.
        known: inputs [M, ...] of the kind that it was trained on, others than ``inputs``: a density is fitted on them.
        known_targets: [M], theirs: a temperature is fitted on them.
        outsiders: inputs [L, ...] of a kind that it was never shown, by the set's name.
        unit: of the targets; nothing for classes.
        likelihood: of one target, or of classes, given what the network gives; for what does not say that itself, as a
            posterior does.
    """

    inputs: Tensor
    targets: Tensor
    known: Tensor
    known_targets: Tensor
    outsiders: Mapping[str, Tensor] = field(default_factory=dict)
    unit: str = ""
    likelihood: Likelihood | None = None

    def __post_init__(self) -> None:
        """Checks that they belong together."""
        for what, inputs, targets in (
            ("examples", self.inputs, self.targets),
            ("known examples", self.known, self.known_targets),
        ):
            if not len(inputs) or targets.shape != (len(inputs),):
                raise InputError(
                    f"held-out {what} need one target each, got {len(inputs)} inputs and {list(targets.shape)}"
                )
        for name, inputs in {"known": self.known, **self.outsiders}.items():
            if not len(inputs) or inputs.shape[1:] != self.inputs.shape[1:] or inputs.dtype != self.inputs.dtype:
                raise InputError(
                    f"held-out inputs {name!r} are {inputs.dtype} {list(inputs.shape)}, "
                    f"the examples {self.inputs.dtype} {list(self.inputs.shape)}"
                )

    @classmethod
    def of_steering(cls, known: LabelledFrames, test: LabelledFrames, outsiders: Mapping[str, np.ndarray]) -> HeldOut:
        """Camera frames with a steering angle, and others without."""
        return cls(
            inputs=torch.from_numpy(test.frames),
            targets=torch.from_numpy(test.labels),
            known=torch.from_numpy(known.frames),
            known_targets=torch.from_numpy(known.labels),
            outsiders={name: torch.from_numpy(frames) for name, frames in outsiders.items()},
            unit="full lock",
            likelihood=HeteroscedasticGaussian(),
        )
