"""Recipe ``coin``: Bayes' rule where it can be written down, and the network methods held against it.

A coin (Beta-Bernoulli), a ruler (a Gaussian mean) and a line (linear regression with Gaussian weights and noise): each
posterior is exact. The methods for networks must find that of the line, as far as their family of posteriors allows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.canvas import Canvas
from edge_bdl_train.data.coin import BetaBernoulli, GaussianMean
from edge_bdl_train.likelihoods.gaussian import Gaussian
from edge_bdl_train.methods import laplace, mean_field, sgmcmc
from edge_bdl_train.optimiser import Optimiser
from edge_bdl_train.posterior import Posterior
from edge_bdl_train.priors.gaussian import Gaussian as GaussianPrior
from edge_bdl_train.progress import Stage, silent
from edge_bdl_train.recipes.fitting import Contender
from edge_bdl_train.recipes.study import Figure, Study

LEVEL = 0.9
_GRID = 20_001
_RULER = GaussianMean(mean=0.0, variance=1.0, noise_variance=0.25)


_NOISE = 0.5
"""Standard deviation of the line's targets; the prior of its weights is N(0, 1)."""
_ROWS, _WEIGHTS = 50, 3


@dataclass(frozen=True, kw_only=True)
class CoinConfig:
    """What the study may vary.

    Attributes:
        coins: coins and rulers drawn from the prior, whose intervals are counted.
        tosses: tosses of each coin, and measurements of each length.
        steps: of every network method's training; the Markov chain takes ten times as many.
    """

    coins: int = 20_000
    tosses: int = 20
    steps: int = 4_000

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if min(self.coins, self.tosses) < 1 or self.steps < 100:
            raise InputError(f"coins and tosses must be at least 1 and steps at least 100, got {self}")


class CoinStudy(Study):
    """Prior, likelihood and posterior; how often an interval holds what it says."""

    name = "coin"
    config_type = CoinConfig
    config: CoinConfig

    @classmethod
    def quick_config(cls) -> CoinConfig:
        """Fewer coins, fewer steps."""
        return CoinConfig(coins=500, steps=200)

    def run(self, out: Path, seed: int, stage: Stage = silent) -> list[Figure]:
        """See the class."""
        rng = np.random.default_rng(seed)
        coins, tosses = self.config.coins, self.config.tosses
        exact = "exact, for the prior is the truth here"
        draw_coin(out / "coin.png", rng)
        draw_ruler(out / "ruler.png", rng)
        return [
            Figure(
                what="coin: share of 90 % intervals that hold the truth",
                values=(coin_coverage(coins, tosses, rng),),
                published=LEVEL,
                source=exact,
            ),
            Figure(
                what="ruler: share of 90 % intervals that hold the truth",
                values=(ruler_coverage(coins, tosses, rng),),
                published=LEVEL,
                source=exact,
            ),
            *self._line_figures(rng, seed, stage),
        ]

    def _line_figures(self, rng: np.random.Generator, seed: int, stage: Stage) -> list[Figure]:
        """How far the methods are from the exact posterior of a line, or from the nearest that they can express."""
        x, y = draw_line(rng)
        exact = line_posterior(x, y)
        diagonal = LinePosterior(exact.mean, torch.diag(1.0 / torch.linalg.inv(exact.covariance).diagonal()))
        figures = []
        for contender, wanted in zip(_contenders(self.config.steps), (diagonal, exact, exact), strict=True):
            posterior = contender.fit(
                lambda _: nn.Sequential(nn.Linear(_WEIGHTS, 1, bias=False)),
                Gaussian(_NOISE),
                (x, y),
                batch_size=_ROWS,
                seed=seed,
                stage=stage,
            )
            found = _moments(posterior, seed)
            spread = wanted.covariance.diagonal().sqrt()
            for what, off in (
                ("mean, in standard deviations", (found.mean - wanted.mean) / spread),
                (
                    "covariance, in products of two",
                    (found.covariance - wanted.covariance) / torch.outer(spread, spread),
                ),
            ):
                figures.append(
                    Figure(
                        what=f"line, {contender.label}: largest error of the posterior's {what}",
                        values=(float(off.abs().max()),),
                        better="lower",
                        published=0.1,
                        source="goal; the exact posterior, of mean field the nearest without correlations",
                    )
                )
        return figures


