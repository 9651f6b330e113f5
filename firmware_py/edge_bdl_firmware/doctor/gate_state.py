"""What does the gate say of itself, and does it let twist_mux hear it?"""

from __future__ import annotations

from collections.abc import Iterator

from edge_bdl_firmware.doctor import observation as seen
from edge_bdl_firmware.doctor.finding import Finding, fail, ok, warn
from edge_bdl_firmware.doctor.observation import Observation

_REMEDIES = {
    "HOLD": "put right what the reason says; camera and monitor first",
    "SLOW": "the network is unsure of what it sees: look at edge-bdl watch",
    "HANDOFF": "a person takes over or acknowledges",
    "STOP": "put right what the reason says, then acknowledge",
}


def gate(observation: Observation) -> Iterator[Finding]:
    """Level, reason and bypass."""
    state, node = observation.state, observation.topics[seen.STATE].name.rpartition("/")[0]
    if state is None:
        yield fail("the gate did not say its state", "start edge-bdl ros-gate, or look at why it hangs")
        return
    level, reason = state.get("level", "?"), state.get("reason", "?")
    if level == "NOMINAL":
        yield ok(f"the gate is NOMINAL: {reason}")
    elif level == "SLOW":
        yield warn(f"the gate is SLOW: {reason}", _REMEDIES[level])
    else:
        acknowledge = f" (ros2 service call {node}/acknowledge std_srvs/srv/Trigger)"
        remedy = _REMEDIES.get(level, "this is no gate of this version")
        yield fail(f"the gate is {level}: {reason}", remedy + acknowledge * (level in ("HANDOFF", "STOP")))
    if state.get("bypass") == "True":
        yield fail("a bypass is set: the gate does not judge", f"end it: {_set_bool(node, 'set_bypass')}")


def lock(observation: Observation) -> Iterator[Finding]:
    """For twist_mux: a lock mutes the gate, and a muted gate cannot send zeros."""
    topic = observation.topics[seen.LOCK].name
    if observation.lock is None:
        yield fail(f"nothing came on {topic}", "start edge-bdl ros-gate, or look at why it hangs")
    elif observation.lock:
        yield fail(
            f"{topic} is true: a human has control, and the gate is muted",
            f"give it back: {_set_bool(topic.rpartition('/')[0], 'take_control')}",
        )
    else:
        yield ok(f"{topic} is false")


def _set_bool(node: str, service: str) -> str:
    return f"ros2 service call {node}/{service} std_srvs/srv/SetBool '{{data: false}}'"
