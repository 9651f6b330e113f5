"""All checks by name, and what they say of one observation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec

from edge_bdl_firmware.doctor.base_timeout import base_timeout
from edge_bdl_firmware.doctor.bypass import base_publishers, ungated
from edge_bdl_firmware.doctor.clocks import sim_time, stamps
from edge_bdl_firmware.doctor.endpoints import endpoints
from edge_bdl_firmware.doctor.finding import Finding
from edge_bdl_firmware.doctor.gate_state import gate, lock
from edge_bdl_firmware.doctor.observation import Observation
from edge_bdl_firmware.doctor.qos import qos
from edge_bdl_firmware.doctor.rates import rates
from edge_bdl_firmware.doctor.second_publishers import second_publishers

CHECKS: dict[str, Callable[[Observation], Iterator[Finding]]] = {
    "endpoints": endpoints,
    "qos": qos,
    "rates": rates,
    "stamps": stamps,
    "sim-time": sim_time,
    "second-publishers": second_publishers,
    "ungated": ungated,
    "base-publishers": base_publishers,
    "gate": gate,
    "lock": lock,
    "base-timeout": base_timeout,
}


class Result(msgspec.Struct, frozen=True):
    """One check's findings; there is at least one."""

    check: str
    findings: tuple[Finding, ...]


def examine(observation: Observation, names: Iterable[str] = tuple(CHECKS)) -> tuple[Result, ...]:
    """What the checks of these names say."""
    return tuple(Result(name, tuple(CHECKS[name](observation))) for name in names)


def passed(results: Iterable[Result]) -> bool:
    """Whether no check failed."""
    return all(finding.status != "fail" for result in results for finding in result.findings)
