"""Draws: members in the order that a posterior gives them, once each, and held without what they share."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from edge_bdl_export import draws as module
from edge_bdl_export.draws import Draws, StateDict

SHARED = torch.arange(1000.0)


def jittered(generator: torch.Generator, count: int) -> Sequence[StateDict]:
    return [{"body": SHARED.clone(), "head": torch.randn(3, generator=generator)} for _ in range(count)]


def heads(members: Sequence[StateDict]) -> list[float]:
    return [float(member["head"][0]) for member in members]


def test_a_pool_begins_with_what_is_drawn_at_once_and_the_seed_draws_it():
    expected = heads(jittered(torch.Generator().manual_seed(7), 4))
    assert heads(Draws(jittered, None, seed=7).pool(4, 4)) == expected
    pool = heads(Draws(jittered, None, seed=7).pool(4, 9))
    assert pool[:4] == expected
    assert len(set(pool)) == 9
    assert heads(Draws(jittered, None, seed=8).pool(4, 9))[:4] != expected


def test_what_is_measured_against_is_nothing_that_was_chosen_from():
    draws = Draws(jittered, None, seed=0)
    pool = draws.pool(4, 20)
    blocks = list(draws.others(pool, 40))
    assert [len(block) for block in blocks] == [16, 16, 8]
    others = [member for block in blocks for member in block]
    assert len({*heads(pool), *heads(others)}) == 60


def test_of_a_list_there_is_no_end_but_its_own():
    members = jittered(torch.Generator().manual_seed(0), 20)
    draws = Draws.of(members)
    assert draws.size == 20
    pool = draws.pool(3, 3)
    assert heads(pool) == heads(members)
    assert heads([member for block in draws.others(pool) for member in block]) == heads(members)
    assert Draws.of([]).pool(2, 2) == []


def test_what_members_share_is_held_once():
    pool = Draws(jittered, None).pool(2, 6)
    assert len({member["body"].data_ptr() for member in pool}) == 1
    assert len({member["head"].data_ptr() for member in pool}) == 6
    assert all(torch.equal(member["body"], SHARED) for member in pool)


@pytest.mark.parametrize("size", [None, 30])
def test_a_pool_that_is_too_large_for_memory_is_smaller_but_never_than_the_bank(
    monkeypatch: pytest.MonkeyPatch, size: int | None
):
    # Twelve bytes of each member are its own.
    monkeypatch.setattr(module, "_MOST_BYTES", 120)
    assert len(Draws(jittered, size).pool(4, 30)) == 10
    assert len(Draws(jittered, size).pool(15, 30)) == 15


def test_members_of_other_names_or_dtypes_are_kept_as_they_are():
    members = [{"a": torch.zeros(2)}, {"a": torch.zeros(2, dtype=torch.int64), "b": torch.zeros(1)}]
    pool = Draws.of(members).pool(2, 2)
    assert pool[1]["a"].dtype == torch.int64
    assert set(pool[1]) == {"a", "b"}
