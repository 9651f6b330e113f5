"""Is there a way around the gate?"""

from __future__ import annotations

from collections.abc import Iterator

from edge_bdl_firmware.doctor import observation as seen
from edge_bdl_firmware.doctor.finding import Finding, fail, ok, skipped, warn
from edge_bdl_firmware.doctor.observation import Observation, Topic


def ungated(observation: Observation) -> Iterator[Finding]:
    """Who takes the commands as they are before the gate."""
    topic = observation.topics[seen.CMD_VEL_IN]
    others = {subscriber.node for subscriber in topic.subscribers if subscriber.name != seen.GATE_NODE}
    movers = others & _moves_the_base(observation)
    for node in sorted(movers):
        yield fail(
            f"{node} obeys {topic.name}, past the gate",
            f"have it listen to what the gate lets pass, {observation.topics[seen.CMD_VEL_OUT].name}",
        )
    for node in sorted(others - movers):
        yield warn(f"{node} listens to {topic.name}", "a display or a recorder may; a base may not")
    if not others:
        yield ok(f"nobody but the gate listens to {topic.name}")


def base_publishers(observation: Observation) -> Iterator[Finding]:
    """Who commands behind the gate without listening to it."""
    chain, out = observation.chain, observation.topics[seen.CMD_VEL_OUT].name
    given = observation.base_topic
    behind = [observation.velocities.get(name, Topic(name)) for name in chain[1:]]
    if given is not None and given not in chain:
        behind.append(observation.velocities.get(given, Topic(given)))
        yield fail(
            f"what the gate lets pass on {out} does not reach {given}",
            "connect them: each node on the way listens to the one before",
        )
    strangers = False
    for topic in behind:
        for node in sorted({publisher.node for publisher in topic.publishers} - observation.followers):
            strangers = True
            yield fail(f"{node} commands the base on {topic.name}, past the gate", f"have it publish before {out}")
    if (given is not None and given not in chain) or strangers:
        return
    if not observation.topics[seen.CMD_VEL_OUT].subscribers:
        yield skipped(f"nobody listens to {out}")
    else:
        yield ok(f"all that commands the base comes through the gate: {' -> '.join(chain)}")


def _moves_the_base(observation: Observation) -> frozenset[str]:
    """Nodes that are behind the gate, that pass commands on, or that know how far the wheels have turned."""
    passing_on = {publisher.node for topic in observation.velocities.values() for publisher in topic.publishers}
    return observation.followers | passing_on | observation.odometers
