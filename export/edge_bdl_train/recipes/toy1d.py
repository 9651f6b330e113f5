"""Recipe ``toy1d``: the picture of every introduction. Away from the data uncertainty should grow.

Few points on both sides of a gap; a curve to be learned (regression), and two classes, one label in ten being wrong
(classification). A point estimate knows the noise of the targets and nothing else: its predictive distribution is as
narrow where it has never been, and its softmax is the more certain the farther one goes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.canvas import Canvas
from edge_bdl_train.data import toy1d
from edge_bdl_train.fit import Data
from edge_bdl_train.likelihoods.base import Likelihood
from edge_bdl_train.likelihoods.categorical import Categorical
from edge_bdl_train.likelihoods.gaussian import Gaussian
from edge_bdl_train.methods import (
    concrete_dropout,
    dropout,
    ensemble,
    laplace,
    masksembles,
    mean_field,
    multi_swag,
    point,
    sgmcmc,
    swag,
    vbll,
)
from edge_bdl_train.optimiser import Optimiser
from edge_bdl_train.posterior import Posterior
from edge_bdl_train.priors.gaussian import Gaussian as GaussianPrior
from edge_bdl_train.progress import Stage, silent
from edge_bdl_train.recipes.fitting import Contender, mlp
from edge_bdl_train.recipes.study import Figure, Study

AMONG = ((-0.95, -0.4), (0.4, 0.95))
GAP = ((-0.15, 0.15),)
BEYOND = ((-2.0, -1.6), (1.6, 2.0))
_REACH = 2.0
_SWAG_BATCHES = 4
"""Batches in an epoch of SWAG; all others see every point in each step."""
_UNIT = 0.25
"""Networks read x in this unit. A freshly drawn network bends at about 1 of what it reads: within the gap it must be
able to bend, or all of its kind go straight through and agree."""


@dataclass(frozen=True, kw_only=True)
class Toy1dConfig:
    """What the study may vary.

    Attributes:
        points: to learn from.
        hidden: units of both hidden layers.
        shorten: training of every method is this many times shorter than it should be.
        members: draws from each posterior, as far as it has so many.
        methods: labels of those to run; all of them when empty.
    """

    points: int = 40
    hidden: int = 50
    shorten: int = 1
    members: int = 100
    methods: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if min(self.points, self.hidden, self.shorten, self.members) < 1:
            raise InputError(f"points, hidden, shorten and members must be at least 1, got {self}")


class Toy1dStudy(Study):
    """Every method on the same few points."""

    name = "toy1d"
    config_type = Toy1dConfig
    config: Toy1dConfig

    @classmethod
    def quick_config(cls) -> Toy1dConfig:
        """Three methods, hardly trained."""
        return Toy1dConfig(shorten=20, members=20, methods=("point", "dropout", "ensemble"))

    def run(self, out: Path, seed: int, stage: Stage = silent) -> list[Figure]:
        """See the class."""
        rng = np.random.default_rng(seed)
        x, y = toy1d.regression(self.config.points, rng)
        data = _column(x) / _UNIT, _column(y)
        fitted = {each.label: self.fit(each, 1, Gaussian(toy1d.NOISE), data, seed, stage) for each in self.contenders()}
        draw_regression(out / "regression.png", x, y, self._answers(fitted, _grid(), seed))
        figures = self._regression_figures(fitted, seed)

        x, classes = toy1d.classification(self.config.points, rng)
        labelled = _column(x) / _UNIT, torch.from_numpy(classes)
        fitted = {each.label: self.fit(each, 2, Categorical(2), labelled, seed, stage) for each in self.contenders()}
        draw_classification(out / "classification.png", x, classes, self._answers(fitted, _grid(), seed))
        return figures + self._classification_figures(fitted, seed)

    def contenders(self) -> list[Contender]:
        """The methods to run, shortened as the config says."""
        chosen = [
            each
            for each in contenders(self.config.shorten)
            if each.label in self.config.methods or not self.config.methods
        ]
        if not chosen:
            known = ", ".join(each.label for each in contenders(self.config.shorten))
            raise InputError(f"none of {self.config.methods} is a method here: expected some of {known}")
        return chosen

    def fit(
        self, contender: Contender, outputs: int, likelihood: Likelihood, data: Data, seed: int, stage: Stage
    ) -> Posterior:
        """One method's posterior, of a network with two hidden layers."""

        def build(dropout: float) -> nn.Module:
            return mlp((1, self.config.hidden, self.config.hidden, outputs), dropout)

        # SWAG measures what the noise of small batches does to the weights: with all points in each there is none.
        walks = contender.method in ("swag", "multi_swag")
        batch_size = max(1, self.config.points // _SWAG_BATCHES) if walks else self.config.points
        return contender.fit(build, likelihood, data, batch_size=batch_size, seed=seed, stage=stage)

    def _answers(self, fitted: Mapping[str, Posterior], x: Tensor, seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        wanted = self.config.members
        return {
            label: posterior.predict(x / _UNIT, min(wanted, posterior.size or wanted), generator)
            for label, posterior in fitted.items()
        }

    def _regression_figures(self, fitted: Mapping[str, Posterior], seed: int) -> list[Figure]:
        places = (AMONG, GAP, BEYOND)
        spread = [
            {
                label: float(spread_of(outputs).mean())
                for label, outputs in self._answers(fitted, _points(place), seed).items()
            }
            for place in places
        ]
        among, gap, beyond = spread
        return [
            Figure(
                what=f"{label}: predictive standard deviation {where}, as a multiple of that among the data",
                values=(place[label] / among[label],),
                better=None if label == "point" else "higher",
                published=1.0,
                source="a deterministic network's",
            )
            for label in fitted
            for where, place in (("in the gap", gap), ("beyond the data", beyond))
        ]

    def _classification_figures(self, fitted: Mapping[str, Posterior], seed: int) -> list[Figure]:
        among, beyond = (
            {
                label: float(entropy_of(outputs).mean())
                for label, outputs in self._answers(fitted, _points(place), seed).items()
            }
            for place in (AMONG, BEYOND)
        )
        return [
            Figure(what=f"{label}: entropy {where}, nats", values=(place[label],))
            for label in fitted
            for where, place in (("among the data", among), ("beyond the data", beyond))
        ]


def contenders(shorten: int) -> list[Contender]:
    """Every method, with settings that suit a small network and few points.

    Args:
        shorten: how many times shorter than it should be the training is.
    """
    prior = GaussianPrior(1.0)
    adam = Optimiser(learning_rate=1e-2)
    epochs = 2_000 // shorten
    layers = ("2", "4")
    walked = epochs // _SWAG_BATCHES
    walk = swag.Config(start_epoch=walked // 2, learning_rate=3e-3, prior=prior, optimiser=adam)
    # The noise makes the loss steep: a larger step than this one does not come to rest.
    chain = sgmcmc.Config(prior=prior, learning_rate=2e-4, burn_in=5 * epochs // 2, every=max(1, epochs // 40))

    def contender(
        label: str, config: object, *, method: str = "", dropout: float = 0.0, epochs: int = epochs
    ) -> Contender:
        return Contender(label=label, method=method or label, config=config, dropout=dropout, epochs=epochs)

    return [
        contender("point", point.Config(prior=prior, optimiser=adam)),
        contender("dropout", dropout.Config(prior=prior, optimiser=adam), dropout=0.05),
        contender("concrete_dropout", concrete_dropout.Config(optimiser=adam), dropout=0.05),
        contender("ensemble", ensemble.Config(members=10, optimiser=adam)),
        contender("masksembles", masksembles.Config(layers=layers, prior=prior, optimiser=adam)),
        contender("mean_field", mean_field.Config(prior=prior, optimiser=adam), epochs=2 * epochs),
        contender("laplace", laplace.Config(prior=prior, prior_precision=1.0, optimiser=adam)),
        contender("vbll", vbll.Config(optimiser=adam)),
        contender("swag", walk, epochs=walked),
        contender("multi_swag", multi_swag.Config(swag=walk), epochs=walked),
        contender("sghmc", chain, method="sgmcmc", epochs=5 * epochs),
    ]


def spread_of(outputs: Tensor) -> Tensor:
    """Standard deviation [N] of the predictive distribution: the targets' noise and what the members differ by."""
    return (outputs[..., 0].var(0, correction=0) + toy1d.NOISE**2).sqrt()


def entropy_of(logits: Tensor) -> Tensor:
    """Entropy [N], in nats, of the averaged class probabilities."""
    return torch.special.entr(torch.softmax(logits, -1).mean(0)).sum(-1)


def draw_regression(path: Path, x: np.ndarray, y: np.ndarray, answers: Mapping[str, Tensor]) -> None:
    """Mean and two standard deviations of every method."""
    grid = _grid()[:, 0].numpy()
    canvas = Canvas(math.ceil(len(answers) / 4), 4)
    for axes, (label, outputs) in zip(canvas.axes, answers.items(), strict=False):
        mean, spread = outputs[..., 0].mean(0).numpy(), spread_of(outputs).numpy()
        axes.fill_between(grid, mean - 2.0 * spread, mean + 2.0 * spread, alpha=0.3)
        axes.plot(grid, mean)
        axes.plot(grid, toy1d.curve(grid), "k:", linewidth=0.8)
        axes.plot(x, y, "k.", markersize=3)
        axes.set(title=label, ylim=(-4.0, 4.0))
    canvas.save(path)


def draw_classification(path: Path, x: np.ndarray, classes: np.ndarray, answers: Mapping[str, Tensor]) -> None:
    """Probability of the right-hand class of every method, its members thin."""
    grid = _grid()[:, 0].numpy()
    canvas = Canvas(math.ceil(len(answers) / 4), 4)
    for axes, (label, logits) in zip(canvas.axes, answers.items(), strict=False):
        probability = torch.softmax(logits, -1)[..., 1].numpy()
        axes.plot(grid, probability[:20].T, linewidth=0.4, alpha=0.5)
        axes.plot(grid, probability.mean(0), "k")
        axes.plot(x, classes, "k|", markersize=8)
        axes.set(title=label, ylim=(-0.1, 1.1))
    canvas.save(path)


def _points(intervals: tuple[tuple[float, float], ...]) -> Tensor:
    return torch.cat([torch.linspace(*interval, 50) for interval in intervals])[:, None]


def _grid() -> Tensor:
    return torch.linspace(-_REACH, _REACH, 401)[:, None]


def _column(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values).float()[:, None]
