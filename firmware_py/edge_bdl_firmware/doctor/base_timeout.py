"""Does the base stop by itself when commands cease?"""

from __future__ import annotations

import math
from collections.abc import Iterator

from edge_bdl_firmware.doctor.finding import Finding, fail, ok, skipped
from edge_bdl_firmware.doctor.observation import Drive, Observation

LONGEST_STOP_S = 1.0
_MOVING_SHARE, _LEAST_MOVING = 0.1, 0.01  # of the commanded speed; m/s, for the noise of odometry


def moving_speed(speed: float) -> float:
    """Above which speed a base that was commanded this one counts as moving, m/s."""
    return max(_LEAST_MOVING, _MOVING_SHARE * abs(speed))


def base_timeout(observation: Observation) -> Iterator[Finding]:
    """Silence after a short drive, timed on odometry."""
    drive = observation.drive
    if drive is None:
        yield skipped("the robot was not moved", "with space around it: edge-bdl doctor --move")
    elif drive.refusal is not None:
        yield fail(f"the base was not moved: {drive.refusal}", drive.refusal_remedy)
    else:
        yield _judged(drive)


def _judged(drive: Drive) -> Finding:
    who = "the gate and the base" if drive.through_gate else "the base"
    moving = [motion for motion in drive.motions if motion.speed > moving_speed(drive.speed)]
    if not moving:
        return fail(
            f"the base did not move on {drive.topic}",
            "is the gate NOMINAL, the topic the base's, the odometry its own (--odom)?",
        )
    stopped_after_s = max(0.0, moving[-1].time_s - drive.last_command_s)
    if stopped_after_s >= LONGEST_STOP_S:
        return fail(
            f"{LONGEST_STOP_S:g} s after the last command on {drive.topic} the base still moves at "
            f"{moving[-1].speed:.2f} m/s",
            "give the base a command timeout of 0.5 s; without one a dead gate leaves the robot driving",
        )
    if drive.motions[-1].time_s - drive.last_command_s < LONGEST_STOP_S:
        return fail("odometry ceased before the base could be seen to stand", "odometry must come at 10 Hz or more")
    return ok(
        f"{who} stopped {stopped_after_s:.2f} s after the last command on {drive.topic}, "
        f"{_distance_after(drive):.3f} m further" + _not_shown(drive)
    )


def _distance_after(drive: Drive) -> float:
    """From where silence began to where the base stood, m."""
    begin = max((motion for motion in drive.motions if motion.time_s <= drive.last_command_s), default=drive.motions[0],
                key=lambda motion: motion.time_s)  # fmt: skip
    end = drive.motions[-1]
    return math.hypot(end.x - begin.x, end.y - begin.y)


def _not_shown(drive: Drive) -> str:
    # The gate sends zeros when its own commands cease: whether the base would stop without them is another question.
    if not drive.through_gate:
        return ""
    return "; the base's own timeout shows only without the gate: end it, then --only base-timeout --move --base-topic"
