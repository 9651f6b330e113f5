"""What the studies on images of 28 x 28 pixels share: pixels as numbers, a network, and a fast way to predict."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_bdl_train.data.idx import CLASSES, LabelledImages
from edge_bdl_train.fit import Data
from edge_bdl_train.methods.dropout import DropoutPosterior, dropout_posterior
from edge_bdl_train.posterior import Posterior

_SIDE, _KERNEL = 28, 5


def pixels(images: NDArray[np.uint8], white: float = 1.0) -> Tensor:
    """Float32 [N, 1, 28, 28] in [0, white] of uint8 [N, 28, 28]."""
    # Channels lie last in memory: all of the network's convolutions and poolings keep to that, and are a third faster.
    return torch.from_numpy(images.astype(np.float32))[..., None].permute(0, 3, 1, 2) * (white / 255.0)


def as_data(part: LabelledImages, white: float = 1.0) -> Data:
    """Pixels, and the classes as int64 [N]."""
    return pixels(part.images, white), torch.from_numpy(part.labels)


def few(data: Data, count: int | None, generator: torch.Generator) -> Data:
    """So many rows that the generator draws; all of them, in their order, for None."""
    x, y = data
    if count is None:
        return data
    rows = torch.randperm(len(x), generator=generator)[:count]
    return x[rows], y[rows]


def lenet(
    rates: Sequence[float] = (0.0, 0.0),
    channels: tuple[int, int] = (16, 32),
    hidden: Sequence[int] = (128,),
    padding: int = 0,
) -> nn.Sequential:
    """Two convolutions and a few linear layers, as in LeNet (LeCun et al. 1998): [N, 1, 28, 28] -> logits [N, 10].

    Args:
        rates: of dropout before each linear layer; no module where it is 0.
        channels: of the convolutions, 5 x 5 with max pooling after.
        hidden: units between the linear layers.
        padding: pixels around the image.
    """
    one, other = channels
    side = ((_SIDE + 2 * padding - _KERNEL + 1) // 2 - _KERNEL + 1) // 2
    widths = (side * side * other, *hidden, CLASSES)
    layers: list[nn.Module] = [
        nn.Conv2d(1, one, _KERNEL, padding=padding),
        nn.MaxPool2d(2),
        nn.ReLU(),  # of a quarter of the pixels, and the same as before the pooling
        nn.Conv2d(one, other, _KERNEL),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
    ]
    for (before, after), rate in zip(pairwise(widths), rates, strict=True):
        layers += [nn.Dropout(rate)] if rate > 0.0 else []
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def after_trunk(posterior: Posterior, x: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """What ``posterior.predict`` gives; what comes before the first dropout is computed once for all members.

    Args:
        posterior: any; only of a sequential network with dropout is something saved.
        x: [N, ...].
        n: members.
        generator: draws them.
    """
    layers = [*posterior.network.children()]
    drops = [place for place, layer in enumerate(layers) if isinstance(layer, nn.Dropout)]
    if not (isinstance(posterior, DropoutPosterior) and isinstance(posterior.network, nn.Sequential) and drops):
        return posterior.predict(x, n, generator)
    trunk, head = nn.Sequential(*layers[: drops[0]]), nn.Sequential(*layers[drops[0] :])
    with torch.no_grad():
        features = torch.cat([trunk(rows) for rows in x.split(1000)])
    return dropout_posterior(DropoutPosterior, head, {}, [(features, features)]).predict(features, n, generator)
