"""Does anybody but the gate and the guard command where the gate does?"""

from __future__ import annotations

from collections.abc import Iterator

from edge_bdl_firmware.doctor import observation as seen
from edge_bdl_firmware.doctor.finding import Finding, fail, ok, skipped
from edge_bdl_firmware.doctor.observation import Observation


def second_publishers(observation: Observation) -> Iterator[Finding]:
    """Publishers of cmd_vel_out."""
    topic = observation.topics[seen.CMD_VEL_OUT]
    gates = [publisher for publisher in topic.publishers if publisher.name == seen.GATE_NODE]
    strangers = {publisher.node for publisher in topic.publishers} - {gate.node for gate in gates}
    strangers = {node for node in strangers if node.rpartition("/")[2] != seen.GUARD_NODE}
    if strangers:
        yield fail(
            f"{', '.join(sorted(strangers))} publishes on {topic.name} beside the gate: the base obeys both",
            "have it publish before the gate (cmd_vel_in), or on an own input of twist_mux",
        )
    if len(gates) > 1:
        yield fail(f"{len(gates)} gates publish on {topic.name}", "end all but one")
    if not gates:
        yield skipped(f"no gate publishes on {topic.name}")
    elif len(gates) == 1 and not strangers:
        yield ok(f"only {gates[0].node} and its guard command on {topic.name}")
