"""What was seen of a live system: who is connected to whom, what came how often, what the nodes say of themselves."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import msgspec

# Our own names, as in `edge_bdl_firmware.ros.topics`, which only ROS can import.
MONITOR_NODE, GATE_NODE, GUARD_NODE = "edge_bdl_monitor", "edge_bdl_gate", "edge_bdl_guard"
IMAGE, IMAGE_COMPRESSED = "image", "image/compressed"
ASSESSMENT = f"{MONITOR_NODE}/assessment"
CMD_VEL_IN, CMD_VEL_OUT = "cmd_vel_in", "cmd_vel_out"
STATE, HEARTBEAT, LOCK = f"{GATE_NODE}/state", f"{GATE_NODE}/heartbeat", f"{GATE_NODE}/lock"
DIAGNOSTICS = "/diagnostics"
CLOCK = "/clock"
WATCHED = (
    IMAGE, IMAGE_COMPRESSED, ASSESSMENT, CMD_VEL_IN, CMD_VEL_OUT, STATE, HEARTBEAT, LOCK, DIAGNOSTICS, CLOCK,
)  # fmt: skip
VELOCITIES = ("geometry_msgs/msg/Twist", "geometry_msgs/msg/TwistStamped", "ackermann_msgs/msg/AckermannDriveStamped")


class Endpoint(msgspec.Struct, frozen=True):
    """A publisher or a subscription.

    Attributes:
        node: Full name, such as ``/robot/edge_bdl_gate``.
        type: Such as ``std_msgs/msg/Bool``.
    """

    node: str
    type: str

    @property
    def name(self) -> str:
        """Of the node, without its namespace."""
        return self.node.rpartition("/")[2]


class Mismatch(msgspec.Struct, frozen=True):
    """A publisher and a subscription that ROS does not connect: nodes, and the QoS policies that do not fit."""

    publisher: str
    subscriber: str
    reason: str


class Stream(msgspec.Struct, frozen=True):
    """When messages came, on CLOCK_MONOTONIC.

    Attributes:
        times_s: Of receipt.
        until_s: When nobody listened any more.
    """

    times_s: tuple[float, ...]
    until_s: float

    @property
    def rate_hz(self) -> float:
        """Messages a second since the first one; one that ceased halfway has half its rate."""
        if len(self.times_s) < 2:
            return 0.0
        return (len(self.times_s) - 1) / (self.until_s - self.times_s[0])

    @property
    def longest_gap_s(self) -> float:
        """Between two messages, or after the last one."""
        times_s = (*self.times_s, self.until_s)
        return max((after - before for before, after in itertools.pairwise(times_s)), default=0.0)


class Topic(msgspec.Struct, frozen=True):
    """A topic.

    Attributes:
        name: Full name, after all remappings.
        publishers: The doctor's own left out.
        subscribers: Also.
        mismatches: Pairs of them that are not connected.
        stream: What came; None where nobody listened, because there is no publisher or its type is not installed.
    """

    name: str
    publishers: tuple[Endpoint, ...] = ()
    subscribers: tuple[Endpoint, ...] = ()
    mismatches: tuple[Mismatch, ...] = ()
    stream: Stream | None = None


class Motion(msgspec.Struct, frozen=True):
    """One message of odometry: time of receipt, speed over ground in m/s, position in m."""

    time_s: float
    speed: float
    x: float = 0.0
    y: float = 0.0


class Drive(msgspec.Struct, frozen=True, kw_only=True):
    """A short drive that ended with silence.

    Attributes:
        topic: Full name of the topic that was commanded.
        through_gate: The command went in before the gate, whose zeros then stopped the base.
        speed: Commanded, m/s.
        last_command_s: When silence began.
        motions: Odometry from before the first command on.
        refusal: Why nothing was commanded at all; None where it was.
        refusal_remedy: What to do about that.
    """

    topic: str
    through_gate: bool
    speed: float
    last_command_s: float = 0.0
    motions: tuple[Motion, ...] = ()
    refusal: str | None = None
    refusal_remedy: str = ""


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """All that was seen.

    Attributes:
        topics: Those of `WATCHED`, by these names.
        velocities: All topics that carry commands to a base, by full name.
        odometers: Nodes that publish odometry.
        base_topic: What the base listens to, where the integrator said so.
        parameters: By our node's name; a node that did not answer is not in it.
        stamp_ages_s: How old the images were by their stamps, on the monitor's clock; NaN for a stamp of 0.
        state: The values of the gate's newest state; None where none came.
        lock: The newest; None where none came.
        drive: What ``--move`` did; None without it.
    """

    topics: Mapping[str, Topic]
    velocities: Mapping[str, Topic] = {}
    odometers: frozenset[str] = frozenset()
    base_topic: str | None = None
    parameters: Mapping[str, Mapping[str, object]] = {}
    stamp_ages_s: tuple[float, ...] = ()
    state: Mapping[str, str] | None = None
    lock: bool | None = None
    drive: Drive | None = None

    @property
    def camera(self) -> str:
        """Which of the two image topics is in use."""
        published = [name for name in (IMAGE, IMAGE_COMPRESSED) if self.topics[name].publishers]
        used = [name for name in published if self.topics[name].subscribers]
        return next(iter((*used, *published)), IMAGE)

    @property
    def chain(self) -> tuple[str, ...]:
        """Full names of the topics on which what the gate lets pass travels to the base, nearest first."""
        start, source = self.topics[CMD_VEL_OUT].name, self.topics[CMD_VEL_IN].name
        found = [start]
        for name in found:  # grows
            found += [after for after in self._fed_by(name) if after not in found and after != source]
        return tuple(found)

    @property
    def followers(self) -> frozenset[str]:
        """Nodes behind the gate."""
        return frozenset(
            subscriber.node
            for name in self.chain
            if name in self.velocities
            for subscriber in self.velocities[name].subscribers
        )

    def _fed_by(self, name: str) -> Iterator[str]:
        listeners = {subscriber.node for subscriber in self.velocities.get(name, Topic(name)).subscribers}
        for topic in self.velocities.values():
            if any(publisher.node in listeners for publisher in topic.publishers):
                yield topic.name
