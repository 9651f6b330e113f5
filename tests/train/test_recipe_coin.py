"""Recipe coin: intervals and densities against scipy, the exact line, and methods that come close to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from edge_bdl.errors import InputError
from edge_bdl_train.data.coin import BetaBernoulli
from edge_bdl_train.recipes.coin import (
    CoinConfig,
    CoinStudy,
    beta_density,
    central_interval,
    coin_coverage,
    draw_line,
    line_posterior,
    ruler_coverage,
)


@pytest.mark.parametrize(("heads", "tails"), [(1.0, 1.0), (3.0, 18.0), (41.5, 2.0)])
def test_densities_and_intervals_are_those_of_the_beta_distribution(heads: float, tails: float) -> None:
    belief, exact = BetaBernoulli(heads=heads, tails=tails), stats.beta(heads, tails)
    grid = np.linspace(0.01, 0.99, 50)
    assert beta_density(belief, grid) == pytest.approx(exact.pdf(grid))
    assert central_interval(belief) == pytest.approx(exact.interval(0.9), abs=2e-4)


def test_intervals_hold_the_truth_as_often_as_they_claim() -> None:
    # The standard error of a share of 0.9 among 4,000 is 0.0047.
    assert coin_coverage(4_000, 20, np.random.default_rng(0)) == pytest.approx(0.9, abs=0.02)
    assert ruler_coverage(4_000, 5, np.random.default_rng(0)) == pytest.approx(0.9, abs=0.02)


def test_the_lines_posterior_is_the_one_that_rows_give_one_after_the_other() -> None:
    x, y = draw_line(np.random.default_rng(1))
    mean, precision = torch.zeros(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    for row, target in zip(x.double(), y.double(), strict=True):
        updated = precision + torch.outer(row, row) / 0.25
        mean = torch.linalg.solve(updated, precision @ mean + row * target / 0.25)
        precision = updated
    exact = line_posterior(x, y)
    assert torch.allclose(exact.mean, mean)
    assert torch.allclose(exact.covariance, torch.linalg.inv(precision))


def test_the_network_methods_find_the_lines_posterior(tmp_path: Path) -> None:
    figures = {figure.what: figure for figure in CoinStudy(CoinConfig(coins=500, steps=1_000)).record(tmp_path)}
    lines = [figure for what, figure in figures.items() if what.startswith("line")]
    assert len(lines) == 6
    # The chain's 9,000 steps are worth about 560 independent draws: 0.06 is the standard error of a covariance.
    limits = {figure.what: 0.3 if "sghmc" in figure.what else 0.1 for figure in lines}
    assert [figure.what for figure in lines if figure.mean > limits[figure.what]] == []
    for plot in ("coin.png", "ruler.png"):
        assert (tmp_path / plot).read_bytes().startswith(b"\x89PNG")


def test_nothing_to_toss_is_refused() -> None:
    with pytest.raises(InputError, match="at least 1"):
        CoinConfig(tosses=0)
