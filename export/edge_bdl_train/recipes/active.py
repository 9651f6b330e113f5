"""Recipe ``active``: how many labels do digits take, if the network may choose which?

Gal et al. 2017 (arXiv 1703.02910, section 5): 20 labels of MNIST, two of each digit, then 10 at a time; a convolutional
network with dropout, whose members' disagreement says which to ask for. Against it, asking at random.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from edge_bdl.errors import InputError
from edge_bdl_train.active.learner import Lesson, NetworkLearner
from edge_bdl_train.active.loop import STRATEGIES, Loop, draw
from edge_bdl_train.active.state import Curve
from edge_bdl_train.data.idx import CLASSES
from edge_bdl_train.data.mnist import load_mnist
from edge_bdl_train.methods import dropout
from edge_bdl_train.priors.gaussian import Gaussian as GaussianPrior
from edge_bdl_train.progress import Stage, silent
from edge_bdl_train.recipes.base import seeded
from edge_bdl_train.recipes.images import after_trunk, as_data, lenet
from edge_bdl_train.recipes.study import Figure, Study
from edge_bdl_train.threads import one_thread

START, BATCH, MOST, GOAL = 20, 10, 1_000, 0.98
LEVELS = (0.9, 0.95)
_SOURCE = "Gal et al. 2017, table 1"
# Labels to the two levels.
PUBLISHED: Mapping[str, tuple[int, int]] = {
    "bald": (145, 335),
    "random": (255, 835),
}


@dataclass(frozen=True, kw_only=True)
class ActiveConfig:
    """What the study may vary.

    Attributes:
        strategies: ways to choose, of ``STRATEGIES``.
        labels: at the end.
        candidates: images of the pool, drawn anew each time, among which to choose.
        first_steps: of the optimiser, before the first question.
        steps: after each answer, from where the last training ended.
        members: that predict, for choosing and for the test set.
        test_images: of the test set, the first so many.
    """

    strategies: tuple[str, ...] = ("bald", "random")
    labels: int = MOST
    candidates: int = 2_000
    first_steps: int = 200
    steps: int = 100
    members: int = 20
    test_images: int = 10_000

    def __post_init__(self) -> None:
        """Checks that there is something to do; the loop checks the rest."""
        if not self.strategies or not 1 <= self.test_images <= 10_000:
            raise InputError(
                f"expected strategies of {', '.join(STRATEGIES)} and 1 to 10000 test images, "
                f"got {self.strategies} and {self.test_images}"
            )


class ActiveStudy(Study):
    """The same network and the same first labels, asked by several strategies.

    A killed run goes on where it was if it is started again with the same folder: each strategy keeps its state there.
    """

    name = "active"
    config_type = ActiveConfig
    config: ActiveConfig

    @classmethod
    def quick_config(cls) -> ActiveConfig:
        """Three questions."""
        return ActiveConfig(labels=50, candidates=200, first_steps=20, steps=5, members=4, test_images=500)

    def run(self, out: Path, seed: int, stage: Stage = silent) -> list[Figure]:
        """See the class."""
        train, test = load_mnist()
        pool, held_out = as_data(train), as_data(test)
        few = (held_out[0][: self.config.test_images], held_out[1][: self.config.test_images])
        curves = {}
        for strategy in self.config.strategies:
            loop = Loop(
                strategy=strategy,
                start=START,
                batch=BATCH,
                labels=self.config.labels,
                candidates=self.config.candidates,
                seed=seed,
            )
            with one_thread():
                curves[strategy] = loop.run(self.learner(seed), pool, few, out / f"{strategy}.state", stage)
        draw(out / "active.png", curves, {f"{level:.0%}": level for level in (*LEVELS, GOAL)})
        return [figure for strategy, curve in curves.items() for figure in self._figures(strategy, curve)]

    def learner(self, seed: int) -> NetworkLearner:
        """The untrained network and how it learns."""
        lesson = Lesson(
            method="dropout",
            config=dropout.Config(prior=GaussianPrior(1.0)),
            classes=CLASSES,
            first_steps=self.config.first_steps,
            steps=self.config.steps,
            members=self.config.members,
        )
        return NetworkLearner(seeded(seed, network), lesson, after_trunk)

    def _figures(self, strategy: str, curve: Curve) -> list[Figure]:
        never = curve.labels[-1] + BATCH
        differs = (
            f"a pooling more in the network; chooses among {self.config.candidates} of the pool drawn anew each time; "
            f"goes on training from round to round; {self.config.members} members; "
            f"a run that never gets there counts as {never}"
        )
        published = (*PUBLISHED.get(strategy, (None, None)), None)
        return [
            *(
                Figure(
                    what=f"{strategy}: labels to {level:.0%} test accuracy",
                    values=(curve.labels_to(level) or never,),
                    better="lower",
                    published=theirs,
                    source="" if theirs is None else _SOURCE,
                    differs=differs,
                )
                for level, theirs in zip((*LEVELS, GOAL), published, strict=True)
            ),
            Figure(
                what=f"{strategy}: test accuracy with {curve.labels[-1]} labels, %",
                values=(100.0 * curve.accuracy[-1],),
                better="higher",
                published=100.0 * GOAL if strategy == "bald" else None,
                source="our goal with at most 1,000 labels",
                differs=differs,
            ),
        ]


def network() -> nn.Sequential:
    """The paper's parts: convolutions, dropout of 0.25, a hidden layer, dropout of 0.5.

    It pools after either convolution where the paper's pools once: a third of the work.
    """
    return lenet((0.25, 0.5), channels=(32, 64))
