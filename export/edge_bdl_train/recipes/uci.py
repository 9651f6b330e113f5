"""Recipe ``uci``: test error and log-likelihood on seven regression sets, the first table of every paper since 2015.

The protocol is that of Hernandez-Lobato and Adams 2015 and Gal and Ghahramani 2016: one hidden layer of 50 units,
inputs and targets normalised by the training rows, ten of the twenty standard splits (a tenth of the rows to test on).
The dropout rate and the precision tau of the noise are those with the largest log-likelihood on a fifth of the training
rows that was left out; then the network is trained again on all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.canvas import Canvas
from edge_bdl_train.data.uci import SETS, RegressionSet, load_uci, uci_folder
from edge_bdl_train.fit import Data
from edge_bdl_train.kl_schedules import LinearWarmUp
from edge_bdl_train.likelihoods.gaussian import Gaussian, HeteroscedasticGaussian
from edge_bdl_train.methods import dropout, ensemble, laplace, mean_field, point
from edge_bdl_train.optimiser import Optimiser
from edge_bdl_train.posterior import Posterior
from edge_bdl_train.priors.gaussian import Gaussian as GaussianPrior
from edge_bdl_train.progress import Advance, Stage, silent
from edge_bdl_train.recipes.fitting import Contender
from edge_bdl_train.recipes.side_by_side import NetworksSideBySide, NoisyNetworksSideBySide
from edge_bdl_train.recipes.study import Figure, Study

HIDDEN = 50
BATCH = 128
RATES = (0.005, 0.01, 0.05, 0.1)
_VALIDATION_SHARE = 0.2


class Training(NamedTuple):
    """How long a set's networks are trained, and Adam's learning rate at the beginning and at the end."""

    epochs: int
    first_rate: float
    last_rate: float


TRAINING: Mapping[str, Training] = {
    "boston": Training(1000, 3e-3, 3e-4),
    "concrete": Training(1000, 1e-2, 1e-4),
    "energy": Training(1000, 1e-2, 1e-4),
    "kin8nm": Training(100, 1e-2, 1e-4),
    "power": Training(200, 1e-2, 1e-4),
    "wine": Training(2000, 3e-3, 3e-4),
    "yacht": Training(1000, 1e-2, 1e-4),
}


class Published(NamedTuple):
    """Root mean squared error and log-likelihood, in the target's units."""

    rmse: Mapping[str, float]
    log_likelihood: Mapping[str, float]
    source: str


_GAL = Published(
    {"boston": 2.97, "concrete": 5.23, "energy": 1.66, "kin8nm": 0.10, "power": 4.02, "wine": 0.62, "yacht": 1.11},
    {
        "boston": -2.46,
        "concrete": -3.04,
        "energy": -1.99,
        "kin8nm": 0.95,
        "power": -2.80,
        "wine": -0.93,
        "yacht": -1.55,
    },
    "dropout, Gal and Ghahramani 2016, table 1",
)
_ENSEMBLE = Published(
    {"boston": 3.28, "concrete": 6.03, "energy": 2.09, "kin8nm": 0.09, "power": 4.11, "wine": 0.64, "yacht": 1.58},
    {
        "boston": -2.41,
        "concrete": -3.06,
        "energy": -1.38,
        "kin8nm": 1.20,
        "power": -2.79,
        "wine": -0.94,
        "yacht": -1.18,
    },
    "ensemble of 5, Lakshminarayanan et al. 2017, table 1",
)
PUBLISHED: Mapping[str, Published] = {"dropout": _GAL, "mean_field": _GAL, "ensemble": _ENSEMBLE, "laplace": _GAL}
CHOICES: Mapping[str, tuple[float, ...]] = {
    "dropout": RATES,
    "mean_field": (1.0,),
    "ensemble": (5,),
    "laplace": (0.05, 0.1, 0.2, 0.3, 0.5, 0.8),
}
"""What is chosen by the rows left out, if anything: the dropout rate; the prior's scale; the number of networks; the
standard deviation of the noise around which Laplace's curvature is taken, in standard deviations of the target."""
LAPLACE_PRIORS = (None, 1.0, 0.4)
"""Standard deviations of the weights' prior among which Laplace's point estimate is chosen as well; None for none."""

