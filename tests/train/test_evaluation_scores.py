"""Scores by the members' disagreement: the runtime's own decomposition, whichever way one gets to it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from edge_bdl.errors import InputError
from edge_bdl.uncertainty import classification, heteroscedastic
from edge_bdl_train.evaluation.scores import (
    class_scores,
    decompose_classes,
    decompose_gaussians,
    energy,
    gaussian_scores,
)


def test_two_sure_members_that_disagree_are_epistemic_only() -> None:
    # As plug-in: the average's entropy is log 2, each member's 0. Of two independent draws twice that, cut at log 2.
    members = [[[1.0, 0.0]], [[0.0, 1.0]]]
    plain = decompose_classes(members, unbiased=False)
    assert plain.aleatoric[0] == pytest.approx(0.0, abs=1e-300)
    assert plain.epistemic[0] == pytest.approx(math.log(2))
    assert plain.total[0] == pytest.approx(math.log(2))


def test_members_that_agree_are_aleatoric_only() -> None:
    parts = decompose_classes([[[0.25, 0.75]]] * 3)
    assert parts.aleatoric[0] == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75))
    assert parts.epistemic[0] == pytest.approx(0.0, abs=1e-12)


def test_probabilities_give_what_the_runtime_makes_of_logits() -> None:
    logits = np.random.default_rng(0).normal(0.0, 3.0, (7, 20, 4))
    ours = decompose_classes(torch.from_numpy(logits).softmax(-1))
    for mine, theirs in zip(ours, classification(logits, 1), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12)


def test_variances_give_what_the_runtime_makes_of_their_logarithms() -> None:
    rng = np.random.default_rng(1)
    mean, log_variance = rng.normal(size=(5, 30)), rng.normal(size=(5, 30))
    ours = decompose_gaussians(mean, np.exp(log_variance))
    for mine, theirs in zip(ours, heteroscedastic(np.stack([mean, log_variance], -1)), strict=True):
        np.testing.assert_allclose(mine, theirs[:, 0], rtol=1e-12)


def test_the_law_of_total_variance_worked_by_hand() -> None:
    parts = decompose_gaussians([[1.0], [3.0]], [[0.5], [1.5]])
    assert (parts.mean[0], parts.aleatoric[0], parts.epistemic[0], parts.total[0]) == pytest.approx((2, 1, 2, 3))
    assert decompose_gaussians([[1.0], [3.0]], [[0.5], [1.5]], unbiased=False).epistemic[0] == pytest.approx(1)


def test_noise_free_members_have_no_aleatoric_part() -> None:
    parts = decompose_gaussians([[1.0], [3.0]], [[0.0], [0.0]])
    assert parts.aleatoric[0] == pytest.approx(0.0, abs=1e-300)
    assert parts.total[0] == pytest.approx(2.0)


def test_one_member_has_a_total_and_no_epistemic_score() -> None:
    classes = class_scores([[0.25, 0.75], [1.0, 0.0]])
    assert set(classes) == {"total", "max_probability"}
    assert classes["total"].tolist() == pytest.approx([-0.25 * math.log(0.25) - 0.75 * math.log(0.75), 0.0])
    gaussians = gaussian_scores([1.0, 2.0], [0.5, 0.1])
    assert set(gaussians) == {"total"}
    assert gaussians["total"].tolist() == pytest.approx([0.5, 0.1])


def test_max_probability_is_that_of_the_average() -> None:
    scores = class_scores([[[0.9, 0.1]], [[0.3, 0.7]]])
    assert scores["max_probability"].tolist() == pytest.approx([0.4])


def test_energy_worked_by_hand() -> None:
    # -log(e^0 + e^log3) = -log 4; members' energies are averaged.
    assert energy([[0.0, math.log(3.0)]]).tolist() == pytest.approx([-math.log(4.0)])
    members = [[[0.0, math.log(3.0)]], [[0.0, math.log(7.0)]]]
    assert energy(members).tolist() == pytest.approx([-(math.log(4.0) + math.log(8.0)) / 2])


def test_the_energy_is_a_score_where_there_are_logits() -> None:
    logits = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    scores = class_scores(logits.softmax(-1), logits)
    assert set(scores) == {"total", "epistemic", "max_probability", "energy"}
    assert torch.equal(scores["energy"], energy(logits))
    assert all(score.shape == (5,) and score.dtype == torch.float64 for score in scores.values())
    assert set(class_scores(logits[0].softmax(-1), logits[0])) == {"total", "max_probability", "energy"}


def test_scores_are_larger_where_it_is_worse() -> None:
    # The first example is clear to all members, the second to none.
    logits = torch.tensor([[[9.0, 0.0], [0.5, 0.0]], [[8.0, 0.0], [0.0, 0.7]]])
    for name, score in class_scores(logits.softmax(-1), logits).items():
        assert score[1] > score[0], name


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="give them of one shape"):
        class_scores([[0.5, 0.5]], [[0.0, 0.0], [0.0, 0.0]])
    with pytest.raises(InputError, match="logits are not finite"):
        energy([[math.nan, 0.0]])
    with pytest.raises(InputError, match="sum to 1"):
        decompose_classes([[0.5, 0.6]])
    with pytest.raises(InputError, match="cannot be negative"):
        decompose_gaussians([0.0], [-1.0])
