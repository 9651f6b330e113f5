"""A small camera network for driving, with Monte-Carlo dropout in its head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edge_bdl_train.preprocess import Preprocess

# Channels and kernel size of each convolution; all have stride 2.
_CONVOLUTIONS = ((32, 5), (40, 5), (64, 3), (64, 3))
_HIDDEN = (128, 64, 32)


class SmallCnn(nn.Module):
    """uint8 camera frames [N, H, W, 3] -> [N, outputs].

    Four convolutions, then three hidden layers, each with dropout behind it (Gal and Ghahramani 2016), so that the
    widest product is still shared by all members.

    Args:
        preprocess: its ``size`` is what the convolutions read; at least 32 x 32.
        outputs: 2 for a heteroscedastic target: its mean and its log-variance.
        dropout: the rate of the three dropout layers.
    """

    def __init__(self, preprocess: Preprocess, outputs: int = 2, dropout: float = 0.2) -> None:
        super().__init__()
        self.preprocess = preprocess
        trunk: list[nn.Module] = []
        channels = 3
        for width, kernel in _CONVOLUTIONS:
            trunk += [nn.Conv2d(channels, width, kernel, stride=2), nn.ReLU()]
            channels = width
        self.trunk = nn.Sequential(*trunk, nn.Flatten())
        with torch.no_grad():
            features = self.trunk(torch.zeros(1, 3, *preprocess.size)).shape[1]
        head: list[nn.Module] = []
        for width in _HIDDEN:
            head += [nn.Linear(features, width), nn.ReLU(), nn.Dropout(dropout)]
            features = width
        self.head = nn.Sequential(*head, nn.Linear(features, outputs))

    def forward(self, frames: Tensor) -> Tensor:
        """Maps uint8 frames [N, H, W, 3] to float32 [N, outputs]."""
        return self.head(self.trunk(self.preprocess(frames)))
