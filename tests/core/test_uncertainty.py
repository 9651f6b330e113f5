"""The decompositions against closed forms, torch, and what must hold for any members."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_bdl.uncertainty import Uncertainty, classification, decompose, heteroscedastic, regression


def softmax(logits: np.ndarray[Any, Any], axis: int) -> np.ndarray[Any, Any]:
    powers = np.exp(logits - logits.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


# Closed forms


def test_opposite_certain_members_are_all_epistemic() -> None:
    certain = np.array([[100.0, 0.0], [0.0, 100.0]])
    plug_in = classification(certain, 0, unbiased=False)
    np.testing.assert_allclose(plug_in.mean, [0.5, 0.5])
    np.testing.assert_allclose(plug_in.epistemic, math.log(2))
    np.testing.assert_allclose(plug_in.aleatoric, 0.0, atol=1e-12)


def test_undecided_members_are_all_aleatoric() -> None:
    result = classification(np.zeros((4, 3)), 0)
    np.testing.assert_allclose(result.aleatoric, math.log(3))
    np.testing.assert_allclose(result.epistemic, 0.0, atol=1e-15)
    np.testing.assert_allclose(result.total, math.log(3))


def test_mutual_information_of_two_binary_members_is_the_textbook_difference() -> None:
    def entropy(p: float) -> float:
        return -p * math.log(p) - (1 - p) * math.log(1 - p)

    members = np.log(np.array([[0.9, 0.1], [0.6, 0.4]]))
    plug_in = classification(members, 0, unbiased=False)
    np.testing.assert_allclose(plug_in.total, entropy(0.75))
    np.testing.assert_allclose(plug_in.aleatoric, (entropy(0.9) + entropy(0.6)) / 2)
    np.testing.assert_allclose(plug_in.epistemic, entropy(0.75) - (entropy(0.9) + entropy(0.6)) / 2)
    corrected = classification(members, 0)
    np.testing.assert_allclose(corrected.epistemic, 2 * plug_in.epistemic)
    np.testing.assert_allclose(corrected.aleatoric, plug_in.aleatoric)


def test_corrected_mutual_information_never_passes_the_largest_there_is() -> None:
    result = classification(np.array([[100.0, 0.0], [0.0, 100.0]]), 0)
    np.testing.assert_allclose(result.epistemic, math.log(2))


def test_huge_logits_neither_overflow_nor_lose_a_class() -> None:
    result = classification(np.array([[3e38, -3e38, 0.0], [3e38, -3e38, 0.0]], np.float32), 0)
    np.testing.assert_array_equal(result.mean, [1.0, 0.0, 0.0])
    np.testing.assert_array_equal([result.aleatoric, result.epistemic, result.total], 0.0)


def test_variance_of_point_predictions_divides_by_one_less_for_independent_members() -> None:
    members = np.array([[1.0], [2.0], [6.0]])
    np.testing.assert_allclose(regression(members).epistemic, [7.0])
    np.testing.assert_allclose(regression(members, unbiased=False).epistemic, [14 / 3])
    np.testing.assert_allclose(regression(members).mean, [3.0])
    np.testing.assert_array_equal(regression(members).aleatoric, [0.0])
    np.testing.assert_allclose(regression(members).standard_error, [math.sqrt(7 / 3)])


def test_heteroscedastic_variances_add_up() -> None:
    members = np.array([[1.0, 5.0, math.log(2.0), math.log(0.5)], [3.0, 5.0, math.log(4.0), math.log(1.5)]])
    result = heteroscedastic(members)
    np.testing.assert_allclose(result.mean, [2.0, 5.0])
    np.testing.assert_allclose(result.aleatoric, [3.0, 1.0])
    np.testing.assert_allclose(result.epistemic, [2.0, 0.0])
    np.testing.assert_allclose(result.total, [5.0, 1.0])


def test_a_log_variance_out_of_range_is_infinite_and_silent() -> None:
    assert heteroscedastic(np.array([[0.0, 1000.0], [1.0, 0.0]])).aleatoric == math.inf


def test_weights_count_like_repeated_members() -> None:
    rng = np.random.default_rng(1)
    few, weights = rng.normal(size=(3, 4)), np.array([0.5, 0.25, 0.25])
    many = few[[0, 0, 1, 2]]
    for task, axis in (("regression", None), ("heteroscedastic", None), ("classification", 0)):
        weighted = decompose(task, few, weights=weights, unbiased=False, class_axis=axis)
        repeated = decompose(task, many, unbiased=False, class_axis=axis)
        for left, right in zip(weighted[:4], repeated[:4], strict=True):
            np.testing.assert_allclose(left, right, atol=1e-12)


@pytest.mark.parametrize(("task", "axis"), [("regression", None), ("heteroscedastic", None), ("classification", 0)])
def test_one_member_says_nothing_about_the_others(task: Any, axis: int | None) -> None:
    for unbiased in (True, False):
        result = decompose(task, np.array([[0.5, -0.5]]), class_axis=axis, unbiased=unbiased)
        assert np.isnan(result.epistemic).all()
        assert np.isnan(result.total).all()
        assert np.isnan(result.standard_error).all()
        assert np.isfinite(result.mean).all()
        assert np.isfinite(result.aleatoric).all()


# Statistics, with fixed seeds


def test_independent_members_give_an_unbiased_variance_and_its_standard_error_covers() -> None:
    rng = np.random.default_rng(7)
    members = rng.normal(3.0, 2.0, size=(4, 200_000))
    result = regression(members)
    assert abs(result.epistemic.mean() - 4.0) < 5 * math.sqrt(2 * 16 / 3 / 200_000)
    # (mean - mu) / standard error has Student's t distribution with 3 degrees of freedom: 0.8587 within 1.96 ...
    covered = (np.abs(result.mean - 3.0) < 3.182446 * result.standard_error).mean()  # ... and 0.95 within 3.182.
    assert abs(covered - 0.95) < 5 * math.sqrt(0.95 * 0.05 / 200_000)


def test_corrected_mutual_information_of_few_members_is_near_that_of_many() -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(4096, 10)) * 0.3
    truth = float(classification(logits, 0).epistemic)
    draws = logits.reshape(1024, 4, 10).swapaxes(0, 1)
    corrected = classification(draws, 1).epistemic.mean()
    plug_in = classification(draws, 1, unbiased=False).epistemic.mean()
    assert abs(corrected / truth - 1) < 0.02
    assert abs(plug_in / truth - 0.75) < 0.02


# torch as the independent reference


@pytest.mark.parametrize("class_axis", [0, 1, 2])
def test_classification_equals_torch_distributions(class_axis: int) -> None:
    torch = pytest.importorskip("torch")
    logits = np.random.default_rng(class_axis).normal(size=(6, 4, 3, 5)) * 3
    last = torch.from_numpy(np.moveaxis(logits, class_axis + 1, -1).copy())
    members = torch.distributions.Categorical(logits=last)
    mixture = torch.distributions.Categorical(probs=members.probs.mean(0))
    result = classification(logits, class_axis, unbiased=False)
    np.testing.assert_allclose(np.moveaxis(result.mean, class_axis, -1), mixture.probs.numpy(), atol=1e-12)
    np.testing.assert_allclose(result.total, mixture.entropy().numpy(), atol=1e-12)
    np.testing.assert_allclose(result.aleatoric, members.entropy().mean(0).numpy(), atol=1e-12)
    np.testing.assert_allclose(
        result.epistemic, (mixture.entropy() - members.entropy().mean(0)).clamp(min=0).numpy(), atol=1e-12
    )
    error = members.probs.std(0, unbiased=True) / math.sqrt(6)
    np.testing.assert_allclose(np.moveaxis(result.standard_error, class_axis, -1), error.numpy(), atol=1e-12)


def test_regression_and_heteroscedastic_equal_torch() -> None:
    torch = pytest.importorskip("torch")
    members = np.random.default_rng(0).normal(size=(5, 2, 3, 4)).astype(np.float32)
    tensor = torch.from_numpy(members).double()
    plain = regression(members)
    np.testing.assert_allclose(plain.epistemic, tensor.var(0).numpy(), rtol=1e-12)
    np.testing.assert_allclose(plain.mean, tensor.mean(0).numpy(), rtol=1e-12)
    noisy = heteroscedastic(members)
    np.testing.assert_allclose(noisy.epistemic, tensor[..., :2].var(0).numpy(), rtol=1e-12)
    np.testing.assert_allclose(noisy.aleatoric, tensor[..., 2:].exp().mean(0).numpy(), rtol=1e-12)
    np.testing.assert_allclose(noisy.standard_error, (tensor[..., :2].std(0) / math.sqrt(5)).numpy(), rtol=1e-12)


def test_a_dense_output_keeps_its_dtype_and_agrees_with_the_wide_result() -> None:
    logits = np.random.default_rng(5).normal(size=(4, 8, 192, 192)).astype(np.float32)
    dense = classification(logits, 0)
    assert dense.mean.dtype == np.float32
    assert dense.epistemic.shape == (192, 192)
    corner = classification(logits[:, :, :8, :8], 0)
    for narrow, wide in zip(dense, corner, strict=True):
        np.testing.assert_allclose(narrow[..., :8, :8], wide, atol=3e-6)


# What holds for any members

finite = st.floats(-50, 50, width=32)


def any_members(last: int | None = None) -> st.SearchStrategy[Any]:
    shapes = st.tuples(st.integers(2, 6), st.integers(1, 3), st.integers(1, 3) if last is None else st.just(last))
    return shapes.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=finite))


def check_decomposition(result: Uncertainty) -> None:
    for part in result[1:]:
        assert np.isfinite(part).all()
        assert (part >= 0.0).all()
    np.testing.assert_allclose(result.total, result.aleatoric + result.epistemic)


@given(members=any_members(), unbiased=st.booleans(), class_axis=st.sampled_from([0, 1]))
def test_class_entropies_add_up_within_their_bounds(members: Any, unbiased: bool, class_axis: int) -> None:
    result = classification(members, class_axis, unbiased=unbiased)
    check_decomposition(result)
    classes = members.shape[class_axis + 1]
    assert (result.epistemic <= math.log(classes)).all()
    assert (result.aleatoric <= math.log(classes) + 1e-9).all()
    np.testing.assert_allclose(result.mean.sum(axis=class_axis), 1.0)
    np.testing.assert_allclose(result.mean, softmax(members.astype(float), class_axis + 1).mean(0), atol=1e-12)


@given(members=any_members(), unbiased=st.booleans())
def test_variances_of_targets_add_up(members: Any, unbiased: bool) -> None:
    check_decomposition(regression(members, unbiased=unbiased))


@given(members=any_members(last=4), unbiased=st.booleans())
def test_variances_of_noisy_targets_add_up(members: Any, unbiased: bool) -> None:
    check_decomposition(heteroscedastic(members, unbiased=unbiased))


@given(members=any_members(last=4), data=st.data())
def test_the_order_of_members_does_not_matter(members: Any, data: Any) -> None:
    order = data.draw(st.permutations(range(len(members))))
    for task in ("classification", "regression", "heteroscedastic"):
        here = decompose(task, members, class_axis=1)
        there = decompose(task, members[list(order)], class_axis=1)
        for left, right in zip(here, there, strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-6)
