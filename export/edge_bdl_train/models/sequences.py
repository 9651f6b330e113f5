"""Networks for what comes over time, [N, steps, channels]: convolutions, an LSTM, a transformer, each with dropout."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_HIDDEN = 64


class Cnn1d(nn.Module):
    """Float [N, steps, channels] -> logits [N, classes], by convolutions over time.

    Args:
        channels: of one step.
        classes: how many.
        dropout: the rate before the last layer.
    """

    def __init__(self, channels: int = 6, classes: int = 5, dropout: float = 0.0) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv1d(channels, 32, 7, stride=2, padding=3), nn.ReLU(),
            nn.Conv1d(32, 64, 5, stride=2, padding=2), nn.ReLU(),
            nn.Conv1d(64, _HIDDEN, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
        )  # fmt: skip
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(_HIDDEN, classes)

    def forward(self, series: Tensor) -> Tensor:
        """Maps series to logits."""
        return self.last(self.dropout(self.trunk(series.transpose(1, 2))))


class Lstm(nn.Module):
    """Float [N, steps, channels] -> [N, outputs], from the last step of an LSTM (Hochreiter and Schmidhuber 1997).

    Args:
        channels: of one step.
        outputs: 2 for a heteroscedastic target: its mean and its log-variance.
        dropout: the rate before the last layer.
    """

    def __init__(self, channels: int = 6, outputs: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        self.trunk = nn.LSTM(channels, _HIDDEN, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(_HIDDEN, outputs)

    def forward(self, series: Tensor) -> Tensor:
        """Maps series to outputs."""
        states, _ = self.trunk(series)
        return self.last(self.dropout(states[:, -1]))


class Transformer(nn.Module):
    """Float [N, steps, channels] -> logits [N, classes], by attention between the steps (Vaswani et al. 2017).

    Args:
        steps: in a series; each has a learned position.
        channels: of one step.
        classes: how many.
        dropout: the rate before the last layer.
    """

    def __init__(self, steps: int = 32, channels: int = 6, classes: int = 5, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Linear(channels, _HIDDEN)
        self.position = nn.Embedding(steps, _HIDDEN)
        layer = nn.TransformerEncoderLayer(
            _HIDDEN, nhead=4, dim_feedforward=2 * _HIDDEN, dropout=0.0, batch_first=True, norm_first=True
        )
        self.trunk = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(_HIDDEN, classes)

    def forward(self, series: Tensor) -> Tensor:
        """Maps series to logits."""
        positions = self.position(torch.arange(series.shape[1], device=series.device))
        features = self.trunk(self.embedding(series) + positions)
        return self.last(self.dropout(features.mean(1)))
