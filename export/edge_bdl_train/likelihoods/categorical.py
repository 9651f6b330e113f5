"""Categorical likelihood: one of K classes, from logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edge_bdl.errors import InputError
from edge_bdl_train.likelihoods.base import Likelihood


@dataclass(frozen=True)
class Categorical(Likelihood):
    """The softmax of logits [..., N, classes]; targets are class numbers, int64 [N].

    For a map of classes, logits [..., N, *positions, classes] and targets [N, *positions]: positions are independent.

    Raises:
        InputError: there are fewer than two classes.
    """

    classes: int

    def __post_init__(self) -> None:
        """Checks the number."""
        if self.classes < 2:
            raise InputError(f"a categorical likelihood needs at least 2 classes, got {self.classes}")

    @property
    def outputs(self) -> int:
        """One logit per class."""
        return self.classes

    def log_prob(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The logarithm of the target class's probability; of a map, the sum over its positions."""
        if outputs.ndim < 2 or outputs.shape[-1] != self.classes:
            raise InputError(f"expected logits [..., N, {self.classes}], got {list(outputs.shape)}")
        positions = outputs.shape[-1 - targets.ndim : -1] if targets.ndim else ()
        if targets.dtype != torch.int64 or not targets.ndim or targets.shape != positions:
            raise InputError(
                f"logits {list(outputs.shape)} go with int64 class numbers [{outputs.shape[-2]}], "
                f"got {targets.dtype} {list(targets.shape)}"
            )
        if targets.numel() and not 0 <= int(targets.min()) <= int(targets.max()) < self.classes:
            raise InputError(f"classes are 0 to {self.classes - 1}, got {int(targets.min())} to {int(targets.max())}")
        index = targets.expand(outputs.shape[:-1])[..., None]
        log_prob = torch.log_softmax(outputs, dim=-1).gather(-1, index)[..., 0]
        return log_prob if targets.ndim == 1 else log_prob.flatten(1 - targets.ndim).sum(-1)

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Each member's class probabilities, [..., N, classes]."""
        return torch.softmax(outputs, dim=-1)
