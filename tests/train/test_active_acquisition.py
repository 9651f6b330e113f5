"""Acquisition functions against hand-computed values, each other's limits, and bad input."""

from __future__ import annotations

import math

import pytest
import torch

from edge_bdl.errors import InputError
from edge_bdl_train.active.acquisition import (
    ACQUISITIONS,
    bald,
    choose_at_random,
    choose_best,
    mean_standard_deviation,
    predictive_entropy,
    variation_ratios,
)

# Two members and four examples: sure and agreed; sure and opposed; unsure and agreed; half opposed.
MEMBERS = torch.tensor(
    [
        [[1.0, 0.0], [1.0, 0.0], [0.5, 0.5], [0.9, 0.1]],
        [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.5, 0.5]],
    ]
)


def entropy(*probabilities: float) -> float:
    return -sum(p * math.log(p) for p in probabilities if p > 0.0)


def assert_scores(scores: torch.Tensor, *expected: float) -> None:
    torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float64), rtol=0.0, atol=1e-7)


def test_predictive_entropy_is_that_of_the_average() -> None:
    assert_scores(predictive_entropy(MEMBERS), 0.0, math.log(2.0), math.log(2.0), entropy(0.7, 0.3))


def test_bald_is_what_the_members_disagree_about() -> None:
    half = entropy(0.7, 0.3) - 0.5 * (entropy(0.9, 0.1) + math.log(2.0))
    assert_scores(bald(MEMBERS), 0.0, math.log(2.0), 0.0, half)


def test_variation_ratios_is_the_average_doubt_in_the_likeliest_class() -> None:
    assert_scores(variation_ratios(MEMBERS), 0.0, 0.5, 0.5, 0.3)


def test_mean_standard_deviation_is_over_the_members() -> None:
    assert_scores(mean_standard_deviation(MEMBERS), 0.0, 0.5, 0.0, 0.2)


@pytest.mark.parametrize("name", sorted(ACQUISITIONS))
def test_the_order_of_members_does_not_matter_and_that_of_examples_is_kept(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    members = torch.randn(7, 20, 5, generator=generator, dtype=torch.float64).softmax(-1)
    scores = ACQUISITIONS[name](members)
    assert scores.shape == (20,)
    torch.testing.assert_close(ACQUISITIONS[name](members.flip(0)), scores)
    torch.testing.assert_close(ACQUISITIONS[name](members.flip(1)), scores.flip(0))


def test_only_disagreement_scores_need_several_members() -> None:
    single = MEMBERS[1:]
    assert_scores(predictive_entropy(single), 0.0, 0.0, math.log(2.0), math.log(2.0))
    assert_scores(variation_ratios(single), 0.0, 0.0, 0.5, 0.5)
    for disagreement in (bald, mean_standard_deviation):
        with pytest.raises(InputError, match="cannot disagree with itself"):
            disagreement(single)


@pytest.mark.parametrize("name", sorted(ACQUISITIONS))
def test_logits_and_nan_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="softmax outputs, not logits"):
        ACQUISITIONS[name](MEMBERS + 1.0)
    with pytest.raises(InputError, match="not finite"):
        ACQUISITIONS[name](MEMBERS * math.nan)


def test_the_best_come_first_and_equal_ones_in_their_order() -> None:
    assert choose_best(torch.tensor([0.1, 0.5, 0.3, 0.5]), 3).tolist() == [1, 3, 2]


def test_chance_chooses_different_ones_and_the_same_by_the_same_seed() -> None:
    chosen = choose_at_random(50, 20, torch.Generator().manual_seed(3))
    assert len(set(chosen.tolist())) == 20
    assert torch.equal(chosen, choose_at_random(50, 20, torch.Generator().manual_seed(3)))
    assert not torch.equal(chosen, choose_at_random(50, 20, torch.Generator().manual_seed(4)))


def test_chance_favours_none() -> None:
    # Each of 10 is among 3 of 10 with probability 0.3; 2,000 draws have a standard deviation of 0.0102.
    generator = torch.Generator().manual_seed(0)
    seen = torch.zeros(10)
    for _ in range(2_000):
        seen[choose_at_random(10, 3, generator)] += 1.0
    assert ((seen / 2_000 - 0.3).abs() < 4.5 * 0.0102).all()


@pytest.mark.parametrize("count", [0, -1, 5])
def test_a_count_that_is_not_there_is_refused(count: int) -> None:
    with pytest.raises(InputError, match="all of 4 candidates"):
        choose_best(torch.zeros(4), count)
    with pytest.raises(InputError, match="all of 4 candidates"):
        choose_at_random(4, count, torch.Generator())
