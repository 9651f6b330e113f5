"""Balanced masks: stratified on every prefix of a power of two, right in rate, independent between units."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_bdl.manifest import StochasticInput
from edge_bdl_export.members import balanced


def site(name: str, rate: float, *shape: int) -> StochasticInput:
    return StochasticInput(name=name, source=name, kind="Dropout", shape=shape, rate=rate, scale=1.0 / (1.0 - rate))


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


@given(rate=st.floats(0.001, 0.999), units=st.integers(1, 40), members=st.integers(2, 70), seed=st.integers(0, 2**32))
def test_every_prefix_of_a_power_of_two_drops_each_unit_its_share(rate: float, units: int, members: int, seed: int):
    keep = balanced([site("mask_0", rate, units)], members, generator(seed))["mask_0"]
    assert keep.shape == (members, units)
    assert keep.dtype == np.bool_
    for prefix in (2**k for k in range(members.bit_length())):
        if prefix <= members:
            dropped = (~keep[:prefix]).sum(0)
            assert dropped.min() >= math.floor(rate * prefix)
            assert dropped.max() <= math.ceil(rate * prefix)


@given(start=st.integers(0, 7), rate=st.floats(0.05, 0.95))
def test_aligned_blocks_are_stratified_too(start: int, rate: float):
    keep = balanced([site("mask_0", rate, 16)], 32, generator())["mask_0"]
    dropped = (~keep[4 * start : 4 * start + 4]).sum(0)
    assert dropped.min() >= math.floor(rate * 4)
    assert dropped.max() <= math.ceil(rate * 4)


@pytest.mark.parametrize("rate", [0.02, 0.2, 0.5, 0.77])
@pytest.mark.parametrize("members", [2, 5, 16])
def test_each_draw_has_the_rate(rate: float, members: int):
    units = 20_000
    keep = balanced([site("mask_0", rate, units)], members, generator(1))["mask_0"]
    error = math.sqrt(rate * (1.0 - rate) / units)
    assert np.abs((~keep).mean(1) - rate).max() < 5.0 * error


def test_units_and_sites_are_independent():
    sites = [site("mask_0", 0.3, 2), site("mask_1", 0.3, 2)]
    random = generator(2)
    draws = [balanced(sites, 8, random) for _ in range(4000)]
    columns = np.stack([np.concatenate([d["mask_0"][:, 0], d["mask_0"][:, 1], d["mask_1"][:, 0]]) for d in draws])
    first, second, other = columns[:, :8], columns[:, 8:16], columns[:, 16:]
    for a, b in ((first, second), (first, other)):
        for i in range(8):
            for j in range(8):
                assert abs(np.corrcoef(a[:, i], b[:, j])[0, 1]) < 5.0 / math.sqrt(len(draws))


def test_members_of_one_unit_repel_each_other():
    random = generator(3)
    draws = np.stack([balanced([site("mask_0", 0.5, 1)], 2, random)["mask_0"][:, 0] for _ in range(500)])
    assert (draws[:, 0] != draws[:, 1]).all()


def test_the_spread_of_the_mean_is_smaller_than_that_of_independent_draws():
    random, weights = generator(4), generator(5).normal(size=64)
    means = np.array([(balanced([site("mask_0", 0.3, 64)], 8, random)["mask_0"] @ weights).mean() for _ in range(2000)])
    independent = (weights**2).sum() * 0.3 * 0.7 / 8
    assert means.var() < 0.5 * independent
    assert abs(means.mean() - 0.7 * weights.sum()) < 5.0 * math.sqrt(independent / len(means))


def test_the_same_seed_gives_the_same_masks_and_another_seed_others():
    sites = [site("mask_0", 0.3, 3, 5), site("mask_1", 0.1, 7)]
    first, again, other = (balanced(sites, 12, generator(seed)) for seed in (9, 9, 10))
    assert list(first) == ["mask_0", "mask_1"]
    assert first["mask_0"].shape == (12, 3, 5)
    for name, rows in first.items():
        assert np.array_equal(rows, again[name])
        assert not np.array_equal(rows, other[name])
