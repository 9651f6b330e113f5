"""Recipe ``mnist``: Bayes by Backprop on digits, the first table of Blundell et al. 2015 (arXiv 1505.05424).

Two hidden layers of 400 units and no augmentation, pixels divided by 126 as in the paper. Beside it plain SGD and
dropout. The KL divergence counts by ``kl_factor``; at 1 it would be Bayes' rule, less is a colder posterior (Wenzel
et al. 2020, arXiv 2002.02405).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.data.idx import CLASSES
from edge_bdl_train.data.mnist import load_mnist
from edge_bdl_train.evaluation.classification import accuracy, nll
from edge_bdl_train.evaluation.reliability import ece
from edge_bdl_train.fit import Data
from edge_bdl_train.kl_schedules import Constant
from edge_bdl_train.likelihoods.categorical import Categorical
from edge_bdl_train.methods import dropout, mean_field, point
from edge_bdl_train.optimiser import Optimiser
from edge_bdl_train.posterior import Posterior
from edge_bdl_train.priors.base import Prior
from edge_bdl_train.priors.gaussian import Gaussian as GaussianPrior
from edge_bdl_train.priors.mixture import ScaleMixture
from edge_bdl_train.progress import Stage, silent
from edge_bdl_train.recipes.fitting import Contender, mlp
from edge_bdl_train.recipes.images import as_data, few
from edge_bdl_train.recipes.study import Figure, Study
from edge_bdl_train.threads import one_thread

WHITE = 255.0 / 126.0
GOAL = 1.5
GAUSSIAN, MIXTURE = "Bayes by Backprop, Gaussian prior", "Bayes by Backprop, mixture prior"
_SOURCE = "Blundell et al. 2015, table 1, 400 units"
# Test error in per cent.
PUBLISHED: Mapping[str, float] = {GAUSSIAN: 1.82, MIXTURE: 1.36}
LABELS = ("SGD", "dropout", GAUSSIAN, MIXTURE)


@dataclass(frozen=True, kw_only=True)
class MnistConfig:
    """What the study may vary.

    Attributes:
        methods: labels of those to run; all of them when empty.
        units: of both hidden layers.
        epochs: of training; the paper's are 600.
        kl_factor: how much the KL divergence counts.
        batch_size: rows a step.
        members: draws from each posterior.
        train_images: drawn from the training set; None for all.
    """

    methods: tuple[str, ...] = ()
    units: int = 400
    epochs: int = 40
    kl_factor: float = 0.03
    batch_size: int = 256
    members: int = 32
    train_images: int | None = None

    def __post_init__(self) -> None:
        """Checks the ranges and names; the KL factor checks itself."""
        if min(self.units, self.epochs, self.batch_size, self.members, self.train_images or 1) < 1:
            raise InputError(f"expected all counts to be at least 1, got {self}")
        if unknown := set(self.methods) - set(LABELS):
            raise InputError(f"there is no method {', '.join(sorted(unknown))}: expected of {', '.join(LABELS)}")


class MnistStudy(Study):
    """The same network by four methods."""

    name = "mnist"
    config_type = MnistConfig
    config: MnistConfig

    @classmethod
    def quick_config(cls) -> MnistConfig:
        """Narrow, short, and of few images."""
        return MnistConfig(units=30, epochs=3, batch_size=50, members=5, train_images=1_000)

    def run(self, out: Path, seed: int, stage: Stage = silent) -> list[Figure]:
        """See the class."""
        train, test = (_flat(as_data(part, WHITE)) for part in load_mnist())
        train = few(train, self.config.train_images, torch.Generator().manual_seed(seed))
        figures = []
        for contender in contenders(self.config):
            posterior = contender.fit(
                self.network, Categorical(CLASSES), train, batch_size=self.config.batch_size, seed=seed, stage=stage
            )
            with one_thread():
                figures += self._figures(contender.label, self._probabilities(posterior, test[0], seed), test[1])
        return figures

    def network(self, rate: float) -> nn.Sequential:
        """784 pixels, two hidden layers, ten classes."""
        return mlp((784, self.config.units, self.config.units, CLASSES), rate)

    def _probabilities(self, posterior: Posterior, x: Tensor, seed: int) -> Tensor:
        members = 1 if posterior.kind == "point" else self.config.members
        return posterior.predict(x, members, torch.Generator().manual_seed(seed)).double().softmax(-1)

    def _figures(self, label: str, probabilities: Tensor, labels: Tensor) -> list[Figure]:
        error = 100.0 * (1.0 - accuracy(probabilities, labels))
        ours = f"{self.config.epochs} epochs of Adam, no choice by validation, {len(probabilities)} members averaged"
        cold = f"; KL factor {self.config.kl_factor:g}; local reparametrisation" if label in PUBLISHED else ""
        goal = Figure(
            what=f"{label}: test error, %, against our goal",
            values=(error,),
            better="lower",
            published=GOAL,
            source="our goal",
            differs=f"{ours}{cold}",
        )
        return [
            Figure(
                what=f"{label}: test error, %",
                values=(error,),
                better="lower",
                published=PUBLISHED.get(label),
                source=_SOURCE if label in PUBLISHED else "",
                differs=f"{ours}{cold}",
            ),
            *([goal] if label == MIXTURE else []),
            Figure(what=f"{label}: test NLL, nats", values=(nll(probabilities, labels),), better="lower"),
            Figure(what=f"{label}: test ECE, %", values=(100.0 * ece(probabilities, labels),), better="lower"),
        ]


def contenders(config: MnistConfig) -> list[Contender]:
    """The methods to run."""
    decay = 0.01 ** (1.0 / config.epochs)
    adam = Optimiser(learning_rate=2e-3, decay=decay)
    known = [
        _contender(
            "SGD",
            "point",
            point.Config(optimiser=Optimiser(kind="sgd", learning_rate=0.1, momentum=0.9, decay=decay)),
            config,
        ),
        _contender("dropout", "dropout", dropout.Config(optimiser=adam), config, rate=0.5),
        _contender(GAUSSIAN, "mean_field", _backprop(GaussianPrior(0.1), adam, config), config),
        _contender(
            MIXTURE,
            "mean_field",
            _backprop(ScaleMixture(math.exp(-1.0), math.exp(-6.0), 0.5), adam, config),
            config,
        ),
    ]
    return [each for each in known if each.label in config.methods or not config.methods]


def _backprop(prior: Prior, optimiser: Optimiser, config: MnistConfig) -> mean_field.Config:
    return mean_field.Config(prior=prior, sigma=0.02, kl_factor=Constant(config.kl_factor), optimiser=optimiser)


def _contender(label: str, method: str, own: object, config: MnistConfig, rate: float = 0.0) -> Contender:
    return Contender(label=label, method=method, config=own, dropout=rate, epochs=config.epochs)


def _flat(data: Data) -> Data:
    return data[0].flatten(1), data[1]
