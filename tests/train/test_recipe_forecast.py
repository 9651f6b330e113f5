"""Recipe forecast: nothing of the time held out is learned from; coverage and width of known intervals; a short run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edge_bdl.errors import InputError
from edge_bdl_train.data.weather import WEATHER_FOLDER
from edge_bdl_train.evaluation.intervals import gaussian_interval
from edge_bdl_train.recipes import open_study
from edge_bdl_train.recipes.forecast import ForecastConfig, ForecastStudy, _figures, seattle, synthetic


def test_the_last_quarter_is_held_out_and_its_values_reach_no_training_window() -> None:
    config = ForecastConfig(steps=400, window=10)
    data = synthetic(config, np.random.default_rng(0))
    assert len(data.train[1]) == 300 - 10
    assert len(data.test[1]) == len(data.noise) == 100
    # The last training window ends two steps before the first test target, which the first test window does not hold.
    assert torch.equal(data.train[0][-1, 1:], data.test[0][0, :-1])
    spread = data.train[0][..., 0].std()
    assert spread == pytest.approx(1.0, abs=0.1)


def test_who_knows_the_true_distribution_covers_ninety_per_cent_in_every_half() -> None:
    config = ForecastConfig(steps=40_000)
    data = synthetic(config, np.random.default_rng(1))
    # The conditional mean is not in the data: stand in for the targets by draws of the noise around zero.
    noise = data.noise * torch.randn(len(data.noise), generator=torch.Generator().manual_seed(0))
    known = data._replace(test=(data.test[0], noise))
    figures = _figures("known", known, gaussian_interval(torch.zeros_like(noise), data.noise.square(), 0.9))
    for figure in figures[:3]:
        # The standard error of a share of 0.9 among 5,000 is 0.0042.
        assert figure.mean == pytest.approx(0.9, abs=0.02)
    assert figures[3].mean == pytest.approx(figures[3].published)


def test_an_interval_of_one_width_covers_the_quiet_half_too_often_and_the_noisy_half_too_seldom() -> None:
    data = synthetic(ForecastConfig(steps=40_000), np.random.default_rng(2))
    noise = data.noise * torch.randn(len(data.noise), generator=torch.Generator().manual_seed(0))
    same = torch.full_like(noise, float(noise.square().mean()))
    figures = _figures("one width", data._replace(test=(data.test[0], noise)), gaussian_interval(0.0 * same, same, 0.9))
    assert figures[1].mean > 0.95
    assert figures[2].mean < 0.85


def test_a_short_run_measures_and_draws(tmp_path: Path) -> None:
    figures = open_study("forecast", quick=True).record(tmp_path, seed=1)
    assert len(figures) == 8
    assert all(figure.mean > 0.0 for figure in figures)
    assert (tmp_path / "synthetic.png").read_bytes().startswith(b"\x89PNG")


def test_a_variational_lstm_gives_intervals() -> None:
    config = replace(ForecastStudy.quick_config(), methods=("mean_field",), epochs=1, window=8, steps=200)
    data = synthetic(config, np.random.default_rng(0))
    lower, upper = ForecastStudy(config).foretell("mean_field", data, 0)
    assert len(lower) == 50
    assert (lower < upper).all()


@pytest.mark.skipif(not WEATHER_FOLDER.is_dir(), reason="no weather; python -m edge_bdl_train.data.weather")
def test_seattle_is_judged_by_the_whole_of_2015() -> None:
    data = seattle(ForecastConfig(), np.random.default_rng(0))
    assert len(data.test[1]) == 365
    assert data.train[0].shape == (1_096 - 24, 24, 6)
    assert 5.0 < data.scale < 10.0


def test_unknown_names_and_series_too_short_are_refused() -> None:
    for settings in ({"series": ("moon",)}, {"methods": ("magic",)}):
        with pytest.raises(InputError, match="expected of synthetic, seattle, point"):
            ForecastConfig(**settings)
    with pytest.raises(InputError, match="8 windows"):
        ForecastConfig(steps=100)
