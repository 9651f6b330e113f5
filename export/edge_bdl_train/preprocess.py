"""From the camera's bytes to what a network reads, as a module, so that it is exported with the network."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edge_bdl.errors import InputError


class Preprocess(nn.Module):
    """uint8 [N, H, W, C] -> cropped, resized, normalised float32 [N, C, h, w].

    Resizing is bilinear with half-pixel centres and without antialiasing: both graph formats have that operation. Where
    the cropped frame has the wanted size already, no resizing is in the graph.

    Args:
        size: height and width that the network reads, in pixels.
        crop_top: rows cut off at the top, before resizing.
        crop_bottom: rows cut off at the bottom, before resizing.
        mean: what is subtracted from each channel, for values scaled to [0, 1].
        std: what each channel is then divided by.

    Raises:
        InputError: the arguments do not describe an image.
    """

    def __init__(
        self,
        size: tuple[int, int],
        *,
        crop_top: int = 0,
        crop_bottom: int = 0,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.25, 0.25, 0.25),
    ) -> None:
        super().__init__()
        if min(size) < 1 or min(crop_top, crop_bottom) < 0:
            raise InputError(f"size {size} and crops {crop_top}, {crop_bottom} (pixels) must not be negative or empty")
        if (
            len(mean) != len(std)
            or not all(0.0 < value < math.inf for value in std)
            or not all(map(math.isfinite, mean))
        ):
            raise InputError(f"mean {tuple(mean)} and std {tuple(std)} need one value a channel, std above zero")
        self.size = size
        self.crop_top = crop_top
        self.crop_bottom = crop_bottom
        # (x / 255 - mean) / std as one multiplication and one addition. Constants, not weights: checkpoints omit them.
        scale = 1.0 / (255.0 * torch.tensor(std))
        offset = -torch.tensor(mean) / torch.tensor(std)
        self.register_buffer("scale", scale.view(1, -1, 1, 1), persistent=False)
        self.register_buffer("offset", offset.view(1, -1, 1, 1), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Maps uint8 [N, H, W, C] to float32 [N, C, h, w].

        Raises:
            InputError: the crops leave no rows.
        """
        if frames.shape[1] <= self.crop_top + self.crop_bottom:
            crops = f"{self.crop_top} at the top and {self.crop_bottom} at the bottom"
            raise InputError(f"frames have {frames.shape[1]} rows, and {crops} are to be cut off: no rows are left")
        cropped = frames[:, self.crop_top : frames.shape[1] - self.crop_bottom]
        images = cropped.permute(0, 3, 1, 2).to(torch.float32)
        if tuple(images.shape[2:]) != self.size:
            images = nn.functional.interpolate(images, self.size, mode="bilinear", align_corners=False)
        return images * self.scale + self.offset
