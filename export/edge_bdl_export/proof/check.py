"""One check's result, as the manifest keeps it."""

from __future__ import annotations

from edge_bdl.findings import ParityCheck


def at_most(engine: str, name: str, value: float, limit: float) -> ParityCheck:
    """Passed where ``value`` does not exceed ``limit``; NaN never passes."""
    return ParityCheck(engine=engine, check=name, value=float(value), limit=float(limit), passed=bool(value <= limit))


def above(engine: str, name: str, value: float, limit: float) -> ParityCheck:
    """Passed where ``value`` exceeds ``limit``; NaN never passes."""
    return ParityCheck(engine=engine, check=name, value=float(value), limit=float(limit), passed=bool(value > limit))