# Of mean field. With wide weights and the whole KL divergence from the first step, most hidden units fall back to the
# prior before the noise has been learned, and do not return: with a quarter of its epochs energy keeps 6 of 50, with
# these settings 12.
_FIRST_SIGMA = 0.01
_WARM_UP_SHARE = 0.5
"""Of the training's epochs."""

_PRECISIONS = torch.logspace(-1.0, 4.0, 60)
_DIFFERS = (
    "splits 0-9 of 20; trained longer; rate and tau chosen on one fifth of the training rows, tau from a grid of 60"
)


@dataclass(frozen=True, kw_only=True)
class UciConfig:
    """What the study may vary.

    Attributes:
        sets: names of the sets.
        methods: dropout, mean_field, ensemble or laplace.
        splits: how many of the splits.
        shorten: training is this many times shorter than it should be.
        members: draws from a posterior, as far as it has so many.
    """

    sets: tuple[str, ...] = tuple(SETS)
    methods: tuple[str, ...] = ("dropout", "mean_field", "ensemble", "laplace")
    splits: int = 10
    shorten: int = 1
    members: int = 500

    def __post_init__(self) -> None:
        """Checks names and ranges."""
        if unknown := (set(self.sets) - set(SETS)) | (set(self.methods) - set(CHOICES)):
            raise InputError(f"there is no {', '.join(sorted(unknown))}: expected of {', '.join([*SETS, *CHOICES])}")
        if min(self.splits, self.shorten, self.members) < 1:
            raise InputError(f"splits, shorten and members must be at least 1, got {self}")


class Rows(NamedTuple):
    """Normalised rows of every split, and what it takes to turn targets back.

    Attributes:
        x: float32 [N, splits, D].
        y: float32 [N, splits].
        scale: float32 [splits], of the targets, in their own units.
    """

    x: Tensor
    y: Tensor
    scale: Tensor

    def of(self, split: int) -> Data:
        """One split's inputs [N, D] and targets [N, 1]."""
        return self.x[:, split].contiguous(), self.y[:, split, None].contiguous()


class Score(NamedTuple):
    """Root mean squared error and mean log-likelihood of test rows, in the target's units; of each split."""

    rmse: Tensor
    log_likelihood: Tensor


