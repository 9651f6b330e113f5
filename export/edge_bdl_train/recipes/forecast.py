"""Recipe ``forecast``: do a network's 90 % intervals hold 90 % of what comes?

An LSTM states mean and variance of the next value. Two series: a synthetic one, whose noise is known to be six times
larger at noon than at night, and Seattle's daily highest temperature, trained on 2012 to 2014 and judged by 2015.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.canvas import Canvas
from edge_bdl_train.data.series import PERIOD, synthetic_series, windows
from edge_bdl_train.data.weather import load_weather
from edge_bdl_train.evaluation.intervals import Interval, coverage, gaussian_interval, sharpness
from edge_bdl_train.likelihoods.gaussian import HeteroscedasticGaussian
from edge_bdl_train.methods import dropout, ensemble, mean_field, point
from edge_bdl_train.optimiser import Optimiser
from edge_bdl_train.progress import Stage, silent
from edge_bdl_train.recipes.fitting import Contender
from edge_bdl_train.recipes.study import Figure, Study

LEVEL = 0.9
_BATCH = 64
_SHOWN = 120
_FIRST_TEST_DAY = np.datetime64("2015-01-01")


@dataclass(frozen=True, kw_only=True)
class ForecastConfig:
    """What the study may vary.

    Attributes:
        series: synthetic, seattle.
        methods: point, dropout, ensemble, mean_field.
        window: steps of the past that are seen.
        hidden: units of the LSTM.
        epochs: of training.
        members: draws from each posterior, as far as it has so many.
        steps: steps of the synthetic series, three quarters of them to learn from.
    """

    series: tuple[str, ...] = ("synthetic", "seattle")
    methods: tuple[str, ...] = ("point", "dropout", "ensemble", "mean_field")
    window: int = 24
    hidden: int = 32
    epochs: int = 30
    members: int = 50
    steps: int = 4_000

    def __post_init__(self) -> None:
        """Checks names and ranges."""
        known = (*_SERIES, *_configs(1))
        if unknown := set(self.series + self.methods) - set(known):
            raise InputError(f"there is no {', '.join(sorted(unknown))}: expected of {', '.join(known)}")
        if min(self.window, self.hidden, self.epochs, self.members) < 1 or self.steps < 8 * self.window:
            raise InputError(f"everything must be at least 1, and steps at least 8 windows, got {self}")


class Forecasts(NamedTuple):
    """A series cut into windows.

    Attributes:
        train, test: inputs float32 [N, window, C] and targets float32 [N], in units of ``scale``.
        scale: standard deviation of the training targets, in their own units.
        unit: of the targets.
        noise: the true standard deviation of each test target, in units of ``scale``; None where nobody knows it.
    """

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    scale: float
    unit: str
    noise: Tensor | None


class Forecaster(nn.Module):
    """[N, window, C] -> [N, 2]: mean and log-variance of the next value."""

    def __init__(self, channels: int, hidden: int, rate: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, hidden, batch_first=True)
        self.dropout = nn.Dropout(rate) if rate > 0.0 else nn.Identity()
        self.head = nn.Linear(hidden, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Reads the window, and speaks at its end."""
        states, _ = self.lstm(x)
        answer: Tensor = self.head(self.dropout(states[:, -1]))
        return answer


class ForecastStudy(Study):
    """Coverage and width of the intervals, on time that comes after all training."""

    name = "forecast"
    config_type = ForecastConfig
    config: ForecastConfig

    @classmethod
    def quick_config(cls) -> ForecastConfig:
        """The synthetic series, hardly learned."""
        return ForecastConfig(series=("synthetic",), methods=("point", "dropout"), epochs=2, steps=600, members=10)

    def run(self, out: Path, seed: int, stage: Stage = silent) -> list[Figure]:
        """See the class."""
        figures = []
        for series in self.config.series:
            data = _SERIES[series](self.config, np.random.default_rng(seed))
            intervals = {label: self.foretell(label, data, seed, stage) for label in self.config.methods}
            draw(out / f"{series}.png", data, intervals)
            for label, interval in intervals.items():
                figures += _figures(f"{series}, {label}", data, interval)
        return figures

    def foretell(self, label: str, data: Forecasts, seed: int, stage: Stage = silent) -> Interval:
        """One method's intervals for all test targets, of the Gaussian with the members' mean and total variance."""
        config, channels = self.config, data.train[0].shape[2]
        contender = Contender(
            label=label,
            method=label,
            config=_configs(config.epochs)[label],
            dropout=0.1 if label == "dropout" else 0.0,
            epochs=config.epochs,
        )
        likelihood = HeteroscedasticGaussian()
        posterior = contender.fit(
            lambda rate: Forecaster(channels, config.hidden, rate),
            likelihood,
            data.train,
            batch_size=_BATCH,
            seed=seed,
            stage=stage,
        )
        members = min(config.members, posterior.size or config.members)
        outputs = posterior.predict(data.test[0], members, torch.Generator().manual_seed(seed))
        means = likelihood.predictive_mean(outputs)[..., 0]
        variances = likelihood.predictive_variance(outputs)[..., 0]
        return gaussian_interval(means.mean(0), variances.mean(0) + means.var(0, correction=0), LEVEL)


