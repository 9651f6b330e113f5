"""The simulated base: it does at once what the last command said. One kind stops by itself, the other never."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

Axes = tuple[float, ...]  # of a Twist: metres a second x, y, z; radians a second x, y, z


class Velocity(NamedTuple):
    """A command as it came.

    Attributes:
        time_s: CLOCK_MONOTONIC at its receipt, or when it was sent.
        axes: See ``Axes``.
        left_s: When it was on its way, where that is known; 0 where it is not.
    """

    time_s: float
    axes: Axes
    left_s: float = 0.0

    @property
    def sent_s(self) -> float:
        """When it was on its way, as well as that is known."""
        return self.left_s or self.time_s


class Way(NamedTuple):
    """How far a base went.

    Attributes:
        metres: Length of its path.
        radians: What it turned, either way.
    """

    metres: float = 0.0
    radians: float = 0.0


def travel(commands: Sequence[Velocity], begin_s: float, end_s: float, timeout_s: float = math.inf) -> Way:
    """How far a base goes between two times.

    Args:
        commands: All that it heard, in their order.
        begin_s: From when.
        end_s: Until when.
        timeout_s: After so long without a command it stops; infinite for the base that holds its last command.
    """
    metres = radians = 0.0
    nexts = [command.time_s for command in commands[1:]]
    for command, next_s in zip(commands, [*nexts, math.inf], strict=True):
        first_s = max(command.time_s, begin_s)
        last_s = min(next_s, command.time_s + timeout_s, end_s)
        if last_s > first_s:
            metres += math.hypot(*command.axes[:3]) * (last_s - first_s)
            radians += math.hypot(*command.axes[3:]) * (last_s - first_s)
    return Way(metres, radians)
