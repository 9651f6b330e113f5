"""Is everybody there, and does everybody speak the same type?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from edge_bdl_firmware.doctor import observation as seen
from edge_bdl_firmware.doctor.finding import Finding, fail, ok, warn
from edge_bdl_firmware.doctor.observation import Endpoint, Observation, Topic

_GATE = "start edge-bdl ros-gate, in the same namespace and ROS_DOMAIN_ID"
_MONITOR = "start edge-bdl ros-monitor, in the same namespace and ROS_DOMAIN_ID"
_REMAP = "or tell its name: --ros-args -r"


class _Expected(NamedTuple):
    """A topic: its types, and what to do where nobody publishes or subscribes; None: nobody must."""

    topic: str
    types: tuple[str, ...]
    no_publisher: str
    no_subscriber: str | None


_IMAGE_HELP = (f"start the camera, {_REMAP} image:=/camera/image_raw", _MONITOR)
_ARRAY = "diagnostic_msgs/msg/DiagnosticArray"
_TABLE = (
    _Expected(seen.IMAGE, ("sensor_msgs/msg/Image",), *_IMAGE_HELP),
    _Expected(seen.IMAGE_COMPRESSED, ("sensor_msgs/msg/CompressedImage",), *_IMAGE_HELP),
    _Expected(seen.ASSESSMENT, (_ARRAY,), _MONITOR, _GATE),
    _Expected(seen.CMD_VEL_IN, seen.VELOCITIES, f"start the controller, {_REMAP} cmd_vel_in:=/cmd_vel_smoothed", _GATE),
    _Expected(
        seen.CMD_VEL_OUT,
        seen.VELOCITIES,
        _GATE,
        f"have what comes next, or the base, listen to it, {_REMAP} cmd_vel_out:=/cmd_vel_gated",
    ),
    _Expected(seen.STATE, ("diagnostic_msgs/msg/DiagnosticStatus",), _GATE, None),
    _Expected(seen.HEARTBEAT, ("std_msgs/msg/Bool",), _GATE, None),
    _Expected(seen.LOCK, ("std_msgs/msg/Bool",), _GATE, None),
    _Expected(seen.DIAGNOSTICS, (_ARRAY,), _GATE, None),
)


def endpoints(observation: Observation) -> Iterator[Finding]:
    """Publishers, subscribers and types of every topic of ours."""
    cameras = {seen.IMAGE, seen.IMAGE_COMPRESSED} - {observation.camera}
    for expected in _TABLE:
        if expected.topic not in cameras:
            yield _judged(expected, observation.topics[expected.topic])
    if not observation.topics[seen.HEARTBEAT].subscribers:
        yield warn(
            "nobody listens to the gate's heartbeat: if the gate dies, only the base's own timeout stops it",
            "start edge-bdl ros-guard, or prove the base's timeout with --move --base-topic",
        )
    velocities = (*_all(observation.topics[seen.CMD_VEL_IN]), *_all(observation.topics[seen.CMD_VEL_OUT]))
    if len({endpoint.type for endpoint in velocities}) > 1:
        yield fail(
            f"commands before and after the gate are of several types: {_by_type(velocities)}",
            "the gate's parameter enable_stamped_cmd_vel chooses TwistStamped; controller and base need the same",
        )


def _judged(expected: _Expected, topic: Topic) -> Finding:
    wrong = [endpoint for endpoint in _all(topic) if endpoint.type not in expected.types]
    if wrong:
        return fail(f"{topic.name} is used with {_by_type(wrong)}", f"expected {' or '.join(expected.types)}")
    if not topic.publishers:
        return fail(f"nobody publishes {topic.name}", expected.no_publisher)
    if expected.no_subscriber is not None and not topic.subscribers:
        return fail(f"nobody subscribes to {topic.name}", expected.no_subscriber)
    return ok(f"{topic.name}: {_names(topic.publishers)} -> {_names(topic.subscribers) or 'nobody, as may be'}")


def _all(topic: Topic) -> tuple[Endpoint, ...]:
    return (*topic.publishers, *topic.subscribers)


def _names(endpoints: Iterable[Endpoint]) -> str:
    return ", ".join(sorted({endpoint.node for endpoint in endpoints}))


def _by_type(endpoints: Iterable[Endpoint]) -> str:
    return ", ".join(sorted({f"{endpoint.type} ({endpoint.node})" for endpoint in endpoints}))
