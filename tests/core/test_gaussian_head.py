"""A Gaussian over the outputs: against closed forms, quadrature and many draws."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_bdl.errors import EngineError
from edge_bdl.gaussian_head import Moments, closed_form, draw, probit, read
from edge_bdl.manifest import GaussianHead, Manifest, decode, encode
from edge_bdl.uncertainty import classification

BUNDLE = Path(__file__).parents[1] / "bundles" / "tiny_gaussian.ebdl"


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def moments_of(rows: int = 2, outputs: int = 3, full: bool = True, seed: int = 0) -> Moments:
    mean, factor = generator(seed).normal(size=(rows, outputs)), generator(seed + 1).normal(size=(rows, outputs, 5))
    covariance = factor @ factor.transpose(0, 2, 1)
    return Moments(mean, covariance if full else np.diagonal(covariance, axis1=1, axis2=2).copy())


def manifest_of(task: Any, covariance: Any = "full", noise_variance: float = 0.0, outputs: int = 4) -> Manifest:
    told = decode((BUNDLE / "manifest.json").read_bytes())
    fields = {name: getattr(told, name) for name in told.__struct_fields__}
    head = GaussianHead(layer="last", covariance=covariance, noise_variance=noise_variance)
    if task != "classification":
        fields["bank"] = type(told.bank)(members=1, chunk=1, selection="closed_form", seed=0, inputs=())
        fields["class_axis"] = None
    return Manifest(**fields | {"task": task, "gaussian": head, "outputs": head.moments((1, outputs))})


@pytest.mark.parametrize("full", [True, False])
def test_draws_have_the_moments(full: bool) -> None:
    moments, count = moments_of(full=full), 200_000
    drawn = draw(moments, generator(7).standard_normal((count, 2, 3)))
    centred = drawn - moments.mean
    found = np.einsum("sna,snb->nab", centred, centred) / count
    expected = moments.covariance if full else np.stack([np.diag(row) for row in moments.covariance])
    scale = np.sqrt(np.einsum("na,nb->nab", moments.variance, moments.variance))
    # The variance of a product of two normal numbers is at most twice that of their scales.
    assert np.abs((found - expected) / scale).max() < 5.0 * math.sqrt(2.0 / count)
    assert np.abs(centred.mean(0) / np.sqrt(moments.variance)).max() < 5.0 / math.sqrt(count)


def test_a_covariance_that_rounding_left_without_a_cholesky_factor_is_drawn_from_too() -> None:
    direction = np.array([1.0, -2.0, 0.5])
    covariance = (np.outer(direction, direction) - 1e-9 * np.eye(3))[None]
    with pytest.raises(np.linalg.LinAlgError):
        np.linalg.cholesky(covariance)
    drawn = draw(Moments(np.zeros((1, 3)), covariance), generator().standard_normal((5000, 1, 3)))[:, 0]
    np.testing.assert_allclose(drawn / drawn[:, :1], np.broadcast_to(direction, drawn.shape), rtol=1e-6)
    assert drawn[:, 0].var() == pytest.approx(1.0, rel=0.1)


def test_rounding_moves_members_no_further_than_itself() -> None:
    """Two engines' covariances of centred logits: singular, and one has a smallest eigenvalue below zero."""
    moments, normals = moments_of(rows=1, outputs=4), generator(5).standard_normal((100, 1, 4))
    centring = np.eye(4) - 0.25
    singular = centring @ moments.covariance @ centring
    first = draw(Moments(moments.mean, singular + 1e-9), normals)
    second = draw(Moments(moments.mean, singular - 1e-9), normals)
    probabilities = [np.exp(logits) / np.exp(logits).sum(-1, keepdims=True) for logits in (first, second)]
    assert np.abs(probabilities[0] - probabilities[1]).max() < 1e-7


def test_a_variance_below_zero_is_rounding_and_counts_as_zero() -> None:
    moments = Moments(np.ones((1, 2)), np.array([[-1e-12, 4.0]]))
    np.testing.assert_array_equal(moments.variance, [[0.0, 4.0]])
    np.testing.assert_array_equal(draw(moments, np.ones((1, 1, 2))), [[[1.0, 3.0]]])


def test_probit_is_near_the_integral_and_certain_logits_are_their_softmax() -> None:
    moments = moments_of(full=False)
    nearly = probit(moments).mean
    integral = classification(draw(moments, generator(3).standard_normal((100_000, 2, 3))), 1).mean
    assert np.abs(nearly - integral).max() < 0.05  # An approximation, of the softmax too.
    certain = probit(Moments(moments.mean, np.zeros_like(moments.mean)))
    softmax = np.exp(moments.mean) / np.exp(moments.mean).sum(1, keepdims=True)
    np.testing.assert_allclose(certain.mean, softmax, rtol=1e-12)
    np.testing.assert_allclose(certain.total, -(softmax * np.log(softmax)).sum(1), rtol=1e-12)
    assert np.isnan(certain.epistemic).all()
    assert np.isnan(certain.aleatoric).all()


