"""Recipe ``small-data``: what is a posterior worth when there is little to learn from?

From 50 to 5,000 training images of Fashion-MNIST, every method against the point estimate: negative log-likelihood and
accuracy on the test set. All methods take about as many steps of the optimiser whatever the number of images is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from edge_bdl.errors import InputError
from edge_bdl_train.active.loop import balanced
from edge_bdl_train.canvas import Canvas
from edge_bdl_train.data.fashion_mnist import load_fashion_mnist
from edge_bdl_train.evaluation.classification import accuracy, nll
from edge_bdl_train.fit import Data
from edge_bdl_train.posterior import Posterior
from edge_bdl_train.progress import Stage, silent
from edge_bdl_train.recipes.image_methods import POINT, ImageContender, choose, contenders, fitted
from edge_bdl_train.recipes.images import after_trunk, as_data, few
from edge_bdl_train.recipes.study import Figure, Study
from edge_bdl_train.threads import one_thread

TABLE_FILE = "by_images.json"


@dataclass(frozen=True, kw_only=True)
class SmallDataConfig:
    """What the study may vary.

    Attributes:
        sizes: numbers of training images, as many of each class as of any other; smaller ones are part of larger ones.
        methods: labels of those to run beside the point estimate; all of them when empty.
        steps: of the optimiser from random weights, at least; a third of that from the point estimate.
        batch_size: rows a step, at most.
        members: draws from each posterior, as far as it has so many.
        test_images: drawn from the test set; None for all.
    """

    sizes: tuple[int, ...] = (50, 150, 500, 1_500, 5_000)
    methods: tuple[str, ...] = ()
    steps: int = 600
    batch_size: int = 64
    members: int = 16
    test_images: int | None = None

    def __post_init__(self) -> None:
        """Checks the ranges and names."""
        if not self.sizes or min(*self.sizes, self.steps, self.batch_size, self.members, self.test_images or 1) < 1:
            raise InputError(f"sizes must be given, and all numbers be at least 1, got {self}")
        known = [each.label for each in contenders(1, 2, 1)]
        if unknown := set(self.methods) - set(known):
            raise InputError(f"there is no method {', '.join(sorted(unknown))}: expected of {', '.join(known)}")


class Point(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One method after so many images.

    Attributes:
        method: its label.
        images: in the training set.
        accuracy: in [0, 1].
        nll: in nats.
    """

    method: str
    images: int
    accuracy: float
    nll: float


class SmallDataStudy(Study):
    """Every method, for several numbers of training images."""

    name = "small-data"
    config_type = SmallDataConfig
    config: SmallDataConfig

    @classmethod
    def quick_config(cls) -> SmallDataConfig:
        """Two methods, two sizes."""
        return SmallDataConfig(sizes=(50, 200), methods=("dropout", "Laplace"), steps=30, members=4, test_images=300)

    def run(self, out: Path, seed: int, stage: Stage = silent) -> list[Figure]:
        """See the class."""
        generator = torch.Generator().manual_seed(seed)
        train, test = (as_data(part) for part in load_fashion_mnist())
        test = few(test, self.config.test_images, generator)
        points: list[Point] = []
        for size in sorted(self.config.sizes):
            # The same seed, and so the smaller set's images among the larger one's.
            rows = balanced(train[1], size, torch.Generator().manual_seed(seed))
            data = (train[0][rows], train[1][rows])
            for contender, posterior in fitted(
                self.contenders(size), data, batch_size=self.config.batch_size, seed=seed, stage=stage
            ):
                with one_thread():
                    points.append(self._judged(contender, posterior, size, test, seed))
                (out / TABLE_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(points)))
        draw(out / "small_data.png", points)
        return figures_of(points)

    def contenders(self, n_data: int) -> list[ImageContender]:
        """The methods to run, with as many epochs as the steps take."""
        steps = -(-n_data // self.config.batch_size)
        epochs = max(2, -(-self.config.steps // steps))
        return choose(self.config.methods, contenders(epochs, max(2, -(-epochs // 3)), steps))

    def _judged(self, contender: ImageContender, posterior: Posterior, size: int, test: Data, seed: int) -> Point:
        members = 1 if contender.label == POINT else min(self.config.members, posterior.size or self.config.members)
        logits = after_trunk(posterior, test[0], members, torch.Generator().manual_seed(seed))
        probabilities = logits.double().softmax(-1)
        return Point(
            method=contender.label,
            images=size,
            accuracy=accuracy(probabilities, test[1]),
            nll=nll(probabilities, test[1]),
        )


def figures_of(points: Sequence[Point]) -> list[Figure]:
    """NLL and accuracy of every method and size; the NLL beside the point estimate's of the same images."""
    alone = {point.images: point for point in points if point.method == POINT}
    figures = []
    for point in points:
        figures += [
            Figure(
                what=f"{point.method}: test NLL after {point.images} images, nats",
                values=(point.nll,),
                better="lower",
            ),
            Figure(
                what=f"{point.method}: test accuracy after {point.images} images, %",
                values=(100.0 * point.accuracy,),
                better="higher",
            ),
        ]
        if point.method != POINT:
            figures.append(
                Figure(
                    what=f"{point.method}: test NLL less the point estimate's after {point.images} images, nats",
                    values=(point.nll - alone[point.images].nll,),
                    better="lower",
                    published=0.0,
                    source="no worse than the point estimate",
                )
            )
    return figures


def draw(path: Path, points: Sequence[Point]) -> None:
    """NLL and accuracy by the number of images."""
    canvas = Canvas(1, 2, panel=(5.2, 4.2))
    lines: Mapping[str, list[Point]] = {
        method: [point for point in points if point.method == method]
        for method in dict.fromkeys(p.method for p in points)
    }
    for method, own in lines.items():
        style = {"color": "black", "linewidth": 2.0} if method == POINT else {"linewidth": 1.0}
        images = [point.images for point in own]
        canvas.axes[0].plot(images, [point.nll for point in own], marker=".", label=method, **style)
        canvas.axes[1].plot(images, [100.0 * point.accuracy for point in own], marker=".", label=method, **style)
    for axes, label in zip(canvas.axes, ("test NLL, nats", "test accuracy, %"), strict=True):
        axes.set(xlabel="training images", ylabel=label)
        axes.set_xscale("log")
        axes.grid(alpha=0.3)
    canvas.axes[0].set_yscale("log")
    canvas.axes[0].legend(fontsize=6)
    canvas.save(path)
