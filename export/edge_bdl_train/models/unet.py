"""A small U-Net (Ronneberger et al. 2015, arXiv 1505.04597): a class for every pixel, with channel dropout."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class UNet(nn.Module):
    """Float images [N, 3, H, W], both sides multiples of 4 -> logits [N, H, W, classes].

    Args:
        classes: how many.
        dropout: the rate, of whole channels, before the last layer.
    """

    def __init__(self, classes: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.down = nn.ModuleList([_twice(3, 16), _twice(16, 32)])
        self.bottom = _twice(32, 64)
        self.up = nn.ModuleList([nn.ConvTranspose2d(64, 32, 2, stride=2), nn.ConvTranspose2d(32, 16, 2, stride=2)])
        self.merge = nn.ModuleList([_twice(64, 32), _twice(32, 16)])
        self.dropout = nn.Dropout2d(dropout)
        self.last = nn.Linear(16, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Maps images to logits."""
        skips = []
        features = images
        for block in self.down:
            features = block(features)
            skips.append(features)
            features = nn.functional.max_pool2d(features, 2)
        features = self.bottom(features)
        for rise, block in zip(self.up, self.merge, strict=True):
            features = block(torch.cat([rise(features), skips.pop()], 1))
        return self.last(self.dropout(features).permute(0, 2, 3, 1))


def _twice(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
    )  # fmt: skip
