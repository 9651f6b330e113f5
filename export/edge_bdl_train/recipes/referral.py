"""Recipe ``referral``: a classifier that hands the cases it is least sure of to a person.

Breast cancer (Wisconsin), malignant or benign, five-fold cross-validation: every biopsy is judged once by a network
that has not seen it. The fifth with the largest predictive entropy is referred; what remains should hold fewer errors.
After Leibig et al. 2017, "Leveraging uncertainty information from deep neural networks for disease detection", who
referred fundus images.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.canvas import Canvas
from edge_bdl_train.data.breast_cancer import Biopsies, load_breast_cancer
from edge_bdl_train.evaluation.scores import decompose_classes
from edge_bdl_train.likelihoods.categorical import Categorical
from edge_bdl_train.methods import dropout, ensemble, laplace, mean_field, point
from edge_bdl_train.optimiser import Optimiser
from edge_bdl_train.progress import Stage, silent
from edge_bdl_train.recipes.fitting import Contender, mlp
from edge_bdl_train.recipes.study import Figure, Study

_BATCH = 64
_HIDDEN = 50


@dataclass(frozen=True, kw_only=True)
class ReferralConfig:
    """What the study may vary.

    Attributes:
        referred: share of the cases that a person gets.
        folds: parts, each judged by a network that learned from the others.
        epochs: of training.
        members: draws from each posterior, as far as it has so many.
        methods: to be compared.
    """

    referred: float = 0.2
    folds: int = 5
    epochs: int = 60
    members: int = 100
    methods: tuple[str, ...] = ("point", "dropout", "ensemble", "mean_field", "laplace")

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if not 0.0 < self.referred < 1.0 or self.folds < 2 or min(self.epochs, self.members) < 1:
            raise InputError(f"referred is a share, folds at least 2, epochs and members at least 1, got {self}")
        if unknown := set(self.methods) - set(_contenders(1)):
            raise InputError(
                f"there is no method {', '.join(sorted(unknown))}: expected of {', '.join(_contenders(1))}"
            )


class Judged(NamedTuple):
    """What a method said of every case.

    Attributes:
        wrong: bool [N].
        uncertainty: predictive entropy in nats, float64 [N].
    """

    wrong: NDArray[np.bool_]
    uncertainty: NDArray[np.float64]

    def error(self, referred: float = 0.0) -> float:
        """Per cent of errors among the cases that are left when this share, the least certain, is referred."""
        kept = len(self.wrong) - round(referred * len(self.wrong))
        return 100.0 * float(self.wrong[np.argsort(self.uncertainty, kind="stable")[:kept]].mean())


class ReferralStudy(Study):
    """Error before and after referral, for several methods."""

    name = "referral"
    config_type = ReferralConfig
    config: ReferralConfig

    @classmethod
    def quick_config(cls) -> ReferralConfig:
        """Two methods, two folds."""
        return ReferralConfig(folds=2, epochs=15, members=20, methods=("point", "dropout"))

    def run(self, out: Path, seed: int, stage: Stage = silent) -> list[Figure]:
        """See the class."""
        data = load_breast_cancer()
        judged = {label: self.judge(label, data, seed, stage) for label in self.config.methods}
        draw(out / "referral.png", judged)
        share = self.config.referred
        return [
            Figure(what=f"{label}: error {what}, %", values=(value,))
            for label, verdicts in judged.items()
            for what, value in (
                ("of all cases", verdicts.error()),
                (f"with the least certain {share:.0%} referred", verdicts.error(share)),
            )
        ]

    def judge(self, label: str, data: Biopsies, seed: int, stage: Stage = silent) -> Judged:
        """One method on every fold; the folds are drawn from the seed and so are the same for all methods."""
        parts = np.array_split(np.random.default_rng(seed).permutation(len(data.labels)), self.config.folds)
        classes = np.empty(len(data.labels), np.int64)
        uncertainty = np.empty(len(data.labels))
        for part in parts:
            answers = self._answers(label, data, np.setdiff1d(np.concatenate(parts), part), part, seed, stage)
            classes[part] = answers.mean(0).argmax(1).numpy()
            uncertainty[part] = decompose_classes(answers, unbiased=False).total
        return Judged(classes != data.labels, uncertainty)

    def _answers(
        self, label: str, data: Biopsies, train: NDArray[np.int64], test: NDArray[np.int64], seed: int, stage: Stage
    ) -> Tensor:
        """Class probabilities, float64 [members, N, 2]."""
        mean, spread = data.features[train].mean(0), data.features[train].std(0)
        x = torch.from_numpy((data.features - mean) / spread).float()
        contender = _contenders(self.config.epochs)[label]
        learned = x[train], torch.from_numpy(data.labels[train])
        posterior = contender.fit(_network, Categorical(2), learned, batch_size=_BATCH, seed=seed, stage=stage)
        members = min(self.config.members, posterior.size or self.config.members)
        logits = posterior.predict(x[test], members, torch.Generator().manual_seed(seed))
        return torch.softmax(logits.double(), -1)


def draw(path: Path, judged: dict[str, Judged]) -> None:
    """Error of what is left against the share that is referred."""
    canvas = Canvas(panel=(5.0, 4.0))
    shares = np.linspace(0.0, 0.5, 51)
    for label, verdicts in judged.items():
        canvas.axes[0].plot(100.0 * shares, [verdicts.error(share) for share in shares], label=label)
    canvas.axes[0].set(xlabel="referred, %", ylabel="error of the rest, %")
    canvas.axes[0].legend()
    canvas.save(path)


def _network(rate: float) -> nn.Module:
    return mlp((30, _HIDDEN, 2), rate)


def _contenders(epochs: int) -> dict[str, Contender]:
    adam = Optimiser(learning_rate=3e-3)
    configs = {
        "point": point.Config(optimiser=adam),
        "dropout": dropout.Config(optimiser=adam),
        "ensemble": ensemble.Config(members=5, optimiser=adam),
        "mean_field": mean_field.Config(optimiser=adam),
        "laplace": laplace.Config(optimiser=adam),
    }
    return {
        label: Contender(
            label=label, method=label, config=config, dropout=0.3 if label == "dropout" else 0.0, epochs=epochs
        )
        for label, config in configs.items()
    }
