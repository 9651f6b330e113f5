"""The feature density against the closed form, and on what it must not fall over."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edge_bdl.errors import ExportError
from edge_bdl_export.density import MAXIMUM_RANK, MINIMUM_FRAMES, FeatureDensity, pool


def gaussian(count: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = np.random.Generator(np.random.Philox(seed))
    mixing = generator.normal(size=(width, width))
    return torch.from_numpy((generator.normal(size=(count, width)) @ mixing + 3.0).astype(np.float32))


def test_with_few_features_it_is_the_mahalanobis_distance_per_dimension():
    known = gaussian(400, 5)
    covariance = np.cov(known.double().numpy().T)
    centred = gaussian(50, 5, seed=1).double().numpy() - known.double().numpy().mean(0)
    expected = np.einsum("ni,ij,nj->n", centred, np.linalg.inv(covariance), centred) / 5
    density = FeatureDensity(known)
    actual = [float(density(row[None])) for row in gaussian(50, 5, seed=1)]
    np.testing.assert_allclose(actual, expected, rtol=2e-3)


def probabilistic_pca(known: torch.Tensor, probes: torch.Tensor) -> np.ndarray:
    """The score by its definition, with the whole covariance."""
    data = known.double().numpy()
    width = data.shape[1]
    values, vectors = np.linalg.eigh(np.cov(data.T))
    values, vectors = values[::-1], vectors[:, ::-1]
    rest = values[MAXIMUM_RANK:].mean()
    covariance = np.diag(np.r_[np.maximum(values[:MAXIMUM_RANK], rest), np.full(width - MAXIMUM_RANK, rest)])
    turned = (probes.double().numpy() - data.mean(0)) @ vectors
    return np.einsum("ni,ij,nj->n", turned, np.linalg.inv(covariance), turned) / width


def test_with_many_features_it_is_probabilistic_pca():
    known, probes = gaussian(1000, 2 * MAXIMUM_RANK), gaussian(5, 2 * MAXIMUM_RANK, seed=2)
    density = FeatureDensity(known)
    actual = [float(density(row[None])) for row in probes]
    np.testing.assert_allclose(actual, probabilistic_pca(known, probes), rtol=1e-2)


def test_with_wide_features_a_sketch_keeps_the_distance():
    width = 400
    known, probes = gaussian(2000, width), gaussian(300, width, seed=2)
    density = FeatureDensity(known)
    ratio = np.array([float(density(row[None])) for row in probes]) / probabilistic_pca(known, probes)
    assert density.whitening.shape == (2 * MAXIMUM_RANK, width)
    assert abs(ratio.mean() - 1.0) < 0.1
    assert ratio.std() < 1.5 * np.sqrt(2.0 / 32)  # Johnson and Lindenstrauss, for 32 rows


def test_known_frames_score_about_one_and_foreign_ones_far_more():
    known = gaussian(500, 12)
    density = FeatureDensity(known)
    inside = torch.stack([density(row[None]) for row in gaussian(200, 12)[:200]])
    assert 0.7 < float(inside.mean()) < 1.4
    assert float(density(known[:1] + 30.0)) > 10.0 * float(inside.max())


def test_constant_features_score_a_finite_number():
    known = torch.cat([gaussian(80, 3), torch.zeros(80, 4)], 1)
    density = FeatureDensity(known)
    assert torch.isfinite(density(known[:1])).all()
    moved = known[:1].clone()
    moved[0, 5] = 1.0
    assert float(density(moved)) > 10.0 * float(density(known[:1]))
    still = FeatureDensity(torch.full((80, 4), 2.0))
    assert torch.isfinite(still(torch.full((1, 4), 2.0))).all()


def test_more_features_than_frames_is_no_obstacle():
    known = gaussian(MINIMUM_FRAMES, 200)
    assert torch.isfinite(FeatureDensity(known)(gaussian(1, 200, seed=3))).all()


def test_it_is_one_number_per_frame():
    assert FeatureDensity(gaussian(60, 3))(torch.zeros(1, 3)).shape == (1,)


def test_too_few_or_broken_frames_are_refused():
    with pytest.raises(ExportError, match=f"at least {MINIMUM_FRAMES} calibration frames, got {MINIMUM_FRAMES - 1}"):
        FeatureDensity(gaussian(MINIMUM_FRAMES - 1, 3))
    broken = gaussian(60, 3)
    broken[7, 1] = float("nan")
    with pytest.raises(ExportError, match="not finite"):
        FeatureDensity(broken)


@pytest.mark.parametrize(
    ("shape", "width"), [((1, 7), 7), ((4, 7), 7), ((1, 5, 3, 2), 5), ((2, 5, 3), 5), ((6,), 6), ((1, 2, 2, 2, 2), 2)]
)
def test_pooling_keeps_channels_and_averages_the_rest(shape: tuple[int, ...], width: int):
    value = torch.rand(shape)
    pooled = pool([value])
    assert pooled.shape == (1, width)
    if len(shape) > 1:
        over = [axis for axis in range(len(shape)) if axis != 1]
        torch.testing.assert_close(pooled[0], value.mean(over))


def test_several_features_are_joined():
    assert pool([torch.rand(1, 3), torch.rand(1, 4, 2, 2)]).shape == (1, 7)
