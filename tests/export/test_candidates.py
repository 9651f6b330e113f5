"""Candidates: what is picked is worth more than what is drawn, on other frames and for every prefix."""

from __future__ import annotations

import itertools

import pytest
import torch

from edge_bdl_export.candidates import pick
from edge_bdl_export.fidelity import Reading, divergence, prefix_means, statistics
from edge_bdl_export.selection import errors

READINGS = [Reading("classification", 1), Reading("regression", None), Reading("heteroscedastic", None)]


def outputs(members: int, reading: Reading, frames: int = 120, seed: int = 0) -> torch.Tensor:
    """Statistics [n, P, m, K] of random features of each frame, weighted at random by each member."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(members, 8, 4, generator=generator)
    features = torch.randn(frames, 8, generator=torch.Generator().manual_seed(99))
    return statistics(torch.einsum("nf,pfo->npo", features, weights)[:, :, None], reading)


# Without noise in the targets a variance that comes out too small on one frame is all that the mean divergence sees.
@pytest.mark.parametrize(("reading", "worth"), list(zip(READINGS, (8, 4, 8), strict=True)))
def test_four_picked_are_worth_more_drawn_also_on_other_frames_and_against_other_members(reading: Reading, worth: int):
    candidates, others = outputs(256, reading), outputs(256, reading, seed=1)
    rows = pick(candidates[:60], candidates[:60].mean(1), 4, reading.task)
    assert len(set(rows)) == 4
    unseen, reference = candidates[60:], others[60:].mean(1)

    def kl(bank: list[int]) -> float:
        return float(divergence(reference, unseen[:, bank].mean(1), reading.task).mean())

    drawn = sorted(kl(list(range(start, start + worth))) for start in range(0, 256, worth))
    assert kl(rows) < drawn[len(drawn) // 2]


@pytest.mark.parametrize("reading", READINGS, ids=lambda reading: reading.task)
def test_no_single_swap_is_better(reading: Reading):
    candidates = outputs(12, reading, frames=40)
    reference = candidates.mean(1)

    def error(rows: list[int]) -> float:
        return float(errors(reference, prefix_means(candidates[:, rows])[:, 1:], reading.task).sum())

    rows = pick(candidates, reference, 4, reading.task)
    for place, other in itertools.product(range(4), set(range(12)) - set(rows)):
        changed = [other if i == place else row for i, row in enumerate(rows)]
        # Every place is judged by the prefixes that it is in, and the last sweep changed nothing.
        assert error(changed) >= error(rows) - 1e-9


def test_all_of_them_are_an_order_of_all_of_them():
    candidates = outputs(6, READINGS[0])
    assert sorted(pick(candidates, candidates.mean(1), 6, "classification")) == list(range(6))


def test_the_same_candidates_give_the_same_bank():
    candidates = outputs(40, READINGS[1])
    assert pick(candidates, candidates.mean(1), 5, "regression") == pick(
        candidates, candidates.mean(1), 5, "regression"
    )
