"""Which optimiser a method takes its steps with, as plain values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from edge_bdl.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Optimiser:
    """Adam (Kingma and Ba 2015) or SGD, with a learning rate that falls by a factor every epoch.

    There is no weight decay in it: that is a prior, and belongs to the method.

    Attributes:
        kind: ``adam`` or ``sgd``.
        learning_rate: of the first epoch.
        momentum: SGD's.
        decay: what the learning rate is multiplied by after every epoch.
        clip_norm: largest norm of the whole gradient; None leaves it as it is.
    """

    kind: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 1e-3
    momentum: float = 0.0
    decay: float = 1.0
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if self.kind not in ("adam", "sgd"):
            raise InputError(f"optimiser is 'adam' or 'sgd', got {self.kind!r}")
        if not (self.learning_rate > 0.0 and 0.0 <= self.momentum < 1.0 and 0.0 < self.decay <= 1.0):
            raise InputError(
                "learning_rate must be above 0, momentum in [0, 1) and decay in (0, 1], "
                f"got {self.learning_rate}, {self.momentum} and {self.decay}"
            )
        if self.kind == "adam" and self.momentum:
            raise InputError(f"adam has its own momentum, got momentum={self.momentum}: take kind='sgd'")
        if self.clip_norm is not None and not self.clip_norm > 0.0:
            raise InputError(f"clip_norm must be above 0, got {self.clip_norm}")

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """A new optimiser of these parameters."""
        if self.kind == "adam":
            return torch.optim.Adam(parameters, lr=self.learning_rate)
        return torch.optim.SGD(parameters, lr=self.learning_rate, momentum=self.momentum)
