"""Outputs beside the steps that they came from, and steps beside the commands that were sent.

A command that DDS delivered late is still the newest that the gate knows: what it passed on is held against the command
of its own recorded step, and that command against those that were sent lately enough. Steps are datagrams, and lost
where this process is behind: there an output is held against the commands that can have been the newest.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from edge_bdl_firmware.gate import GateConfig
from edge_bdl_firmware.messages import Step
from fault_campaign.base import Axes, Velocity
from fault_campaign.bounds import COMMAND_S, MARGIN_S, TICK_S
from fault_campaign.robot import Log

EXACT = 1e-9
_FRESH_S = COMMAND_S + TICK_S + MARGIN_S
_CLOCKS_S = 0.005  # DDS stamps by another clock than ours, which somebody may be slewing
_BYPASS_FACTOR = GateConfig().bypass_factor


class Outputs:
    """What is known of every output of a run.

    Args:
        log: Of the run.
    """

    def __init__(self, log: Log) -> None:
        self._steps = log.steps
        self._stepped = np.array([step.now_s for step in log.steps])
        self._times = np.array([command.time_s for command in log.inputs])
        self._left = np.array([command.sent_s for command in log.inputs])
        self._axes = np.array([command.axes for command in log.inputs]).reshape(-1, 6)
        self._finite = np.isfinite(self._axes).all(axis=1)

    def share(self, output: Velocity) -> float | None:
        """Which share of its command an output is; None where it is of none.

        All axes must be scaled alike, by no more than 1 and not below 0.
        """
        if not any(output.axes):
            return 0.0
        around = self._around(output)
        if around is None:
            return _share(output.axes, self._newest(output))
        commands = [step.command for step in around if step.command is not None and _same(step.output, output.axes)]
        return _share(output.axes, np.array(commands)) if commands else None

    def origin(self, output: Velocity) -> str:
        """What an output that should not be there comes from, for people."""
        axes, inputs = np.array(output.axes), self._axes
        with np.errstate(all="ignore"):
            shares = inputs @ axes / (inputs**2).sum(axis=1)
            errors = np.abs(shares[:, None] * inputs - axes).max(axis=1)
        nearest = int(np.nanargmin(errors))
        return f"{shares[nearest]:.3f} of the command of {output.sent_s - self._times[nearest]:.3f} s before"

    def commanded(self, time_s: float) -> bool:
        """Whether a valid command was sent lately enough for motion to be seen at this time."""
        return bool(self._finite[self._sent_lately(time_s)].any())

    def wrong_steps(self) -> Iterator[tuple[Step, str]]:
        """Steps that let pass what they must not, and what is wrong with them."""
        newest = 0  # of the commands that were sent, the one that the gate had last
        for step in self._steps:
            if not any(step.output):
                continue
            if step.command is None:
                yield step, "without a command"
                continue
            factor = _BYPASS_FACTOR if step.bypass else step.speed_factor
            if not 0.0 < factor <= 1.0 or not _same(step.output, tuple(factor * axis for axis in step.command)):
                yield step, f"that is not {factor:g} of {step.command}"
            sent = self._sent_lately(step.now_s)
            same = sent.start + np.flatnonzero(np.abs(self._axes[sent] - step.command).max(axis=1) <= EXACT)
            if not len(same):
                yield step, f"from a command that nobody sent in the last {_FRESH_S:g} s: {step.command}"
            elif same[-1] < newest:
                yield step, f"from an older command than before: {step.command}"
            else:
                newest = int(same[np.searchsorted(same, newest)])

    def _around(self, output: Velocity) -> Sequence[Step] | None:
        """The steps that an output can have come from; None where one of them may be lost.

        The gate publishes in its step: the last one before the output's stamp it is, as well as the clocks agree.
        """
        first = int(np.searchsorted(self._stepped, output.sent_s - _CLOCKS_S, "right")) - 1
        last = int(np.searchsorted(self._stepped, output.sent_s + _CLOCKS_S, "right"))
        if first < 0 or last == len(self._steps):
            return None
        pairs = itertools.pairwise(self._steps[first : last + 1])
        unbroken = all(after.sequence == before.sequence + 1 for before, after in pairs)
        return self._steps[first:last] if unbroken else None

    def _newest(self, output: Velocity) -> np.ndarray:
        """Commands that can have been the newest, [n, 6].

        What was on its way for longer than a tick and the margin cannot have been, unless none came after it.
        """
        last = int(np.searchsorted(self._times, output.sent_s + _CLOCKS_S, "right"))
        first = max(0, int(np.searchsorted(self._left, output.sent_s - TICK_S - MARGIN_S)) - 1)
        return self._axes[first:last][self._finite[first:last]]

    def _sent_lately(self, time_s: float) -> slice:
        """The commands that may move the robot at this time."""
        since = int(np.searchsorted(self._left, time_s - _FRESH_S))
        return slice(since, int(np.searchsorted(self._times, time_s, "right")))


def _same(one: Axes, other: Axes) -> bool:
    return len(one) == len(other) and all(
        math.isfinite(left) and abs(left - right) <= EXACT for left, right in zip(one, other, strict=True)
    )


def _share(output: Axes, commands: np.ndarray) -> float | None:
    """The largest share of one of some commands ([n, 6]) that an output is."""
    axes = np.array(output)
    commands = commands[commands.any(axis=1)]
    shares = commands @ axes / (commands**2).sum(axis=1)
    errors = np.abs(shares[:, None] * commands - axes).max(axis=1)
    fits = shares[(errors <= EXACT) & (shares >= 0.0) & (shares <= 1.0 + EXACT)]
    return float(fits.max()) if len(fits) else None
