"""A multilayer perceptron for tables of numbers, with dropout."""

from __future__ import annotations

from torch import Tensor, nn


class Mlp(nn.Module):
    """Float [N, features] -> [N, outputs].

    Args:
        features: of one row.
        outputs: 2 for a heteroscedastic target: its mean and its log-variance.
        dropout: the rate before the last layer.
    """

    def __init__(self, features: int = 13, outputs: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(features, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU())
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(64, outputs)

    def forward(self, rows: Tensor) -> Tensor:
        """Maps rows to outputs."""
        return self.last(self.dropout(self.trunk(rows)))
