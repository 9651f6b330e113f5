"""Do the clocks agree: those of camera and monitor, and those that should follow a simulation?"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator

from edge_bdl_firmware.doctor import observation as seen
from edge_bdl_firmware.doctor.finding import Finding, fail, ok, skipped, warn
from edge_bdl_firmware.doctor.observation import Observation

_FUTURE_TOLERANCE_S, _TIMEOUT_S = 0.1, 0.3  # as the monitor judges its frames
_SYNCHRONISE = "synchronise the clocks (chrony, PTP), and have the driver stamp images when they are taken"


def stamps(observation: Observation) -> Iterator[Finding]:
    """The images' stamps against the monitor's clock."""
    topic = observation.topics[observation.camera].name
    ages_s = [age_s for age_s in observation.stamp_ages_s if not math.isnan(age_s)]
    stampless = len(observation.stamp_ages_s) - len(ages_s)
    if not observation.stamp_ages_s:
        yield skipped(f"no image came on {topic}")
        return
    if stampless:
        yield fail(f"{stampless} of {len(observation.stamp_ages_s)} images on {topic} have no stamp", _SYNCHRONISE)
    if not ages_s:
        return
    youngest_s, usual_s, oldest_s = min(ages_s), statistics.median(ages_s), max(ages_s)
    if youngest_s < -_FUTURE_TOLERANCE_S:
        yield fail(f"images on {topic} are stamped up to {-youngest_s:.3g} s in the future", _SYNCHRONISE)
    elif usual_s > _TIMEOUT_S:
        yield fail(
            f"images on {topic} are {usual_s:.3g} s old by their stamps when they come, {_TIMEOUT_S:g} s is the most",
            f"{_SYNCHRONISE}; a recording is played with new stamps or with its clock",
        )
    elif oldest_s > _TIMEOUT_S:
        yield warn(f"images on {topic} are usually {usual_s:.3g} s old, but once {oldest_s:.3g} s", _SYNCHRONISE)
    else:
        yield ok(f"images on {topic} are {usual_s:.3g} s old when they come, at most {oldest_s:.3g} s")


def sim_time(observation: Observation) -> Iterator[Finding]:
    """``use_sim_time`` without a /clock, and the other way round."""
    users = {
        name: values["use_sim_time"] for name, values in observation.parameters.items() if "use_sim_time" in values
    }
    clock = observation.topics[seen.CLOCK].stream
    ticking = clock is not None and bool(clock.times_s)
    following = [name for name, follows in users.items() if follows]
    if not users:
        yield skipped("no node of ours answered which clock it follows")
    elif following and not ticking:
        yield fail(
            f"use_sim_time is set for {', '.join(following)}, and no /clock comes: for them time stands still",
            "start the simulation's clock, or set use_sim_time to false",
        )
    elif ticking and len(following) < len(users):
        others = ", ".join(name for name in users if name not in following)
        yield warn(
            f"/clock comes, and {others} does not follow it: stamps of a simulation look wrong to it",
            "in a simulation set use_sim_time to true for all; on a robot nobody should publish /clock",
        )
    else:
        yield ok("all follow /clock" if following else "all follow the system's clock")
