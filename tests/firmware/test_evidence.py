"""What the policy is told: the same by the gate and by whoever replays it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_bdl.policy import Evidence
from edge_bdl_firmware.evidence import evidence_of, evidence_of_assessment
from edge_bdl_firmware.messages import Assessment, Step

numbers = st.floats(allow_nan=False, allow_infinity=False)


def assessed(scores: dict[str, float], fault: str | None = None) -> Assessment:
    return Assessment(
        sequence=3, stamp_ns=1, received_s=10.0, boot_id="boot", bundle="b" * 64, scores=scores, samples=16, fault=fault
    )


def step(assessment: int | None = 3, age_s: float = 0.05, fault: str | None = None) -> Step:
    return Step(
        now_s=10.05, trigger="assessment", assessment=assessment, age_s=age_s, fault=fault, level="NOMINAL",
        speed_factor=1.0, reason="", output=(),
    )  # fmt: skip


@given(st.dictionaries(st.text(), numbers), st.floats(allow_nan=True))
def test_a_sound_assessment_is_passed_on_as_it_is(scores: dict[str, float], age_s: float) -> None:
    evidence = evidence_of_assessment(assessed(scores), age_s)
    assert (evidence.scores, evidence.samples, evidence.fault) == (scores, 16, None)
    assert evidence.age_s == age_s or math.isnan(age_s)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_is_a_fault_by_name(bad: float) -> None:
    evidence = evidence_of_assessment(assessed({"epistemic": 0.1, "density": bad, "total": bad}), 0.0)
    assert evidence.fault == "not finite: density, total"


def test_the_monitors_own_fault_comes_first() -> None:
    assert evidence_of_assessment(assessed({"epistemic": math.nan}, "no contrast"), 0.0).fault == "no contrast"


def test_a_recorded_step_says_with_its_assessment_what_the_policy_was_told() -> None:
    assessment = assessed({"epistemic": 0.1})
    assert evidence_of(step(), assessment) == Evidence({"epistemic": 0.1}, 16, 0.05)
    assert evidence_of(step(), assessed({}, "no contrast")) == Evidence({}, 16, 0.05, "no contrast")


def test_the_gates_own_fault_stands_for_whatever_the_assessment_says() -> None:
    for assessment in (None, assessed({"epistemic": 0.1})):
        assert evidence_of(step(fault="the disk"), assessment) == Evidence({}, 0, 0.0, "the disk")


def test_a_step_without_an_assessment_told_nothing() -> None:
    assert evidence_of(step(None), None) is None
