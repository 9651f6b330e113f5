"""Recipe referral: errors before and after by hand, every case judged once, a short run."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from edge_bdl.errors import InputError
from edge_bdl_train.data.breast_cancer import load_breast_cancer
from edge_bdl_train.recipes.referral import Judged, ReferralConfig, ReferralStudy

pytest.importorskip("sklearn")


def test_referral_takes_the_least_certain_away() -> None:
    judged = Judged(np.array([True, False, False, True, False]), np.array([0.9, 0.1, 0.2, 0.3, 0.8]))
    assert judged.error() == pytest.approx(40.0)
    assert judged.error(0.2) == pytest.approx(25.0)
    assert judged.error(0.6) == pytest.approx(0.0)


def test_the_uncertainty_is_the_entropy_of_the_members_average(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = torch.tensor([[0.9, 0.1], [0.3, 0.7]], dtype=torch.float64)
    study = ReferralStudy(ReferralConfig(folds=2))
    monkeypatch.setattr(
        study, "_answers", lambda label, data, train, test, *rest: answers[:, None].repeat(1, len(test), 1)
    )
    data = load_breast_cancer()
    judged = study.judge("point", data, seed=0)
    np.testing.assert_allclose(judged.uncertainty, -0.6 * math.log(0.6) - 0.4 * math.log(0.4))
    assert np.array_equal(judged.wrong, data.labels != 0)


def test_a_short_run_judges_every_case_and_referral_lowers_the_error(tmp_path: Path) -> None:
    study = ReferralStudy(ReferralStudy.quick_config())
    before, after = study.record(tmp_path)[:2]
    assert before.what == "point: error of all cases, %"
    # 37 % are malignant: a network that has learned something is far below.
    assert 0.0 < before.mean < 10.0
    assert after.mean < 0.7 * before.mean
    assert (tmp_path / "referral.png").read_bytes().startswith(b"\x89PNG")


def test_shares_folds_and_methods_that_make_no_sense_are_refused() -> None:
    for settings in ({"referred": 1.0}, {"folds": 1}, {"methods": ("magic",)}):
        with pytest.raises(InputError, match=r"referred is a share|expected of point"):
            ReferralConfig(**settings)
