"""The guard's rule: a heart that does not beat is lost, and so is one that never did."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_bdl_firmware.guard import HEARTBEAT_TIMEOUT_S, Guard

times = st.floats(0.0, 1e6)


def test_a_heart_that_never_beat_is_lost() -> None:
    assert Guard().must_stop(0.0)
    assert Guard().must_stop(math.inf)


@given(times, st.floats(0.0, 10.0))
def test_a_heart_is_lost_after_the_timeout_and_not_before(beat_s: float, later_s: float) -> None:
    guard = Guard(0.25)
    guard.beat(beat_s)
    silent_s = (beat_s + later_s) - beat_s
    assert guard.must_stop(beat_s + later_s) is (silent_s > 0.25)


def test_a_heart_that_beats_again_is_back() -> None:
    guard = Guard(0.25)
    guard.beat(1.0)
    assert [guard.must_stop(now_s) for now_s in (1.0, 1.25, 1.26, 50.0)] == [False, False, True, True]
    guard.beat(50.0)
    assert not guard.must_stop(50.1)


def test_a_beat_that_was_held_up_is_no_news() -> None:
    guard = Guard(0.25)
    guard.beat(1.0)
    guard.beat(1.1)
    assert guard.must_stop(9.0)


@pytest.mark.parametrize("now_s", [math.nan, math.inf, -math.inf, 0.9])
def test_with_a_clock_that_is_wrong_it_stops(now_s: float) -> None:
    guard = Guard()
    guard.beat(1.0)
    assert guard.must_stop(now_s)


@pytest.mark.parametrize("beat_s", [math.nan, math.inf, -math.inf, 1.1])
def test_a_beat_at_no_time_or_in_the_future_counts_as_none(beat_s: float) -> None:
    guard = Guard()
    guard.beat(beat_s)
    assert guard.must_stop(1.0)


def test_the_guard_is_slower_than_the_slowest_gate_and_fast_enough_for_a_base_that_holds_its_last_command() -> None:
    assert 2 / 10.0 < HEARTBEAT_TIMEOUT_S < 0.5
