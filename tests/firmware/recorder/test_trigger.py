from __future__ import annotations

import itertools

import pytest

from edge_bdl.policy import Level
from edge_bdl_firmware.messages import Heartbeat, Step
from edge_bdl_firmware.recorder.trigger import LevelFell

FALLS = {
    ("NOMINAL", "SLOW"), ("NOMINAL", "HOLD"), ("NOMINAL", "HANDOFF"), ("NOMINAL", "STOP"),
    ("SLOW", "HOLD"), ("SLOW", "HANDOFF"), ("SLOW", "STOP"),
    ("HOLD", "SLOW"), ("HOLD", "HANDOFF"), ("HOLD", "STOP"),
    ("HANDOFF", "SLOW"), ("HANDOFF", "STOP"),
    ("STOP", "SLOW"), ("STOP", "HANDOFF"),
}  # fmt: skip


def step(level: str) -> Step:
    return Step(now_s=0.0, trigger="tick", level=level, speed_factor=0.0, reason="because", output=())


@pytest.mark.parametrize(("before", "after"), list(itertools.product([level.value for level in Level], repeat=2)))
def test_a_fall_and_nothing_else_is_a_reason(before: str, after: str) -> None:
    fell = LevelFell()
    assert fell(step(before)) is None
    assert fell(step(after)) == (f"{before} -> {after}: because" if (before, after) in FALLS else None)
    assert fell(step(after)) is None


def test_only_steps_have_a_level() -> None:
    fell = LevelFell()
    fell(step("NOMINAL"))
    assert fell(Heartbeat(now_s=0.0)) is None
    assert fell(step("STOP")) is not None
