"""The guard without ROS: zeros for the base when the gate's heartbeat is lost."""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path

from edge_bdl_firmware.background import Background
from edge_bdl_firmware.guard import Guard
from edge_bdl_firmware.local.channel import Inbox, Outbox
from edge_bdl_firmware.messages import Heartbeat, Step
from edge_bdl_firmware.signals import StopSignals
from edge_bdl_firmware.watchdog import Watchdog

_PERIOD_S = 0.05
_LAST_LINE_S = 0.2


def run_guard(sockets: Path, axes: int = 6) -> int:
    """Be the guard until a signal ends it; returns the exit code.

    Args:
        sockets: Folder of the sockets.
        axes: Numbers of a command.

    Raises:
        InputError: Another guard runs here.
    """
    signals = StopSignals()
    guard, base = Guard(), Outbox(sockets, "base")
    ticks, stopping = 0, False
    watchdog = Watchdog({"tick": lambda: ticks})
    log = Background("log")
    with Inbox(sockets, "guard") as inbox:
        watchdog.ready()
        while not signals.asked:
            message = inbox.receive(_PERIOD_S)
            now_s = time.monotonic()
            if isinstance(message, Heartbeat):
                # One that was held up somewhere is no news.
                guard.beat(min(now_s, message.now_s))
            if guard.must_stop(now_s):
                base.send(_zero(now_s, axes))
            if guard.must_stop(now_s) != stopping:
                stopping = not stopping
                log.put(partial(_log, stopping))
            ticks += 1
            watchdog.beat()
        watchdog.stopping()
        log.finish(_LAST_LINE_S)
    return 0


def _log(lost: bool) -> None:
    print(f"guard: {'no heartbeat of the gate' if lost else 'the gate is back'}", file=sys.stderr, flush=True)


def _zero(now_s: float, axes: int) -> Step:
    return Step(
        now_s=now_s,
        trigger="tick",
        level="HOLD",
        speed_factor=0.0,
        reason="the guard hears no heartbeat of the gate",
        output=(0.0,) * axes,
    )
