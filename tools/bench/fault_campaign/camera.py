"""When frames come, and what they say of their own time."""

from __future__ import annotations

from collections.abc import Callable

from fault_campaign.bounds import BAD_FRAME_S, FROZEN_S, SILENCE_S
from fault_campaign.fault import HOLD, Fault
from fault_campaign.harness import Run, Setup
from fault_campaign.model import obedient

_SECOND_NS = 1_000_000_000
_BAD_FRAME = "one camera period and the margin"


def _image_stops(run: Run) -> None:
    run.strike()
    run.robot.camera_paused = True


def _frozen(run: Run) -> None:
    still = run.robot.frames(0)
    run.strike()
    run.robot.fresh_noise, run.robot.frames = False, lambda index: still


def _stamps(stamp: Callable[[int, int, int], int]) -> Callable[[Run], None]:
    """Stamps made of the time of the fault, the true time, and how far off this run's are to be, in nanoseconds."""

    def inject(run: Run) -> None:
        begin_ns = run.robot.get_clock().now().nanoseconds
        off_ns = int(run.rng.uniform(0.2, 100.0) * _SECOND_NS)
        run.strike()
        run.robot.stamp = lambda now_ns: stamp(begin_ns, now_ns, off_ns)

    return inject


def _clock_steps(run: Run) -> None:
    """As the monitor reads it: the clock of one process alone cannot be set, and a faked one upsets DDS's waiting."""
    seconds = float(run.rng.choice([-5.0, -0.6, 0.6, 5.0]))
    run.strike()
    run.harness.order(f"clock {seconds}")


FAULTS = {
    "image stops": Fault(
        _image_stops, HOLD, SILENCE_S, "assessment timeout, one tick and the margin", bad_evidence=True
    ),
    "frozen pixels, new stamps": Fault(
        _frozen, HOLD, FROZEN_S, "eleven camera periods and the margin", bad_evidence=True
    ),
    "stamps repeat": Fault(_stamps(lambda begin, now, off: begin), HOLD, BAD_FRAME_S, _BAD_FRAME, bad_evidence=True),
    "stamps go backward": Fault(
        _stamps(lambda begin, now, off: 2 * begin - now), HOLD, BAD_FRAME_S, _BAD_FRAME, bad_evidence=True
    ),
    "stamps are zero": Fault(_stamps(lambda begin, now, off: 0), HOLD, BAD_FRAME_S, _BAD_FRAME, bad_evidence=True),
    "stamps in the future": Fault(
        _stamps(lambda begin, now, off: now + off), HOLD, BAD_FRAME_S, _BAD_FRAME, bad_evidence=True
    ),
    "clock steps": Fault(
        _clock_steps,
        HOLD,
        BAD_FRAME_S,
        _BAD_FRAME,
        bad_evidence=True,
        cure=obedient,
        setup=Setup(faulty_monitor=True),
    ),
}
