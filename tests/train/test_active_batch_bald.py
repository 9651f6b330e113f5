"""BatchBALD against brute force over all label configurations, and against BALD where both are the same."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from edge_bdl.errors import InputError
from edge_bdl_train.active.acquisition import bald
from edge_bdl_train.active.batch_bald import batch_bald


def members(seed: int, count: int = 6, candidates: int = 8, classes: int = 3, spread: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(count, candidates, classes, generator=generator, dtype=torch.float64)).softmax(-1)


def information(probabilities: Tensor, batch: tuple[int, ...]) -> float:
    """I(labels of the batch; member), by the sum over every configuration of the labels."""
    joint = 0.0
    for labels in itertools.product(range(probabilities.shape[2]), repeat=len(batch)):
        likelihood = torch.ones(len(probabilities), dtype=torch.float64)
        for example, label in zip(batch, labels, strict=True):
            likelihood = likelihood * probabilities[:, example, label]
        joint += float(torch.special.entr(likelihood.mean()))
    alone = sum(float(torch.special.entr(probabilities[:, example]).sum(-1).mean()) for example in batch)
    return joint - alone


def brute_force_greedy(probabilities: Tensor, count: int) -> list[int]:
    chosen: list[int] = []
    for _ in range(count):
        rest = [each for each in range(probabilities.shape[1]) if each not in chosen]
        chosen.append(max(rest, key=lambda each: information(probabilities, (*chosen, each))))
    return chosen


@pytest.mark.parametrize("seed", range(5))
def test_the_greedy_batch_and_its_scores_are_those_of_brute_force(seed: int) -> None:
    probabilities = members(seed)
    batch = batch_bald(probabilities, 4, torch.Generator())
    assert list(batch.chosen) == brute_force_greedy(probabilities, 4)
    expected = [information(probabilities, batch.chosen[: size + 1]) for size in range(4)]
    assert batch.scores == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_greedy_batch_has_at_least_the_guaranteed_share_of_the_best(seed: int) -> None:
    probabilities = members(seed)
    best = max(information(probabilities, batch) for batch in itertools.combinations(range(8), 3))
    assert batch_bald(probabilities, 3, torch.Generator()).scores[-1] >= (1.0 - 1.0 / 2.718281828) * best


def test_a_batch_of_one_is_balds_favourite() -> None:
    probabilities = members(1, candidates=200)
    scores = bald(probabilities)
    batch = batch_bald(probabilities, 1, torch.Generator())
    assert batch.chosen == (int(scores.argmax()),)
    assert batch.scores[0] == pytest.approx(float(scores.max()), abs=1e-12)


def test_it_does_not_ask_the_same_twice_where_bald_does() -> None:
    # Four members. Five examples all tell the first two from the others; the sixth, a little less sure, tells the first
    # and third from the rest.
    same, other = torch.tensor([0.98, 0.98, 0.02, 0.02]), torch.tensor([0.95, 0.05, 0.95, 0.05])
    first = torch.stack([same] * 5 + [other], dim=1).double()
    probabilities = torch.stack([first, 1.0 - first], dim=2)
    assert set(bald(probabilities).sort(descending=True).indices[:5].tolist()) == {0, 1, 2, 3, 4}
    assert batch_bald(probabilities, 2, torch.Generator()).chosen == (0, 5)


def test_drawn_configurations_estimate_the_exact_information() -> None:
    # Eight labels have 3^8 configurations. The exact ones are given up once there are more than so many: after 3^4 and
    # 3^6 of them. An estimate is a mean over draws of -log p, whose standard deviation is below 2 nats here.
    probabilities = members(4, spread=1.5)
    for configurations, drawn_from in ((100, 5), (2_000, 7)):
        batch = batch_bald(probabilities, 8, torch.Generator().manual_seed(0), configurations=configurations)
        exact = [information(probabilities, batch.chosen[: size + 1]) for size in range(8)]
        errors = [abs(mine - right) for mine, right in zip(batch.scores, exact, strict=True)]
        assert max(errors[:drawn_from]) < 1e-12
        assert 1e-12 < max(errors[drawn_from:]) < 3.0 * 2.0 / configurations**0.5


def test_drawn_configurations_choose_nearly_as_well_as_all_of_them() -> None:
    probabilities = members(5, count=20, candidates=30)
    exact = batch_bald(probabilities, 5, torch.Generator()).scores[-1]
    drawn = batch_bald(probabilities, 5, torch.Generator().manual_seed(1), configurations=80).chosen
    assert information(probabilities, drawn) > 0.95 * exact


def test_the_same_seed_gives_the_same_batch_and_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    probabilities = members(6, candidates=40)

    def batch() -> tuple[int, ...]:
        return batch_bald(probabilities, 6, torch.Generator().manual_seed(2), configurations=100).chosen

    whole = batch()
    monkeypatch.setattr("edge_bdl_train.active.batch_bald._ELEMENTS", 1_000)
    assert batch() == whole


def test_all_candidates_can_be_chosen_and_no_more() -> None:
    probabilities = members(7)
    assert sorted(batch_bald(probabilities, 8, torch.Generator()).chosen) == list(range(8))
    with pytest.raises(InputError, match="all of 8 candidates"):
        batch_bald(probabilities, 9, torch.Generator())
    with pytest.raises(InputError, match="cannot disagree with itself"):
        batch_bald(probabilities[:1], 2, torch.Generator())
