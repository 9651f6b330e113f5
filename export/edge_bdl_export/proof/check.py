"""One check's result, as the manifest keeps it."""

from __future__ import annotations

import msgspec

from edge_bdl.errors import ProofError
from edge_bdl.findings import ParityCheck
from edge_bdl.manifest import Manifest


def at_most(engine: str, name: str, value: float, limit: float) -> ParityCheck:
    """Passed where ``value`` does not exceed ``limit``; NaN never passes."""
    return ParityCheck(engine=engine, check=name, value=float(value), limit=float(limit), passed=bool(value <= limit))


def above(engine: str, name: str, value: float, limit: float) -> ParityCheck:
    """Passed where ``value`` exceeds ``limit``; NaN never passes."""
    return ParityCheck(engine=engine, check=name, value=float(value), limit=float(limit), passed=bool(value > limit))


def at_a_cost(manifest: Manifest, cost: str, remedy: str, accept_loss: bool) -> Manifest:
    """The manifest with a warning of what is beyond the limits.

    Raises:
        ProofError: It is not accepted.
    """
    if not accept_loss:
        raise ProofError(f"{cost}, nothing was written: {remedy}, or accept it with accept_loss=True (--accept-loss)")
    return msgspec.structs.replace(manifest, warnings=(*manifest.warnings, f"{cost}; it was accepted at export"))
