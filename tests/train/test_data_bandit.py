"""The mushrooms: that no attribute tells alone, and what eating them pays."""

from __future__ import annotations

import math

import numpy as np

from edge_bdl_train.data import bandit
from edge_bdl_train.data.bandit import EAT, HARM, KINDS, PASS, PLEASURE

ALL = np.stack(np.meshgrid(np.arange(KINDS), np.arange(KINDS), indexing="ij"), -1).reshape(-1, 2)


def test_all_mushrooms_are_equally_likely() -> None:
    count = 36_000
    found = bandit.mushrooms(count, np.random.default_rng(0))
    counts = np.bincount(KINDS * found[:, 0] + found[:, 1], minlength=KINDS**2)
    expected = count / KINDS**2
    assert np.abs(counts - expected).max() <= 5.0 * math.sqrt(expected)


def test_half_are_edible_whatever_either_attribute_is() -> None:
    edible = bandit.edible(ALL).reshape(KINDS, KINDS)
    assert (edible.mean(0) == 0.5).all()
    assert (edible.mean(1) == 0.5).all()


def test_the_best_linear_rule_is_no_rule() -> None:
    x = np.column_stack([bandit.features(ALL), np.ones(len(ALL))])
    y = bandit.edible(ALL).astype(float)
    fitted = x @ np.linalg.lstsq(x, y, rcond=None)[0]
    np.testing.assert_allclose(fitted, 0.5, atol=1e-12)


def test_features_mark_one_kind_of_each_attribute() -> None:
    x = bandit.features(np.array([[0, 5], [3, 1]]))
    assert x.shape == (2, bandit.FEATURES)
    assert [np.flatnonzero(row).tolist() for row in x] == [[0, KINDS + 5], [3, KINDS + 1]]
    assert (x.sum(1) == 2.0).all()


def test_rewards_are_blundells() -> None:
    count = 10_000
    good, bad = np.tile([2, 4], (count, 1)), np.tile([2, 3], (count, 1))
    rng = np.random.default_rng(1)
    eat, leave = np.full(count, EAT), np.full(count, PASS)
    assert (bandit.rewards(good, eat, rng) == PLEASURE).all()
    assert (bandit.rewards(good, leave, rng) == 0.0).all()
    assert (bandit.rewards(bad, leave, rng) == 0.0).all()
    paid = bandit.rewards(bad, eat, rng)
    assert set(np.unique(paid)) == {PLEASURE, HARM}
    assert abs((paid == HARM).mean() - 0.5) <= 5.0 * 0.5 / math.sqrt(count)


def test_means_are_those_of_the_rewards() -> None:
    assert bandit.means(np.array([[0, 0], [0, 1]])).tolist() == [[0.0, PLEASURE], [0.0, 0.5 * (PLEASURE + HARM)]]