def synthetic(config: ForecastConfig, rng: np.random.Generator) -> Forecasts:
    """Value and time of day; the last quarter of the series is held out."""
    series = synthetic_series(config.steps, rng)
    phase = 2.0 * np.pi * np.arange(config.steps) / PERIOD
    border = 3 * config.steps // 4
    return _cut(series.values[:, None], series.values, phase, border, config.window, "its own units", series.noise)


def seattle(config: ForecastConfig, rng: np.random.Generator) -> Forecasts:
    """Temperatures, precipitation and wind, and the time of year."""
    weather = load_weather()
    year = (weather.days - weather.days.astype("datetime64[Y]")).astype(float) / 365.25
    border = int(np.searchsorted(weather.days, _FIRST_TEST_DAY))
    return _cut(weather.measured, weather.measured[:, 0], 2.0 * np.pi * year, border, config.window, "degrees", None)


def draw(path: Path, data: Forecasts, intervals: Mapping[str, Interval]) -> None:
    """The first stretch of the time held out, with each method's intervals."""
    canvas = Canvas(len(intervals), 1, panel=(9.0, 2.5))
    steps = np.arange(min(_SHOWN, len(data.test[1])))
    for axes, (label, interval) in zip(canvas.axes, intervals.items(), strict=True):
        lower, upper, truth = (part[: len(steps)].numpy() for part in (*interval, data.test[1]))
        axes.fill_between(steps, lower, upper, alpha=0.3)
        axes.plot(steps, truth, "k.", markersize=3)
        axes.set(title=f"{label}: {LEVEL:.0%} intervals, and what came")
    canvas.save(path)


def _cut(
    channels: NDArray[np.float64],
    targets: NDArray[np.float64],
    phase: NDArray[np.float64],
    border: int,
    window: int,
    unit: str,
    noise: NDArray[np.float64] | None,
) -> Forecasts:
    """Windows whose target comes before the border, and those whose target comes after; scaled by what comes before."""
    mean, spread = channels[:border].mean(0), channels[:border].std(0)
    inputs = np.concatenate([(channels - mean) / spread, np.sin(phase)[:, None], np.cos(phase)[:, None]], axis=1)
    scale = float(targets[:border].std())
    past, following = windows(inputs, (targets - targets[:border].mean()) / scale, window)
    x, y = torch.from_numpy(past).float(), torch.from_numpy(following).float()
    first = border - window
    true_noise = None if noise is None else torch.from_numpy(noise[border:] / scale).float()
    return Forecasts((x[:first], y[:first]), (x[first:], y[first:]), scale, unit, true_noise)


def _figures(label: str, data: Forecasts, interval: Interval) -> list[Figure]:
    targets = data.test[1]
    held = "share of targets in their 90 % interval"
    figures = [
        Figure(
            what=f"{label}: {held}", values=(coverage(interval, targets),), published=LEVEL, source="what it claims"
        ),
        Figure(what=f"{label}: mean width of the interval, {data.unit}", values=(sharpness(interval) * data.scale,)),
    ]
    if data.noise is None:
        return figures
    ideal = gaussian_interval(torch.zeros_like(data.noise), data.noise.square(), LEVEL)
    width = msgspec.structs.replace(
        figures[1], published=sharpness(ideal) * data.scale, source="of who knows the true distribution"
    )
    quiet = data.noise < data.noise.median()
    parts = [
        Figure(
            what=f"{label}: {held}, {when} half",
            values=(coverage(Interval(interval.lower[rows], interval.upper[rows]), targets[rows]),),
            published=LEVEL,
            source="what it claims",
        )
        for when, rows in (("the quiet", quiet), ("the noisy", ~quiet))
    ]
    return [figures[0], *parts, width]


def _configs(epochs: int) -> dict[str, object]:
    adam = Optimiser(learning_rate=1e-2, decay=0.05 ** (1.0 / epochs), clip_norm=5.0)
    return {
        "point": point.Config(optimiser=adam),
        "dropout": dropout.Config(optimiser=adam),
        "ensemble": ensemble.Config(members=5, optimiser=adam),
        "mean_field": mean_field.Config(optimiser=adam),
    }


_SERIES: Mapping[str, Callable[[ForecastConfig, np.random.Generator], Forecasts]] = {
    "synthetic": synthetic,
    "seattle": seattle,
}
