"""Recipe ``fashion``: does a network that knows clothes notice that it is shown digits?

A network of LeNet's size on Fashion-MNIST (Xiao et al. 2017), by every method: how right it is, how well it knows that,
and how well its scores tell MNIST's digits from clothes, for 1 to 32 members. The 32 are drawn once, and fewer are the
first of them.

Dropout is before each of the three linear layers, at 0.3. That was settled on after figures of others had been seen:
before the last layer or two alone, mutual information scatters with the masks that happen to be drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from edge_bdl.errors import InputError
from edge_bdl_train.canvas import Canvas
from edge_bdl_train.data.fashion_mnist import load_fashion_mnist
from edge_bdl_train.data.mnist import load_mnist
from edge_bdl_train.evaluation.classification import accuracy, nll
from edge_bdl_train.evaluation.density import FeatureDensity, features_of
from edge_bdl_train.evaluation.ood import separation
from edge_bdl_train.evaluation.reliability import ece
from edge_bdl_train.evaluation.scores import class_scores
from edge_bdl_train.fit import Data
from edge_bdl_train.posterior import Posterior
from edge_bdl_train.progress import Stage, silent
from edge_bdl_train.recipes.image_methods import ImageContender, choose, contenders, fitted
from edge_bdl_train.recipes.images import after_trunk, as_data, few
from edge_bdl_train.recipes.study import Figure, Study
from edge_bdl_train.threads import one_thread

MEMBERS = (1, 2, 4, 8, 16, 32)
HEADLINE = 16
TABLE_FILE = "by_members.json"
_KNOWN_FEATURES = 10_000
_GOALS = {"density": 0.95, "epistemic": 0.88}
_DROPOUT = ("dropout", "concrete dropout")


@dataclass(frozen=True, kw_only=True)
class FashionConfig:
    """What the study may vary.

    Attributes:
        methods: labels of those to run beside the point estimate; all of them when empty.
        epochs: of a training from random weights.
        tuning: of one from the point estimate.
        batch_size: rows a step.
        train_images: drawn from the training set; None for all.
        test_images: drawn from the test set and from the outsiders; None for all.
    """

    methods: tuple[str, ...] = ()
    epochs: int = 8
    tuning: int = 4
    batch_size: int = 128
    train_images: int | None = None
    test_images: int | None = None

    def __post_init__(self) -> None:
        """Checks the ranges and names."""
        counts = (self.epochs, self.tuning, self.batch_size, self.train_images or 1, self.test_images or 1)
        if min(counts) < 1 or self.tuning < 2:
            raise InputError(f"expected all counts to be at least 1 and tuning at least 2, got {self}")
        known = [each.label for each in contenders(1, 2, 1)]
        if unknown := set(self.methods) - set(known):
            raise InputError(f"there is no method {', '.join(sorted(unknown))}: expected of {', '.join(known)}")


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What so many members of one method are worth.

    Attributes:
        method: its label.
        members: that were averaged; 0 for a single pass without dropout.
        accuracy: in [0, 1].
        nll: in nats.
        ece: expected calibration error, 15 bins.
        auroc: of the outsiders, by score.
    """

    method: str
    members: int
    accuracy: float
    nll: float
    ece: float
    auroc: dict[str, float]


