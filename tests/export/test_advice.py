"""Advice on members: what a person is told of where the weights in a bank come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edge_bdl.manifest import Bank, Selection, StochasticInput
from edge_bdl_export.adapters import Adapter
from edge_bdl_export.advice import advice_on_members
from edge_bdl_export.draws import Draws
from edge_bdl_export.given import Given

MEMBERS = [{"weight": torch.full((1, 1), float(i))} for i in range(256)]
INPUT = StochasticInput(name="weight_0", source="weight", kind="parameter", shape=(1, 1))


def drawn(generator: torch.Generator, count: int) -> Sequence[dict[str, Tensor]]:
    return MEMBERS[:count]


def told(size: int | None, pool: int, members: int, selection: Selection, adapter: Any = None) -> tuple[str, ...]:
    given = Given(nn.Linear(1, 1), Draws(drawn, size), adapter=adapter)
    return advice_on_members(
        given, MEMBERS[:pool], Bank(members=members, chunk=1, selection=selection, seed=0, inputs=(INPUT,))
    )


@pytest.mark.parametrize(
    ("size", "pool", "members", "selection", "message"),
    [
        (20, 20, 16, "given", "the bank holds the first 16 of 20 members: ask for samples=20"),
        (20, 12, 12, "given", "of 20 members only the first 12 were looked at"),
        (20, 12, 8, "selected", "of 20 members only the first 12 were looked at"),
        (None, 100, 8, "selected", "members were selected among 100 and not 256"),
    ],
)
def test_members_that_were_left_out_are_told(
    size: int | None, pool: int, members: int, selection: Selection, message: str
) -> None:
    (warning,) = told(size, pool, members, selection)
    assert warning.startswith(message)


@pytest.mark.parametrize(
    ("size", "pool", "members", "selection"),
    [(5, 5, 5, "given"), (20, 20, 8, "selected"), (None, 16, 16, "given"), (None, 256, 8, "selected")],
)
def test_where_none_was_left_out_there_is_nothing_to_tell(
    size: int | None, pool: int, members: int, selection: Selection
) -> None:
    assert told(size, pool, members, selection) == ()


class Noted(Adapter):
    """One with something to say."""

    notes = ("members are given",)

    def sample(self, generator: torch.Generator, n: int) -> list[dict[str, Tensor]]:
        return MEMBERS[:n]


def test_an_adapter_s_notes_come_last() -> None:
    warnings = told(20, 20, 16, "given", Noted())
    assert warnings[-1] == "members are given"
    assert len(warnings) == 2
