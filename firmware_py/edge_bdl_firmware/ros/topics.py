"""Names and QoS of all topics and services, once. Whoever wants others remaps the names; the QoS is part of the safety.

All names are relative, so that a namespace moves a whole robot; ``~`` is the node's own name.
"""

from __future__ import annotations

from typing import NamedTuple

from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy

MONITOR_NODE = "edge_bdl_monitor"
GATE_NODE = "edge_bdl_gate"
GUARD_NODE = "edge_bdl_guard"


class Topic(NamedTuple):
    """A topic's name and the QoS that we use it with."""

    name: str
    qos: QoSProfile


def _keep_last(depth: int, reliability: ReliabilityPolicy = ReliabilityPolicy.RELIABLE) -> QoSProfile:
    return QoSProfile(depth=depth, reliability=reliability)


# A camera that offers more than best effort matches too; only the newest image is of use.
IMAGE = Topic("image", _keep_last(1, ReliabilityPolicy.BEST_EFFORT))
IMAGE_COMPRESSED = Topic("image/compressed", _keep_last(1, ReliabilityPolicy.BEST_EFFORT))

ASSESSMENT = Topic("~/assessment", _keep_last(1))
#: The same topic, as the gate sees it.
ASSESSMENT_IN = Topic(f"{MONITOR_NODE}/assessment", ASSESSMENT.qos)

CMD_VEL_IN = Topic("cmd_vel_in", _keep_last(10))
CMD_VEL_OUT = Topic("cmd_vel_out", _keep_last(1))

# Transient local: whoever comes late learns the present state at once.
STATE = Topic("~/state", QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL))
DIAGNOSTICS = Topic("/diagnostics", _keep_last(10))
LOCK = Topic("~/lock", _keep_last(1))
SPEED_LIMIT = Topic("speed_limit", _keep_last(1))

# A stuck callback is seen by whoever asks for the deadline or the liveliness; automatic liveliness would vouch for it.
HEARTBEAT = Topic(
    "~/heartbeat",
    QoSProfile(
        depth=1,
        deadline=Duration(seconds=0.2),
        liveliness=LivelinessPolicy.MANUAL_BY_TOPIC,
        liveliness_lease_duration=Duration(seconds=0.5),
    ),
)
# Asking for less than is offered always matches; the guard has a clock of its own.
HEARTBEAT_IN = Topic(f"{GATE_NODE}/heartbeat", _keep_last(1))

ACKNOWLEDGE = "~/acknowledge"
TAKE_CONTROL = "~/take_control"
SET_BYPASS = "~/set_bypass"