class FashionStudy(Study):
    """Every method, for several numbers of members."""

    name = "fashion"
    config_type = FashionConfig
    config: FashionConfig

    @classmethod
    def quick_config(cls) -> FashionConfig:
        """Two methods, few images."""
        return FashionConfig(methods=("dropout", "Laplace"), epochs=6, tuning=2, train_images=1_000, test_images=300)

    def run(self, out: Path, seed: int, stage: Stage = silent) -> list[Figure]:
        """See the class."""
        generator = torch.Generator().manual_seed(seed)
        clothes, digits = load_fashion_mnist(), load_mnist()
        train = few(as_data(clothes[0]), self.config.train_images, generator)
        test = few(as_data(clothes[1]), self.config.test_images, generator)
        outside, _ = few(as_data(digits[1]), self.config.test_images, generator)
        rows: list[Row] = []
        for contender, posterior in fitted(
            self.contenders(len(train[0])), train, batch_size=self.config.batch_size, seed=seed, stage=stage
        ):
            with one_thread():
                rows += judged(contender, posterior, train, test, outside, seed)
            (out / TABLE_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(rows)))
        draw(out / "fashion.png", rows)
        return figures_of(rows)

    def contenders(self, n_data: int) -> list[ImageContender]:
        """The methods to run."""
        known = contenders(self.config.epochs, self.config.tuning, -(-n_data // self.config.batch_size))
        return choose(self.config.methods, known)


def judged(
    contender: ImageContender, posterior: Posterior, train: Data, test: Data, outside: Tensor, seed: int
) -> list[Row]:
    """One row for each number of members that the posterior has; with dropout, one more for a pass without it."""
    density = density_scores(posterior, train[0], test[0], outside)
    most = min(MEMBERS[-1], posterior.size or MEMBERS[-1])
    numbers = [1] if contender.method == "point" else [n for n in MEMBERS if n < most] + [most]

    def answers(x: Tensor) -> Tensor:
        # The same seed: the same members for clothes and digits.
        return after_trunk(posterior, x, numbers[-1], torch.Generator().manual_seed(seed))

    known, strange = answers(test[0]), answers(outside)
    rows = [_row(contender.label, n, known[:n], strange[:n], test[1], density) for n in numbers]
    if contender.label in _DROPOUT:
        mean = posterior.mean()
        known, strange = posterior.answer(test[0], mean)[None], posterior.answer(outside, mean)[None]
        rows.insert(0, _row(contender.label, 0, known, strange, test[1], density))
    return rows


def density_scores(posterior: Posterior, train: Tensor, test: Tensor, outside: Tensor) -> tuple[Tensor, Tensor]:
    """The feature density's scores of clothes and digits."""
    known, *others = (features_of(posterior.network, x) for x in (train[:_KNOWN_FEATURES], test, outside))
    density = FeatureDensity(known)
    clothes, digits = (density(features) for features in others)
    return clothes, digits


def figures_of(rows: Sequence[Row]) -> list[Figure]:
    """Those with the headline's number of members, or the nearest to it, and what dropout does to the ECE."""
    figures = []
    labels = dict.fromkeys(row.method for row in rows)
    for label in labels:
        own = {row.members: row for row in rows if row.method == label}
        row = own[min(own, key=lambda members: abs(members - HEADLINE))]
        name = f"{label}, {row.members} members" if row.members > 1 else label
        figures += [
            Figure(what=f"{name}: test accuracy, %", values=(100.0 * row.accuracy,), better="higher"),
            Figure(what=f"{name}: test NLL, nats", values=(row.nll,), better="lower"),
            Figure(what=f"{name}: test ECE, %", values=(100.0 * row.ece,), better="lower"),
            *(_auroc(name, label, score, value) for score, value in row.auroc.items()),
        ]
        if 0 in own:
            figures.append(
                Figure(
                    what=f"{name}: test ECE less that of one pass without dropout, points of %",
                    values=(100.0 * (row.ece - own[0].ece),),
                    better="lower",
                    published=0.0,
                    source="no worse than without; above 0, Monte-Carlo dropout worsens the calibration",
                )
            )
    return figures


def draw(path: Path, rows: Sequence[Row]) -> None:
    """Every measure by the number of members."""
    measures: Mapping[str, tuple[str, float]] = {
        "accuracy": ("accuracy, %", 100.0),
        "nll": ("NLL, nats", 1.0),
        "ece": ("ECE, %", 100.0),
    }
    canvas = Canvas(2, 3, panel=(4.6, 3.4))
    for axes, (name, (label, factor)) in zip(canvas.axes, measures.items(), strict=False):
        for method, own in _by_method(rows).items():
            _line(axes, method, [(row.members, factor * getattr(row, name)) for row in own])
        axes.set(ylabel=label)
    for axes, score in zip(canvas.axes[3:], ("total", "epistemic", "density"), strict=True):
        for method, own in _by_method(rows).items():
            _line(axes, method, [(row.members, row.auroc[score]) for row in own if score in row.auroc])
        axes.set(ylabel=f"AUROC of MNIST, {score}")
    for axes in canvas.axes:
        axes.set_xscale("log", base=2)
        axes.set(xlabel="members")
        axes.grid(alpha=0.3)
    canvas.axes[0].legend(fontsize=5)
    canvas.save(path)


def _row(
    method: str, members: int, known: Tensor, strange: Tensor, labels: Tensor, density: tuple[Tensor, Tensor]
) -> Row:
    probabilities = known.double().softmax(-1)
    inside = {**class_scores(probabilities, known), "density": density[0]}
    outside = {**class_scores(strange.double().softmax(-1), strange), "density": density[1]}
    return Row(
        method=method,
        members=members,
        accuracy=accuracy(probabilities, labels),
        nll=nll(probabilities, labels),
        ece=ece(probabilities, labels),
        auroc={score: separation(inside[score], outside[score]).auroc for score in inside},
    )


def _auroc(name: str, label: str, score: str, value: float) -> Figure:
    """The goal is the density's for every method, and the mutual information's for plain dropout."""
    goal = _GOALS.get(score) if score == "density" or label == "dropout" else None
    return Figure(
        what=f"{name}: AUROC of MNIST as outsider by {score}",
        values=(value,),
        better="higher",
        published=goal,
        source="" if goal is None else "our goal" if score == "density" else "a plain dropout CNN of ours",
    )


def _by_method(rows: Sequence[Row]) -> dict[str, list[Row]]:
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        if row.members:
            grouped.setdefault(row.method, []).append(row)
    return grouped


def _line(axes: Any, method: str, points: Sequence[tuple[int, float]]) -> None:
    # A method without points takes its colour all the same, so that it is the same in all panels.
    x, y = zip(*points, strict=True) if points else ((), ())
    axes.plot(x, y, marker=".", linewidth=0.9, label=method)
