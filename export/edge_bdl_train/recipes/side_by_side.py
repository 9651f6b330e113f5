"""Small networks for several data sets, trained as one: a step of ten costs little more than a step of one.

Each has its own weights and sees its own rows, and nothing joins them: Adam steps every weight by its own gradient, so
they learn what they would have learned alone.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class LinearSideBySide(nn.Module):
    """``count`` linear layers: [N, count, inputs] -> [N, count, outputs]."""

    def __init__(self, count: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, inputs, outputs))
        self.bias = nn.Parameter(torch.empty(count, outputs))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As ``nn.Linear`` does."""
        bound = 1.0 / math.sqrt(self.weight.shape[1])
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Each layer on its own inputs."""
        return torch.baddbmm(self.bias[:, None], x.transpose(0, 1), self.weight).transpose(0, 1)


class NetworksSideBySide(nn.Module):
    """``count`` networks of one hidden layer: [N, count, inputs] -> [N, count].

    Args:
        count: how many.
        inputs: of each.
        hidden: units of each.
        dropout: rate before both layers, the inputs included; 0 for none.
    """

    def __init__(self, count: int, inputs: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        dropped = (nn.Dropout(dropout), nn.Dropout(dropout)) if dropout > 0.0 else (nn.Identity(), nn.Identity())
        self.layers = nn.Sequential(
            dropped[0],
            LinearSideBySide(count, inputs, hidden),
            nn.ReLU(),
            dropped[1],
            LinearSideBySide(count, hidden, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """One answer per row and network."""
        answers: Tensor = self.layers(x)
        return answers[..., 0]

    def alone(self, number: int) -> nn.Sequential:
        """One of the networks as torch writes it, without its dropout: [N, inputs] -> [N, 1]."""
        hidden, output = self.layers[1], self.layers[4]
        own = nn.Sequential(nn.Linear(*hidden.weight.shape[1:]), nn.ReLU(), nn.Linear(*output.weight.shape[1:]))
        for plain, layer in ((own[0], hidden), (own[2], output)):
            plain.weight = nn.Parameter(layer.weight[number].detach().T.clone())
            plain.bias = nn.Parameter(layer.bias[number].detach().clone())
        return own


class NoisyNetworksSideBySide(nn.Module):
    """The same, of layers that ``bayesianize`` knows, each with its targets' noise: [N, count, inputs] -> [N, 2 count].

    A convolution of one place whose channels are in groups is as many linear layers; the rows are its places. The
    answers are all means, then all log-variances, as ``HeteroscedasticGaussian`` reads them; each network has one
    noise for all rows. Its parameter is the logarithm of the standard deviation, as in ``Gaussian(learned=True)``: Adam
    moves every parameter by about the learning rate, so a log-variance would take twice as many steps.

    Args:
        count: how many.
        inputs: of each.
        hidden: units of each.
    """

    LAYERS = ("hidden", "output")
    """Those whose weights may be random."""

    def __init__(self, count: int, inputs: int, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Conv1d(count * inputs, count * hidden, 1, groups=count)
        self.output = nn.Conv1d(count * hidden, count, 1, groups=count)
        self.log_noise = nn.Parameter(torch.zeros(count))

    def forward(self, x: Tensor) -> Tensor:
        """One answer and one log-variance per row and network."""
        answers = self.output(torch.relu(self.hidden(x.flatten(1).T[None])))[0].T
        return torch.cat([answers, 2.0 * self.log_noise.expand_as(answers)], dim=1)
