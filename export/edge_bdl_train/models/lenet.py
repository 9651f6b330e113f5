"""LeNet-5 (LeCun et al. 1998, "Gradient-Based Learning Applied to Document Recognition"), with ReLU and dropout."""

from __future__ import annotations

from torch import Tensor, nn


class LeNet(nn.Module):
    """Float images [N, 1, 28, 28] -> logits [N, classes].

    Args:
        classes: how many.
        dropout: the rate before the last layer.
    """

    def __init__(self, classes: int = 10, dropout: float = 0.0) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(),
        )  # fmt: skip
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(84, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Maps images to logits."""
        return self.last(self.dropout(self.trunk(images)))
