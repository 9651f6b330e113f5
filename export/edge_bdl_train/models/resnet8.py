"""ResNet-8, as MLPerf Tiny has it for CIFAR-10 (Banbury et al. 2021, arXiv 2106.07597), with dropout."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ResNet8(nn.Module):
    """Float images [N, 3, 32, 32] -> logits [N, classes].

    Args:
        classes: how many.
        dropout: the rate before the last layer.
    """

    def __init__(self, classes: int = 10, dropout: float = 0.0) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            _Block(16, 16, 1), _Block(16, 32, 2), _Block(32, 64, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Maps images to logits."""
        return self.last(self.dropout(self.trunk(images)))


class _Block(nn.Module):
    """Two convolutions beside a skip connection (He et al. 2015, arXiv 1512.03385)."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, 1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1), nn.BatchNorm2d(width),
        )  # fmt: skip
        self.skip = nn.Conv2d(channels, width, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.skip(x))
