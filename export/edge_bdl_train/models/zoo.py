"""The zoo: networks as people put on robots, each with a posterior by every method that one would export.

The fits are of a few steps on noise. What a graph costs, and whether it equals its network, depends on no weight's
value; what an uncertainty is worth does, and is measured elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl.manifest import Task
from edge_bdl_train.fit import Data, fit
from edge_bdl_train.likelihoods.base import Likelihood
from edge_bdl_train.likelihoods.categorical import Categorical
from edge_bdl_train.likelihoods.gaussian import HeteroscedasticGaussian
from edge_bdl_train.methods import dropout, ensemble, laplace, mean_field, open_method, swag
from edge_bdl_train.models.efficientnet import efficientnet_lite0
from edge_bdl_train.models.lenet import LeNet
from edge_bdl_train.models.mlp import Mlp
from edge_bdl_train.models.mobilenet import MobileNet
from edge_bdl_train.models.pilotnet import PILOTNET_SIZE, PilotNet
from edge_bdl_train.models.resnet8 import ResNet8
from edge_bdl_train.models.sequences import Cnn1d, Lstm, Transformer
from edge_bdl_train.models.unet import UNet
from edge_bdl_train.optimiser import Optimiser
from edge_bdl_train.posterior import Posterior
from edge_bdl_train.recipes.base import seeded

_RATE = 0.2
_SMALL_STEPS = Optimiser(learning_rate=1e-3)


@dataclass(frozen=True)
class Exhibit:
    """One network of the zoo.

    Attributes:
        build: Dropout rate -> network, drawing its weights from torch's global generator.
        shape: Of one input, with its batch axis of 1.
        classes: How many; None for mean and log-variance of one number.
        class_axis: Where they are in an output.
        deterministic: Modules that are random in training only.
    """

    build: Callable[[float], nn.Module]
    shape: tuple[int, ...]
    classes: int | None = None
    class_axis: int = 1
    deterministic: tuple[str, ...] = ()

    @property
    def task(self) -> Task:
        """As the manifest has it."""
        return "heteroscedastic" if self.classes is None else "classification"

    @property
    def likelihood(self) -> Likelihood:
        """Of the targets."""
        return HeteroscedasticGaussian() if self.classes is None else Categorical(self.classes)

    def inputs(self, count: int, generator: torch.Generator) -> Tensor:
        """Noise, [count, *shape]."""
        return torch.randn(count, *self.shape[1:], generator=generator)

    def data(self, network: nn.Module, count: int, generator: torch.Generator) -> Data:
        """Noise, and targets of the right kind."""
        x = self.inputs(count, generator)
        if self.classes is None:
            return x, torch.randn(count, 1, generator=generator)
        with torch.no_grad():
            positions = network.eval()(x[:1]).shape[1:-1]
        return x, torch.randint(self.classes, (count, *positions), generator=generator)


ZOO: Mapping[str, Exhibit] = {
    "pilotnet": Exhibit(lambda rate: PilotNet(dropout=rate), (1, 3, *PILOTNET_SIZE)),
    "lenet": Exhibit(lambda rate: LeNet(dropout=rate), (1, 1, 28, 28), classes=10),
    "resnet8": Exhibit(lambda rate: ResNet8(dropout=rate), (1, 3, 32, 32), classes=10),
    "mobilenet": Exhibit(lambda rate: MobileNet(dropout=rate), (1, 3, 96, 96), classes=10),
    "efficientnet_lite0": Exhibit(efficientnet_lite0, (1, 3, 224, 224), classes=1000, deterministic=("_blocks",)),
    "cnn1d": Exhibit(lambda rate: Cnn1d(dropout=rate), (1, 128, 6), classes=5),
    "lstm": Exhibit(lambda rate: Lstm(dropout=rate), (1, 32, 6)),
    "transformer": Exhibit(lambda rate: Transformer(dropout=rate), (1, 32, 6), classes=5),
    "mlp": Exhibit(lambda rate: Mlp(dropout=rate), (1, 13)),
    "unet": Exhibit(lambda rate: UNet(dropout=rate), (1, 3, 64, 64), classes=4, class_axis=3),
}

# By the name of a row in the zoo's table: the method, its settings, the dropout rate that it wants, and the epochs.
METHODS_SHOWN: Mapping[str, tuple[str, Any, float, int]] = {
    "dropout, last layers": ("dropout", dropout.Config(), _RATE, 1),
    "mean field, last layer": ("mean_field", mean_field.Config(layers=1, optimiser=_SMALL_STEPS), 0.0, 1),
    "mean field, all layers": ("mean_field", mean_field.Config(optimiser=_SMALL_STEPS), 0.0, 1),
    "ensemble of 5": ("ensemble", ensemble.Config(optimiser=_SMALL_STEPS), 0.0, 1),
    "last-layer Laplace": ("laplace", laplace.Config(covariance="diagonal", prior_precision=1.0), 0.0, 0),
    "SWAG": ("swag", swag.Config(start_epoch=0, rank=2, batch_norm_rows=16, optimiser=_SMALL_STEPS), 0.0, 3),
}


def posterior_of(exhibit: Exhibit, shown: str, *, rows: int = 16, seed: int = 0) -> Posterior:
    """A posterior of one network by one method, barely fitted.

    Args:
        exhibit: Of ``ZOO``.
        shown: A name in ``METHODS_SHOWN``.
        rows: Of noise to fit it to.
        seed: Of weights, noise and fit.

    Raises:
        InputError: There is no such row, or the method cannot have such a network.
    """
    if shown not in METHODS_SHOWN:
        raise InputError(f"the zoo shows no {shown!r}: expected one of {', '.join(METHODS_SHOWN)}")
    method, config, rate, epochs = METHODS_SHOWN[shown]
    generator = torch.Generator().manual_seed(seed)
    network = seeded(seed, lambda: exhibit.build(rate))
    data = exhibit.data(network, rows, generator)
    trainee = open_method(method).build(network, exhibit.likelihood, config, n_data=rows, generator=generator)
    return fit(trainee, data, epochs=epochs, batch_size=max(2, rows // 4), generator=generator)