class UciStudy(Study):
    """Dropout, variational inference, a deep ensemble and Laplace on the same splits."""

    name = "uci"
    config_type = UciConfig
    config: UciConfig
    reads_data = True

    @classmethod
    def quick_config(cls) -> UciConfig:
        """The smallest set, hardly trained."""
        return UciConfig(sets=("yacht",), splits=2, shorten=20, members=20)

    def run(self, out: Path, seed: int, stage: Stage = silent) -> list[Figure]:
        """See the class."""
        folder = uci_folder(self.data)
        figures = []
        for name in self.config.sets:
            data = load_uci(name, folder)
            if len(data.splits) < self.config.splits:
                raise InputError(f"{folder} has {len(data.splits)} splits of {name}, expected {self.config.splits}")
            for method in self.config.methods:
                advance = stage(f"{name}, {method}", 2)
                figures += _figures(name, method, self.score(data, method, seed, advance))
        draw(out / "uci.png", figures)
        return figures

    def score(self, data: RegressionSet, method: str, seed: int, advance: Advance = lambda: None) -> Score:
        """One method on every split: choose by the rows left out, train on all, test."""
        splits = data.splits[: self.config.splits]
        kept = [round((1.0 - _VALIDATION_SHARE) * len(train)) for train, _ in splits]
        learn, check = normalised(
            data, [(train[:count], train[count:]) for count, (train, _) in zip(kept, splits, strict=True)]
        )
        tried = [best_precision(outputs, check) for outputs in self._answers(method, data.name, learn, check, seed)]
        advance()
        chosen = torch.stack([value for _, value in tried]).argmax(0)
        precision = torch.stack([precision for precision, _ in tried]).gather(0, chosen[None])[0]
        learn, check = normalised(data, splits)
        answers = self._answers(method, data.name, learn, check, seed)
        # Every choice is trained for every split, and each split's own is taken: side by side that is the cheapest way.
        scores = [score_of(outputs, check, precision) for outputs in answers]
        advance()
        rmse, log_density = (torch.stack(parts).gather(0, chosen[None])[0] for parts in zip(*scores, strict=True))
        return Score(rmse, log_density)

    def _answers(self, method: str, name: str, learn: Rows, check: Rows, seed: int) -> Iterator[Tensor]:
        """What the posterior of each choice says of the rows to check on, [members, N, splits]."""
        adam = self._adam(name)
        if method == "dropout":
            for rate in CHOICES[method]:
                yield self._side_by_side(dropout.Config(optimiser=adam), method, name, learn, check, seed, rate)[1]
        elif method == "ensemble":
            for members in CHOICES[method]:
                config = ensemble.Config(members=int(members), optimiser=adam)
                yield self._side_by_side(config, method, name, learn, check, seed)[1]
        elif method == "laplace":
            for scale in LAPLACE_PRIORS:
                config = point.Config(prior=None if scale is None else GaussianPrior(scale), optimiser=adam)
                trained, _ = self._side_by_side(config, "point", name, learn, check, seed)
                for noise in CHOICES[method]:
                    yield self._laplace(trained.network, noise, learn, check, seed)
        else:
            for scale in CHOICES[method]:
                yield self._mean_field(GaussianPrior(scale), name, learn, check, seed)

    def _side_by_side(
        self, config: object, method: str, name: str, learn: Rows, check: Rows, seed: int, rate: float = 0.0
    ) -> tuple[Posterior, Tensor]:
        """All splits as one network, trained by least squares."""
        _, splits, inputs = learn.x.shape

        def build(rate: float) -> nn.Module:
            return NetworksSideBySide(splits, inputs, HIDDEN, rate)

        contender = Contender(label=method, method=method, config=config, dropout=rate, epochs=self._epochs(name))
        posterior = contender.fit(build, Gaussian(1.0), (learn.x, learn.y), batch_size=BATCH, seed=seed)
        return posterior, self._ask(posterior, check.x, seed)

    def _laplace(self, trained: nn.Module, noise: float, learn: Rows, check: Rows, seed: int) -> Tensor:
        """The last layer's posterior of each split, around weights that were trained before."""
        around = Contender(label="laplace", method="laplace", config=laplace.Config(), epochs=0)

        def answers(split: int) -> Tensor:
            data = learn.of(split)
            posterior = around.fit(
                lambda _: trained.alone(split), Gaussian(noise), data, batch_size=len(data[0]), seed=seed
            )
            return self._ask(posterior, check.of(split)[0], seed)[..., 0]

        return torch.stack([answers(split) for split in range(learn.x.shape[1])], -1)

    def _mean_field(self, prior: GaussianPrior, name: str, learn: Rows, check: Rows, seed: int) -> Tensor:
        """All splits as one network, each learning its noise as well, for that is weighed against the prior."""
        _, splits, inputs = learn.x.shape
        config = mean_field.Config(
            layers=NoisyNetworksSideBySide.LAYERS,
            prior=prior,
            sigma=_FIRST_SIGMA,
            kl_factor=LinearWarmUp(_WARM_UP_SHARE * self._epochs(name)),
            optimiser=self._adam(name),
        )
        contender = Contender(label="mean_field", method="mean_field", config=config, epochs=self._epochs(name))
        posterior = contender.fit(
            lambda _: NoisyNetworksSideBySide(splits, inputs, HIDDEN),
            HeteroscedasticGaussian(),
            (learn.x, learn.y),
            batch_size=BATCH,
            seed=seed,
        )
        return self._ask(posterior, check.x, seed)[..., :splits]

    def _epochs(self, name: str) -> int:
        return math.ceil(TRAINING[name].epochs / self.config.shorten)

    def _adam(self, name: str) -> Optimiser:
        _, first, last = TRAINING[name]
        return Optimiser(learning_rate=first, decay=(last / first) ** (1.0 / self._epochs(name)))

    def _ask(self, posterior: Posterior, x: Tensor, seed: int) -> Tensor:
        count = min(self.config.members, posterior.size or self.config.members)
        return posterior.predict(x, count, torch.Generator().manual_seed(seed))


