"""From what the monitor said to what the policy is told: one rule for the gate and for a replay of it."""

from __future__ import annotations

import math

from edge_bdl.policy import Evidence
from edge_bdl_firmware.messages import Assessment, Step


def evidence_of_assessment(assessment: Assessment, age_s: float) -> Evidence:
    """What an assessment says when its frame is ``age_s`` old."""
    fault = assessment.fault
    if fault is None and not all(map(math.isfinite, assessment.scores.values())):
        bad = [name for name, value in assessment.scores.items() if not math.isfinite(value)]
        fault = f"not finite: {', '.join(bad)}"
    return Evidence(scores=assessment.scores, samples=assessment.samples, age_s=age_s, fault=fault)


def evidence_of(step: Step, assessment: Assessment | None) -> Evidence | None:
    """What the policy was told in a recorded step.

    Args:
        step: As recorded.
        assessment: The one that was new in it; None where none was.
    """
    if step.fault is not None:
        return Evidence(scores={}, samples=0, fault=step.fault)
    return None if assessment is None else evidence_of_assessment(assessment, step.age_s)
