"""What a fault is: how it is injected, where it must lead, and how far the robot may go after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from fault_campaign.harness import Run, Setup

_SETTLE_S = 0.4


def nothing(run: Run) -> None:
    """No check and no cure of its own."""


@dataclass(frozen=True)
class Fault:
    """One row of the campaign's table.

    Attributes:
        inject: Makes the fault, and calls `Run.strike` at its moment.
        levels: Where the gate must be, after `watch_s`, while the fault lasts; empty: nobody speaks any more.
        stop_s: The robot goes no further than at its full speed in this time; None: it need not stop.
        because: How `stop_s` comes about.
        watch_s: How long the fault lasts and is watched; None: a moment longer than it takes to stop.
        bad_evidence: While it lasts, and once there was time to notice it, the gate must not be in NOMINAL or SLOW.
        must_drive: No output may be smaller than its input: this must not stop the robot.
        slow_machine: The machine itself is what goes wrong: its delays do not excuse anything.
        cure: What else it takes to undo it, besides healing camera and controller and starting what has ended.
        check: What else must hold when everything is over.
        setup: The processes that it needs.
    """

    inject: Callable[[Run], None]
    levels: frozenset[str]
    stop_s: float | None = None
    because: str = ""
    watch_s: float | None = None
    bad_evidence: bool = False
    must_drive: bool = False
    slow_machine: bool = False
    cure: Callable[[Run], None] = nothing
    check: Callable[[Run], None] = nothing
    setup: Setup = field(default_factory=Setup)

    @property
    def lasts_s(self) -> float:
        """How long the fault lasts from its moment on."""
        return self.watch_s if self.watch_s is not None else (self.stop_s or 0.0) + _SETTLE_S


HOLD, NOMINAL, HANDOFF, STOP = (frozenset({name}) for name in ("HOLD", "NOMINAL", "HANDOFF", "STOP"))
SILENT: frozenset[str] = frozenset()
