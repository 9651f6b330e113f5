"""The active-learning loop: learn, look at the test set, ask for the labels that tell most, and again.

After every round the state is on disk. Each round draws from generators of its own, made from the seed and the number
of labels, so that a run that was killed and started again ends as if nothing had happened.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edge_bdl.errors import InputError
from edge_bdl_train.active.acquisition import ACQUISITIONS, choose_at_random, choose_best
from edge_bdl_train.active.batch_bald import batch_bald
from edge_bdl_train.active.learner import Learner
from edge_bdl_train.active.state import Curve, State, load_state, save_state
from edge_bdl_train.canvas import Canvas
from edge_bdl_train.evaluation.classification import accuracy
from edge_bdl_train.fit import Data
from edge_bdl_train.progress import Stage, silent

BATCH_BALD, RANDOM = "batch_bald", "random"
STRATEGIES = tuple(sorted([*ACQUISITIONS, BATCH_BALD, RANDOM]))


@dataclass(frozen=True, kw_only=True)
class Loop:
    """One run.

    Attributes:
        strategy: how to choose, one of ``STRATEGIES``.
        start: labels that are known at first, as many of each class as of any other, as nearly as can be.
        batch: labels asked for at a time.
        labels: known at the end.
        candidates: examples of the pool, drawn anew each time, among which to choose.
        seed: of everything that is random.
    """

    strategy: str
    start: int = 20
    batch: int = 10
    labels: int = 1_000
    candidates: int = 2_000
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if self.strategy not in STRATEGIES:
            raise InputError(f"there is no strategy {self.strategy!r}: expected one of {', '.join(STRATEGIES)}")
        if not 1 <= self.start <= self.labels or self.batch < 1 or self.candidates < self.batch:
            raise InputError(
                "expected 1 <= start <= labels and 1 <= batch <= candidates, "
                f"got start={self.start}, labels={self.labels}, batch={self.batch}, candidates={self.candidates}"
            )

    @property
    def rounds(self) -> int:
        """How often the learner learns."""
        return 1 + -(-(self.labels - self.start) // self.batch)

    def run(self, learner: Learner, pool: Data, test: Data, path: Path, stage: Stage = silent) -> Curve:
        """Runs to the end, from wherever ``path`` says that it got to.

        Args:
            learner: as it was when the run was first started.
            pool: inputs [N, ...] and classes, int64 [N]; a label is looked at only once it was asked for, but for the
                first ones, which are drawn class by class.
            test: what accuracy is measured on.
            path: keeps the state, and stays when the run is over.
            stage: opens a progress bar.

        Raises:
            InputError: the pool is too small, or ``path`` holds another run.
            CheckpointError: the state cannot be written.
        """
        if len(pool[0]) < self.labels:
            raise InputError(
                f"{self.labels} labels were asked of a pool of {len(pool[0])}: give it more, or ask for less"
            )
        name = self._name(learner, pool, test)
        state = load_state(path, name)
        if state is None:
            state = State(balanced(pool[1], self.start, self._generator("start", 0)), Curve(), learner.state_dict())
        else:
            learner.load_state_dict(state.learner)
        advance = stage(f"labels, {self.strategy}", self.rounds)
        for _ in state.curve.labels:
            advance()
        while len(state.curve.labels) < self.rounds:
            state = self._round(learner, pool, test, state)
            save_state(path, state, name)
            advance()
        return state.curve

    def _round(self, learner: Learner, pool: Data, test: Data, state: State) -> State:
        """Learns, looks, asks."""
        x, y = pool
        known = len(state.chosen)
        learner.learn((x[state.chosen], y[state.chosen]), self._generator("learn", known))
        right = accuracy(learner.probabilities(test[0], self._generator("test", known)), test[1])
        chosen = state.chosen
        count = min(self.batch, self.labels - known)
        if count:
            chosen = torch.cat([chosen, self._ask(learner, x, chosen, count)])
        return State(chosen, state.curve.then(known, right), learner.state_dict())

    def _ask(self, learner: Learner, x: Tensor, known: Tensor, count: int) -> Tensor:
        """Positions in the pool of the next examples to label."""
        generator = self._generator("ask", len(known))
        unknown = torch.ones(len(x), dtype=torch.bool)
        unknown[known] = False
        rest = unknown.nonzero()[:, 0]
        candidates = rest[choose_at_random(len(rest), min(self.candidates, len(rest)), generator)]
        if self.strategy == RANDOM:
            return candidates[:count]
        probabilities = learner.probabilities(x[candidates], generator)
        if self.strategy == BATCH_BALD:
            return candidates[list(batch_bald(probabilities, count, generator).chosen)]
        return candidates[choose_best(ACQUISITIONS[self.strategy](probabilities), count)]

    def _generator(self, purpose: str, known: int) -> torch.Generator:
        """One for each purpose of each round."""
        entropy = [self.seed, known, *purpose.encode()]
        return torch.Generator().manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1))

    def _name(self, learner: Learner, pool: Data, test: Data) -> str:
        """Which run this is: its config, the learner's, and a digest of the data."""
        digest = hashlib.sha256()
        for tensor in (*pool, *test):
            digest.update(repr((tensor.dtype, list(tensor.shape))).encode())
            digest.update(tensor.contiguous().numpy().data)
        return json.dumps(
            {**asdict(self), "learner": learner.settings, "data": digest.hexdigest()[:16]}, sort_keys=True
        )


def balanced(classes: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Positions int64 [count] of which each class has as many as any other, or one more.

    Raises:
        InputError: a class has too few.
    """
    order = torch.randperm(len(classes), generator=generator)
    kinds = classes.unique()
    shares = [count // len(kinds) + (place < count % len(kinds)) for place in range(len(kinds))]
    chosen = []
    for kind, share in zip(kinds, shares, strict=True):
        own = order[classes[order] == kind][:share]
        if len(own) < share:
            raise InputError(f"{share} examples of class {int(kind)} were asked for, there are {len(own)}")
        chosen.append(own)
    return torch.cat(chosen)


def draw(path: Path, curves: Mapping[str, Curve], marks: Mapping[str, float] | None = None) -> None:
    """Learning curves as PNG.

    Args:
        path: of the PNG.
        curves: by their labels.
        marks: accuracies to draw a line at, by what they are called.
    """
    canvas = Canvas(panel=(6.5, 4.5))
    (axes,) = canvas.axes
    for label, curve in curves.items():
        axes.plot(curve.labels, curve.accuracy, marker=".", markersize=3, linewidth=1.0, label=label)
    for label, level in (marks or {}).items():
        axes.axhline(level, color="0.6", linestyle=":", linewidth=0.8)
        axes.annotate(
            label, (1.0, level), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize="small"
        )
    axes.set(xlabel="labelled examples", ylabel="test accuracy")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    canvas.save(path)
