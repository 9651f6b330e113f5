"""KL schedules: the factor by hand, and what the papers say of it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_bdl.errors import InputError
from edge_bdl_train.kl_schedules import Constant, Cyclical, KlSchedule, LinearWarmUp, Minibatch, Switched


def factors(schedule: KlSchedule, epochs: int, batches: int) -> list[float]:
    return [schedule.factor(epoch, batch, batches) for epoch in range(epochs) for batch in range(batches)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Constant(), [1.0] * 8),
        (Constant(0.1), [0.1] * 8),
        (LinearWarmUp(2), [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0]),
        (LinearWarmUp(2, value=0.4), [0.0, 0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4]),
        (LinearWarmUp(0.5), [0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
        (Cyclical(2), [0.0, 0.5, 1.0, 1.0, 0.0, 0.5, 1.0, 1.0]),
        (Cyclical(2, rising=1.0, value=2.0), [0.0, 0.5, 1.0, 1.5, 0.0, 0.5, 1.0, 1.5]),
        (Switched(2), [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]),
        (Switched(1, before=0.5, after=0.1), [0.5, 0.5, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]),
        (Minibatch(), [4.0 / 3.0, 2.0 / 3.0] * 4),
    ],
)
def test_the_factor_over_four_epochs_of_two_batches(schedule: KlSchedule, expected: list[float]) -> None:
    assert factors(schedule, epochs=4, batches=2) == pytest.approx(expected)


@given(st.integers(1, 60))
def test_minibatch_weights_are_blundells(batches: int) -> None:
    shares = [factor / batches for factor in factors(Minibatch(), 1, batches)]
    assert shares == pytest.approx([2 ** (batches - i) / (2**batches - 1) for i in range(1, batches + 1)])


@pytest.mark.parametrize("batches", [1, 1000, 5000])
def test_an_epochs_minibatch_weights_are_one_kl_however_many_there_are(batches: int) -> None:
    assert math.fsum(factors(Minibatch(), 1, batches)) / batches == pytest.approx(1.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Constant(-0.1),
        lambda: Constant(math.nan),
        lambda: LinearWarmUp(0),
        lambda: LinearWarmUp(1, value=math.inf),
        lambda: Cyclical(0),
        lambda: Cyclical(1, rising=0.0),
        lambda: Cyclical(1, rising=1.5),
        lambda: Switched(-1),
        lambda: Switched(1, before=-1.0),
    ],
)
def test_what_is_no_schedule_is_refused(make: object) -> None:
    with pytest.raises(InputError, match="must be"):
        make()
