"""Is every subscription connected with every publisher of its topic?"""

from __future__ import annotations

from collections.abc import Iterator

from edge_bdl_firmware.doctor.finding import Finding, fail, ok
from edge_bdl_firmware.doctor.observation import Observation


def qos(observation: Observation) -> Iterator[Finding]:
    """Pairs on our topics, and on those behind the gate, that ROS keeps apart."""
    behind = [observation.velocities[name] for name in observation.chain if name in observation.velocities]
    topics = {topic.name: topic for topic in (*observation.topics.values(), *behind)}
    pairs = 0
    fits = True
    for topic in topics.values():
        pairs += len(topic.publishers) * len(topic.subscribers)
        for mismatch in topic.mismatches:
            fits = False
            yield fail(
                f"{topic.name}: {mismatch.subscriber} receives nothing from {mismatch.publisher}: {mismatch.reason}",
                "a publisher must offer at least what a subscription asks for: "
                "make the publisher reliable, or have the other node ask for less",
            )
    if fits:
        yield ok(f"the QoS of all {pairs} pairs of publisher and subscription fits")
