"""Recipe ``mnist``: Bayes by Backprop on digits, the first table of Blundell et al. 2015 (arXiv 1505.05424).

Two hidden layers of 400 units and no augmentation, pixels divided by 126 as in the paper. Beside it plain SGD and
dropout. The KL divergence counts by a factor; at 1 it would be Bayes' rule, less is a colder posterior (Wenzel et al.
2020, arXiv 2002.02405). Which factor, short trainings without the last sixth of the training set say, by their
negative log-likelihood on those rows: the paper, too, chose its settings on 10,000 of the 60,000. Then all rows train.
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
PRIORS: Mapping[str, Prior] = {
    GAUSSIAN: GaussianPrior(0.1),
    MIXTURE: ScaleMixture(math.exp(-1.0), math.exp(-6.0), 0.5),
}
_HELD_OUT = 1 / 6


@dataclass(frozen=True, kw_only=True)
class MnistConfig:
    """What the study may vary.

    Attributes:
        methods: labels of those to run; all of them when empty.
        units: of both hidden layers.
        epochs: of training; the paper's are 600.
        kl_factors: how much the KL divergence may count; of several, the held-out rows choose for each prior.
        choice_epochs: of training with each of several factors.
        batch_size: rows a step.
        members: draws from each posterior.
        train_images: drawn from the training set; None for all.
    """

    methods: tuple[str, ...] = ()
    units: int = 400
    epochs: int = 40
    kl_factors: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3)
    choice_epochs: int = 10
    batch_size: int = 256
    members: int = 32
    train_images: int | None = None

    def __post_init__(self) -> None:
        """Checks the ranges and names; a KL factor checks itself."""
        counts = (self.units, self.epochs, self.choice_epochs, self.batch_size, self.members, self.train_images or 6)
        if min(*counts, len(self.kl_factors)) < 1 or counts[-1] < 6:
            raise InputError(f"expected a KL factor, all counts at least 1 and train_images at least 6, got {self}")
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
        return MnistConfig(
            units=30, epochs=3, kl_factors=(0.01, 0.1), choice_epochs=2, batch_size=50, members=5, train_images=1_000
        )

    def run(self, out: Path, seed: int, stage: Stage = silent) -> list[Figure]:
        """See the class."""
        train, test = (_flat(as_data(part, WHITE)) for part in load_mnist())
        train = few(train, self.config.train_images, torch.Generator().manual_seed(seed))
        figures = []
        for label in LABELS:
            if label not in (self.config.methods or LABELS):
                continue
            factor = 1.0
            if label in PRIORS:
                factor, tried = self._choose_factor(label, train, seed, stage)
                figures += tried
            posterior = self._fit(contender(label, self.config.epochs, factor), train, seed, stage)
            with one_thread():
                probabilities = self._probabilities(posterior, test[0], seed)
                figures += self._figures(label, factor, probabilities, test[1])
        return figures

    def network(self, rate: float) -> nn.Sequential:
        """784 pixels, two hidden layers, ten classes."""
        return mlp((784, self.config.units, self.config.units, CLASSES), rate)

    def _choose_factor(self, label: str, train: Data, seed: int, stage: Stage) -> tuple[float, list[Figure]]:
        """The KL factor whose short training says most of the held-out rows, and what each said."""
        candidates, epochs = self.config.kl_factors, self.config.choice_epochs
        if len(candidates) == 1:
            return candidates[0], []
        x, y = train
        kept = len(x) - round(_HELD_OUT * len(x))
        losses = {}
        for factor in candidates:
            posterior = self._fit(contender(label, epochs, factor), (x[:kept], y[:kept]), seed, stage)
            with one_thread():
                losses[factor] = nll(self._probabilities(posterior, x[kept:], seed), y[kept:])
        figures = [
            Figure(what=f"{label}: held-out NLL of KL factor {factor:g} after {epochs} epochs, nats", values=(loss,))
            for factor, loss in losses.items()
        ]
        return min(losses, key=losses.__getitem__), figures

    def _fit(self, own: Contender, data: Data, seed: int, stage: Stage) -> Posterior:
        size = self.config.batch_size
        return own.fit(self.network, Categorical(CLASSES), data, batch_size=size, seed=seed, stage=stage)

    def _probabilities(self, posterior: Posterior, x: Tensor, seed: int) -> Tensor:
        members = 1 if posterior.kind == "point" else self.config.members
        return posterior.predict(x, members, torch.Generator().manual_seed(seed)).double().softmax(-1)

    def _figures(self, label: str, factor: float, probabilities: Tensor, labels: Tensor) -> list[Figure]:
        error = 100.0 * (1.0 - accuracy(probabilities, labels))
        ours = f"{self.config.epochs} epochs of {'SGD' if label == 'SGD' else 'Adam'}, {len(probabilities)} averaged"
        tried = len(self.config.kl_factors)
        cold = f"; KL factor {factor:g}, best of {tried} on held-out rows; local reparametrisation"
        differs = ours + (cold if label in PRIORS else "")
        goal = Figure(
            what=f"{label}: test error, %, against our goal",
            values=(error,),
            better="lower",
            published=GOAL,
            source="our goal",
            differs=differs,
        )
        return [
            Figure(
                what=f"{label}: test error, %",
                values=(error,),
                better="lower",
                published=PUBLISHED.get(label),
                source=_SOURCE if label in PUBLISHED else "",
                differs=differs,
            ),
            *([goal] if label == MIXTURE else []),
            Figure(what=f"{label}: test NLL, nats", values=(nll(probabilities, labels),), better="lower"),
            Figure(what=f"{label}: test ECE, %", values=(100.0 * ece(probabilities, labels),), better="lower"),
        ]


def contender(label: str, epochs: int, kl_factor: float) -> Contender:
    """One of the methods; the learning rate ends at a hundredth of where it began."""
    decay = 0.01 ** (1.0 / epochs)
    adam = Optimiser(learning_rate=2e-3, decay=decay)
    if label == "SGD":
        sgd = Optimiser(kind="sgd", learning_rate=0.1, momentum=0.9, decay=decay)
        return Contender(label=label, method="point", config=point.Config(optimiser=sgd), epochs=epochs)
    if label == "dropout":
        own = dropout.Config(optimiser=adam)
        return Contender(label=label, method="dropout", config=own, dropout=0.5, epochs=epochs)
    field = mean_field.Config(prior=PRIORS[label], sigma=0.02, kl_factor=Constant(kl_factor), optimiser=adam)
    return Contender(label=label, method="mean_field", config=field, epochs=epochs)


def _flat(data: Data) -> Data:
    return data[0].flatten(1), data[1]
