"""Fitting small networks by several methods, under the same conditions, to compare what they say."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from edge_bdl_train.fit import Data, fit, steps_of
from edge_bdl_train.likelihoods.base import Likelihood
from edge_bdl_train.methods import open_method
from edge_bdl_train.posterior import Posterior
from edge_bdl_train.progress import Stage, silent
from edge_bdl_train.recipes.base import seeded
from edge_bdl_train.threads import one_thread


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A method with its settings.

    Attributes:
        label: what it is called in tables and plots.
        method: its name in ``METHODS``.
        config: that method's ``Config``.
        dropout: rate of the network's dropout modules; 0 for methods that want none.
        epochs: how often its training is told to pass over the data.
    """

    label: str
    method: str
    config: Any
    dropout: float = 0.0
    epochs: int

    def fit(
        self,
        build: Callable[[float], nn.Module],
        likelihood: Likelihood,
        data: Data,
        *,
        batch_size: int,
        seed: int,
        stage: Stage = silent,
    ) -> Posterior:
        """The posterior of one network.

        Args:
            build: dropout rate -> network, drawing its weights from torch's global generator.
            likelihood: of the targets; one with parameters is trained with the network.
            data: inputs [N, ...] and targets [N, ...].
            batch_size: rows a step.
            seed: of weights, order and noise.
            stage: opens a progress bar.
        """
        generator = torch.Generator().manual_seed(seed)
        network = seeded(seed, lambda: build(self.dropout))
        method = open_method(self.method)
        trainee = method.build(network, likelihood, self.config, n_data=len(data[0]), generator=generator)
        steps = steps_of(trainee, len(data[0]), epochs=self.epochs, batch_size=batch_size)
        advance = stage(self.label, steps)
        with one_thread():
            return fit(trainee, data, epochs=self.epochs, batch_size=batch_size, generator=generator, advance=advance)


def mlp(sizes: Sequence[int], dropout: float = 0.0, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers with an activation between them, and dropout before each but the first where a rate is given."""
    layers: list[nn.Module] = [nn.Linear(sizes[0], sizes[1])]
    for inputs, outputs in itertools.pairwise(sizes[1:]):
        layers.append(activation())
        if dropout > 0.0:
            layers.append(nn.Dropout(dropout))
        layers.append(nn.Linear(inputs, outputs))
    return nn.Sequential(*layers)