def coin_coverage(coins: int, tosses: int, rng: np.random.Generator) -> float:
    """Share of coins, drawn from the prior, whose probability lies inside the central 90 % of its posterior."""
    truth = rng.beta(1.0, 1.0, coins)
    heads = rng.binomial(tosses, truth)
    held = 0
    for count in range(tosses + 1):
        # The interval depends on the number of heads alone.
        posterior = BetaBernoulli().given(np.arange(tosses) < count)
        low, high = central_interval(posterior)
        held += int(np.count_nonzero((heads == count) & (truth >= low) & (truth <= high)))
    return held / coins


def ruler_coverage(lengths: int, measurements: int, rng: np.random.Generator) -> float:
    """The same for lengths that a noisy ruler measured."""
    truth = rng.normal(_RULER.mean, math.sqrt(_RULER.variance), lengths)
    noise = rng.normal(0.0, math.sqrt(_RULER.noise_variance), (lengths, measurements))
    half = math.sqrt(2.0) * float(torch.erfinv(torch.tensor(LEVEL, dtype=torch.float64)))
    posteriors = [_RULER.given(row) for row in truth[:, None] + noise]
    off = np.array([abs(value - posterior.mean) for value, posterior in zip(truth, posteriors, strict=True)])
    return float(np.mean(off <= half * math.sqrt(posteriors[0].variance)))


def central_interval(posterior: BetaBernoulli, level: float = LEVEL) -> tuple[float, float]:
    """Where the central part of the posterior's mass lies, by summing its density over a fine grid."""
    grid = (np.arange(_GRID) + 0.5) / _GRID
    mass = np.cumsum(beta_density(posterior, grid)) / _GRID
    low, high = np.searchsorted(mass, [0.5 - 0.5 * level, 0.5 + 0.5 * level])
    return float(grid[low]), float(grid[high])


def beta_density(belief: BetaBernoulli, probability: NDArray[np.float64]) -> NDArray[np.float64]:
    """Density of the probability of heads, at points inside (0, 1)."""
    log_constant = math.lgamma(belief.heads + belief.tails) - math.lgamma(belief.heads) - math.lgamma(belief.tails)
    log_heads, log_tails = np.log(probability), np.log1p(-probability)
    return np.exp(log_constant + (belief.heads - 1.0) * log_heads + (belief.tails - 1.0) * log_tails)


