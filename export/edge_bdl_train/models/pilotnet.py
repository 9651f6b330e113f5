"""PilotNet (Bojarski et al. 2016, "End to End Learning for Self-Driving Cars", figure 4), with Monte-Carlo dropout.

The paper's network has 27 million connections and 250 thousand parameters. Dropout (Gal and Ghahramani 2016) stands
behind the three hidden layers of its head, so that all the convolutions, and the widest product, are computed once.
"""

from __future__ import annotations

from torch import Tensor, nn

from edge_bdl_train.preprocess import Preprocess

PILOTNET_SIZE = (66, 200)

# Channels, kernel size and stride of each convolution.
_CONVOLUTIONS = ((24, 5, 2), (36, 5, 2), (48, 5, 2), (64, 3, 1), (64, 3, 1))
_HIDDEN = (100, 50, 10)


class PilotNet(nn.Module):
    """Float images [N, 3, 66, 200], or what ``preprocess`` takes, -> [N, outputs].

    Args:
        outputs: 2 for a heteroscedastic target: its mean and its log-variance.
        dropout: the rate of every dropout layer.
        dropout_everywhere: dropout behind every convolution too. Nothing of the network is shared between the members
            then; the benchmark shows what that costs.
        preprocess: put before the network, its ``size`` being (66, 200).
    """

    def __init__(
        self,
        outputs: int = 2,
        dropout: float = 0.2,
        *,
        dropout_everywhere: bool = False,
        preprocess: Preprocess | None = None,
    ) -> None:
        super().__init__()
        self.preprocess = preprocess or nn.Identity()
        trunk: list[nn.Module] = []
        channels = 3
        for width, kernel, stride in _CONVOLUTIONS:
            trunk += [nn.Conv2d(channels, width, kernel, stride), nn.ReLU()]
            trunk += [nn.Dropout(dropout)] if dropout_everywhere else []
            channels = width
        self.trunk = nn.Sequential(*trunk, nn.Flatten())
        head: list[nn.Module] = []
        features = 64 * 1 * 18
        for width in _HIDDEN:
            head += [nn.Linear(features, width), nn.ReLU(), nn.Dropout(dropout)]
            features = width
        self.head = nn.Sequential(*head, nn.Linear(features, outputs))

    def forward(self, frames: Tensor) -> Tensor:
        """Maps frames to [N, outputs]."""
        return self.head(self.trunk(self.preprocess(frames)))
