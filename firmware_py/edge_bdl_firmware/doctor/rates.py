"""Does everything come as often as the gate needs it?"""

from __future__ import annotations

from collections.abc import Iterator

from edge_bdl.policy_spec import LONGEST_TIMEOUT_S
from edge_bdl_firmware.doctor import observation as seen
from edge_bdl_firmware.doctor.finding import Finding, fail, ok, skipped, warn
from edge_bdl_firmware.doctor.observation import Observation, Topic

_TOLERANCE = 0.9  # a few seconds are no exact measurement
_COMMAND_TIMEOUT_S = 0.5
_LEAST_OUT_HZ, _LEAST_BEATS_HZ = 10.0, 5.0


def rates(observation: Observation) -> Iterator[Finding]:
    """Messages a second of what the safety rests on."""
    gate = observation.parameters.get(seen.GATE_NODE, {})
    camera_hz = _number(gate.get("camera_rate_hz"))
    # The gate takes evidence as old as two frames.
    least_hz = 2.0 / (_number(gate.get("assessment_timeout_s")) or LONGEST_TIMEOUT_S)
    least_hz = min(least_hz, camera_hz or least_hz)
    topics = observation.topics
    yield _frames(
        topics[observation.camera], least_hz, camera_hz, "a faster camera, or shorter exposure; on Wi-Fi send JPEG"
    )
    yield _frames(
        topics[seen.ASSESSMENT], least_hz, camera_hz, "fewer samples or a faster engine: edge-bdl profile BUNDLE"
    )
    yield _commands(topics[seen.CMD_VEL_IN], _number(gate.get("command_timeout_s")) or _COMMAND_TIMEOUT_S)
    for name, least in ((seen.CMD_VEL_OUT, _LEAST_OUT_HZ), (seen.HEARTBEAT, _LEAST_BEATS_HZ)):
        yield _at_least(topics[name], least, "look at the gate: its process, its parameter rate_hz, the load (top)")


def _frames(topic: Topic, least_hz: float, camera_hz: float | None, remedy: str) -> Finding:
    finding = _at_least(topic, least_hz, remedy)
    if topic.stream is None or camera_hz is None or finding.status != "ok":
        return finding
    rate_hz = topic.stream.rate_hz
    if rate_hz < camera_hz * _TOLERANCE:
        return warn(
            f"{topic.name} comes at {rate_hz:.1f} Hz, the gate's camera_rate_hz is {camera_hz:g}",
            f"{remedy}; or set camera_rate_hz to what it is",
        )
    return finding


def _commands(topic: Topic, timeout_s: float) -> Finding:
    if topic.stream is not None and not topic.stream.times_s:
        return warn(f"{topic.name} is silent", "an idle robot is no fault; to see its rate, let the controller drive")
    return _at_least(topic, 2.0 / timeout_s, f"the gate stops {timeout_s:g} s after a command: send them more often")


def _at_least(topic: Topic, least_hz: float, remedy: str) -> Finding:
    if topic.stream is None:
        return skipped(_unheard(topic))
    rate_hz, gap_s = topic.stream.rate_hz, topic.stream.longest_gap_s
    if rate_hz < least_hz * _TOLERANCE:
        return fail(f"{topic.name} comes at {rate_hz:.1f} Hz, expected at least {least_hz:.3g}", remedy)
    if gap_s > 2.0 / least_hz:
        return warn(f"{topic.name} comes at {rate_hz:.1f} Hz, but once paused for {gap_s:.2f} s", remedy)
    return ok(f"{topic.name} comes at {rate_hz:.1f} Hz")


def _unheard(topic: Topic) -> str:
    if not topic.publishers:
        return f"nobody publishes {topic.name}"
    return f"{topic.name} cannot be listened to: {topic.publishers[0].type} is not installed here"


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and value > 0 else None