def normalised(data: RegressionSet, splits: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> tuple[Rows, Rows]:
    """Rows to learn from and rows to check on, of each split, by the mean and standard deviation of the former.

    Raises:
        InputError: the splits are not equally large.
    """
    if len({(len(learn), len(check)) for learn, check in splits}) != 1:
        raise InputError(f"the splits of {data.name} must be equally large, to be trained side by side")
    learn, check = [], []
    for train, test in splits:
        x, y = data.features[train], data.targets[train]
        spread = x.std(0)
        spread[spread == 0.0] = 1.0
        for rows, part in ((train, learn), (test, check)):
            inputs, targets = data.features[rows], data.targets[rows]
            part.append(((inputs - x.mean(0)) / spread, (targets - y.mean()) / y.std(), y.std()))

    def rows(parts: list[tuple[NDArray[np.float64], NDArray[np.float64], float]]) -> Rows:
        x, y, scale = (torch.from_numpy(np.array(column)).float() for column in zip(*parts, strict=True))
        return Rows(x.transpose(0, 1).contiguous(), y.T.contiguous(), scale)

    return rows(learn), rows(check)


def log_likelihood(outputs: Tensor, check: Rows, precision: Tensor) -> Tensor:
    """Mean log-likelihood of the rows of each split, in nats and the target's own units.

    Gal and Ghahramani 2016, equation 8 of the appendix: the average of Gaussians around the members' answers.

    Args:
        outputs: [S, N, splits], the members' answers.
        check: N rows.
        precision: tau, of normalised targets: a scalar or [splits].

    Returns:
        [splits].
    """
    log_density = 0.5 * (torch.log(precision) - math.log(2.0 * math.pi) - precision * (check.y - outputs) ** 2)
    return (torch.logsumexp(log_density, 0) - math.log(len(outputs)) - torch.log(check.scale)).mean(0)


def best_precision(outputs: Tensor, check: Rows) -> tuple[Tensor, Tensor]:
    """The precision of the grid with the largest log-likelihood, and that log-likelihood; [splits] each."""
    values = torch.stack([log_likelihood(outputs, check, precision) for precision in _PRECISIONS])
    best = values.max(0)
    return _PRECISIONS[best.indices], best.values


def score_of(outputs: Tensor, check: Rows, precision: Tensor) -> Score:
    """Both figures of test rows, under a precision for each split."""
    rmse = check.scale * (outputs.mean(0) - check.y).square().mean(0).sqrt()
    return Score(rmse, log_likelihood(outputs, check, precision))


def draw(path: Path, figures: Sequence[Figure]) -> None:
    """Every figure of every set as a bar with its standard error, the published dropout figure as a line."""
    names = list(dict.fromkeys(figure.what.split(",")[0] for figure in figures))
    canvas = Canvas(len(names), 2)
    for row, name in enumerate(names):
        for column, what in enumerate(("RMSE", "log-likelihood")):
            axes = canvas.axes[2 * row + column]
            shown = [each for each in figures if each.what.startswith(f"{name},") and each.what.endswith(what)]
            labels = [each.what.split(", ")[1] for each in shown]
            errors = [each.standard_error or 0.0 for each in shown]
            axes.errorbar(labels, [each.mean for each in shown], errors, fmt="o")
            axes.axhline((_GAL.rmse if what == "RMSE" else _GAL.log_likelihood)[name], linestyle=":")
            axes.set(title=f"{name}: {what}")
    canvas.save(path)


def _figures(name: str, method: str, score: Score) -> list[Figure]:
    published = PUBLISHED[method]
    differs = f"another method; {_DIFFERS}" if published is _GAL and method != "dropout" else _DIFFERS
    return [
        Figure(
            what=f"{name}, {method}, RMSE",
            values=tuple(score.rmse.tolist()),
            better="lower",
            published=published.rmse[name],
            source=published.source,
            differs=differs,
        ),
        Figure(
            what=f"{name}, {method}, log-likelihood",
            values=tuple(score.log_likelihood.tolist()),
            better="higher",
            published=published.log_likelihood[name],
            source=published.source,
            differs=differs,
        ),
    ]