def gaussian_density(mean: float, variance: float, at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Density of a Gaussian."""
    return np.exp(-0.5 * (at - mean) ** 2 / variance) / math.sqrt(2.0 * math.pi * variance)


class LinePosterior(NamedTuple):
    """A Gaussian over the weights of a line; float64 [D] and [D, D]."""

    mean: Tensor
    covariance: Tensor


def draw_line(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Inputs float32 [N, D], correlated, and targets float32 [N, 1] of weights from the prior."""
    mixing = np.eye(_WEIGHTS) + 0.5 * np.eye(_WEIGHTS, k=1)
    x = rng.standard_normal((_ROWS, _WEIGHTS)) @ mixing
    y = x @ rng.standard_normal(_WEIGHTS) + rng.normal(0.0, _NOISE, _ROWS)
    return torch.from_numpy(x).float(), torch.from_numpy(y).float()[:, None]


def line_posterior(x: Tensor, y: Tensor) -> LinePosterior:
    """The exact posterior of linear regression (Bishop, equations 3.53 and 3.54)."""
    inputs, targets = x.double(), y.double()[:, 0]
    covariance = torch.linalg.inv(inputs.T @ inputs / _NOISE**2 + torch.eye(x.shape[1], dtype=torch.float64))
    return LinePosterior(covariance @ inputs.T @ targets / _NOISE**2, covariance)


def _moments(posterior: Posterior, seed: int) -> LinePosterior:
    """In closed form where the posterior has it, else of its members."""
    mean = posterior.mean()["0.weight"][0].double()
    if isinstance(posterior, mean_field.MeanFieldPosterior):
        return LinePosterior(mean, torch.diag(posterior.sigmas["0.weight"][0].double().square()))
    if isinstance(posterior, laplace.LaplacePosterior):
        return LinePosterior(mean, posterior.covariance[0, :, 0])
    members = posterior.sample(torch.Generator().manual_seed(seed), posterior.size or 1_000)
    weights = torch.stack([member["0.weight"][0] for member in members]).double()
    return LinePosterior(weights.mean(0), weights.T.cov())


def _contenders(steps: int) -> tuple[Contender, Contender, Contender]:
    """A variational method, a Laplace approximation and a Markov chain; every step sees all rows."""
    prior = GaussianPrior(1.0)
    adam = Optimiser(learning_rate=3e-2, decay=1e-3 ** (1.0 / steps))
    chain = sgmcmc.Config(prior=prior, learning_rate=1e-2, burn_in=steps, every=4, most=10 * steps)
    return (
        Contender(
            label="mean_field", method="mean_field", config=mean_field.Config(prior=prior, optimiser=adam), epochs=steps
        ),
        Contender(
            label="laplace",
            method="laplace",
            config=laplace.Config(prior=prior, prior_precision=1.0, optimiser=adam),
            epochs=steps,
        ),
        Contender(label="sghmc", method="sgmcmc", config=chain, epochs=10 * steps),
    )


def draw_coin(path: Path, rng: np.random.Generator) -> None:
    """Prior, likelihood and posterior of one coin after 0, 2, 10 and 100 tosses."""
    truth, prior = 0.7, BetaBernoulli(heads=2.0, tails=2.0)
    tosses = rng.random(100) < truth
    grid = np.linspace(0.001, 0.999, 500)
    canvas = Canvas(columns=4)
    for axes, count in zip(canvas.axes, (0, 2, 10, 100), strict=True):
        heads = np.count_nonzero(tosses[:count])
        # As a function of the probability, the likelihood is a Beta density but for a factor.
        likelihood = BetaBernoulli(heads=heads + 1.0, tails=count - heads + 1.0)
        axes.plot(grid, beta_density(prior, grid), "--", label="prior")
        axes.plot(grid, beta_density(likelihood, grid), ":", label="likelihood, scaled")
        axes.plot(grid, beta_density(prior.given(tosses[:count]), grid), label="posterior")
        axes.axvline(truth, color="black", linewidth=0.5)
        axes.set(title=f"{heads} heads in {count} tosses", xlabel="probability of heads")
    canvas.axes[0].legend()
    canvas.save(path)


def draw_ruler(path: Path, rng: np.random.Generator) -> None:
    """Prior, likelihood and posterior of one length after 1, 5 and 25 measurements."""
    truth = 0.8
    measured = rng.normal(truth, math.sqrt(_RULER.noise_variance), 25)
    grid = np.linspace(-2.5, 2.5, 500)
    canvas = Canvas(columns=3)
    for axes, count in zip(canvas.axes, (1, 5, 25), strict=True):
        seen = measured[:count]
        posterior = _RULER.given(seen)
        axes.plot(grid, gaussian_density(_RULER.mean, _RULER.variance, grid), "--", label="prior")
        axes.plot(
            grid, gaussian_density(seen.mean(), _RULER.noise_variance / count, grid), ":", label="likelihood, scaled"
        )
        axes.plot(grid, gaussian_density(posterior.mean, posterior.variance, grid), label="posterior")
        axes.axvline(truth, color="black", linewidth=0.5)
        axes.set(title=f"{count} measurements", xlabel="length")
    canvas.axes[0].legend()
    canvas.save(path)
