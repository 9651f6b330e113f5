"""A small network of inverted residuals (Sandler et al. 2018, arXiv 1801.04381), with dropout."""

from __future__ import annotations

from torch import Tensor, nn

# Expansion, channels and stride of each block: MobileNetV2's stages, a block each, at a third of its width.
_BLOCKS = ((1, 8, 1), (6, 8, 2), (6, 16, 2), (6, 16, 1), (6, 24, 2), (6, 32, 1), (6, 56, 2), (6, 56, 1))
_FEATURES = 256


class MobileNet(nn.Module):
    """Float images [N, 3, H, W], 96 x 96 and larger -> logits [N, classes].

    Args:
        classes: how many.
        dropout: the rate before the last layer.
    """

    def __init__(self, classes: int = 10, dropout: float = 0.0) -> None:
        super().__init__()
        layers: list[nn.Module] = [_convolution(3, 16, 3, 2)]
        channels = 16
        for expansion, width, stride in _BLOCKS:
            layers.append(_InvertedResidual(channels, width, expansion, stride))
            channels = width
        layers += [_convolution(channels, _FEATURES, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.trunk = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(_FEATURES, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Maps images to logits."""
        return self.last(self.dropout(self.trunk(images)))


class _InvertedResidual(nn.Module):
    def __init__(self, channels: int, width: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = channels * expansion
        expand = [_convolution(channels, hidden, 1, 1)] if expansion > 1 else []
        self.body = nn.Sequential(
            *expand,
            _convolution(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.residual = stride == 1 and channels == width

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


def _convolution(channels: int, width: int, kernel: int, stride: int, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU6(),
    )