def test_probit_of_a_full_covariance_does_not_mind_a_shift() -> None:
    moments = moments_of()
    plain = probit(moments).mean
    np.testing.assert_allclose(probit(Moments(moments.mean + 3.0, moments.covariance + 1e4)).mean, plain, rtol=1e-6)
    independent = moments_of(full=False)
    alike = Moments(independent.mean, np.full_like(independent.mean, 1.7))
    full = Moments(independent.mean, np.broadcast_to(1.7 * np.eye(3), (2, 3, 3)))
    np.testing.assert_allclose(probit(full).mean, probit(alike).mean, rtol=1e-12)


def test_probit_of_two_classes_is_mackay_s_sigmoid() -> None:
    """Of a logit z ~ N(m, v), sigmoid(m / sqrt(1 + pi v / 8)); a second logit that is 0 changes nothing."""
    for mean, variance in ((0.7, 3.0), (-2.0, 0.4), (40.0, 1e6), (-700.0, 1e-3)):
        answer = probit(Moments(np.array([[mean, 0.0]]), np.array([[variance, 0.0]]))).mean[0, 0]
        expected = 1.0 / (1.0 + math.exp(-mean / math.sqrt(1.0 + math.pi * variance / 8.0)))
        assert answer == pytest.approx(expected, rel=1e-9)


def test_regression_is_closed_with_the_noise_that_the_posterior_knows() -> None:
    moments = moments_of(rows=1, outputs=4)
    answer = closed_form(manifest_of("regression", noise_variance=0.25), moments)
    np.testing.assert_array_equal(answer.mean, moments.mean)
    np.testing.assert_array_equal(answer.epistemic, moments.variance)
    np.testing.assert_array_equal(answer.aleatoric, np.full((1, 4), 0.25))
    np.testing.assert_array_equal(answer.total, moments.variance + 0.25)
    assert not answer.standard_error.any()


@pytest.mark.parametrize("full", [True, False])
def test_heteroscedastic_outputs_are_the_law_of_total_variance_over_draws(full: bool) -> None:
    moments, count = moments_of(rows=1, outputs=4, full=full), 400_000
    answer = closed_form(manifest_of("heteroscedastic"), moments)
    drawn = draw(moments, generator(9).standard_normal((count, 1, 4)))
    noise = np.exp(drawn[..., 2:])
    assert (np.abs(noise.mean(0) - answer.aleatoric) < 5.0 * noise.std(0) / math.sqrt(count)).all()
    np.testing.assert_allclose(answer.mean, moments.mean[:, :2])
    np.testing.assert_allclose(answer.epistemic, moments.variance[:, :2])
    np.testing.assert_allclose(answer.total, answer.epistemic + answer.aleatoric)


def test_what_an_engine_does_not_give_is_an_engine_error() -> None:
    manifest = manifest_of("classification")
    mean, covariance = np.zeros((1, 4), np.float32), np.zeros((1, 4, 4), np.float32)
    assert read(manifest, {"output_mean": mean, "output_covariance": covariance}).covariance.dtype == np.float64
    for outputs, message in (
        ({"output_mean": mean}, "must return output_covariance .* nothing of that name"),
        ({"output_mean": mean[0], "output_covariance": covariance}, r"must return output_mean \(1, 4\), got \(4,\)"),
        ({"output_mean": mean, "output_covariance": covariance[0]}, "must return output_covariance"),
    ):
        with pytest.raises(EngineError, match=message):
            read(manifest, outputs)


def test_a_gaussian_head_s_manifest_says_so_and_nothing_contradictory() -> None:
    manifest = decode((BUNDLE / "manifest.json").read_bytes())
    assert (manifest.schema_version, manifest.form, manifest.member_inputs) == (2, "gaussian_head", ())
    assert decode(encode(manifest)) == manifest
    fields = {name: getattr(manifest, name) for name in manifest.__struct_fields__}
    for change, message in (
        ({"schema_version": 1}, "schema 2, got 1"),
        ({"form": "mask_bank", "schema_version": 1}, "describes its last layer"),
        ({"task": "regression", "class_axis": None}, "in closed form"),
        ({"outputs": manifest.outputs[:1]}, "mean .* and its covariance"),
        ({"outputs": GaussianHead(layer="last", covariance="diagonal").moments((1, 4))}, "mean .* and its covariance"),
        ({"class_axis": 0}, "axis 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Manifest(**fields | change)
    with pytest.raises(ValueError, match="finite and not negative"):
        GaussianHead(layer="", covariance="full", noise_variance=-1.0)
