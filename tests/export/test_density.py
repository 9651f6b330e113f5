"""The feature density against the closed form, and on what it must not fall over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edge_bdl.errors import ExportError
from edge_bdl_export.density import MINIMUM_FRAMES, FeatureDensity, fit_density, pool
from edge_bdl_export.frames import CalibrationFrames
from edge_bdl_train.evaluation.density import MAXIMUM_RANK


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


# --- classes ----------------------------------------------------------------------------------------------------------


def groups(count: int, apart: float, seed: int = 0) -> tuple[Tensor, np.ndarray]:
    """Three classes of five features, ``apart`` from one another, of one covariance."""
    generator = np.random.Generator(np.random.Philox(seed))
    classes = generator.integers(0, 3, count)
    features = gaussian(count, 5, seed).numpy() + apart * np.eye(5)[classes]
    return torch.from_numpy(features.astype(np.float32)), classes


def test_of_classes_it_is_the_distance_from_the_nearest_mean_under_the_covariance_that_they_share():
    known, classes = groups(600, 20.0)
    data = known.double().numpy()
    means = np.stack([data[classes == kind].mean(0) for kind in range(3)])
    within = data - means[classes]
    covariance = within.T @ within / (len(data) - 3)
    probes, _ = groups(40, 20.0, seed=1)
    away = probes.double().numpy()[:, None] - means
    expected = np.einsum("nki,ij,nkj->nk", away, np.linalg.inv(covariance), away).min(1) / 5
    density = FeatureDensity(known, classes)
    np.testing.assert_allclose([float(density(row[None])) for row in probes], expected, rtol=2e-3)


def test_between_the_classes_is_unknown_although_it_is_the_mean_of_all():
    known, classes = groups(600, 40.0)
    middle = known.mean(0, keepdim=True)
    assert float(FeatureDensity(known)(middle)) < 0.1
    assert float(FeatureDensity(known, classes)(middle)) > 5.0


def test_with_too_few_frames_per_class_there_is_one_for_all():
    known, _ = groups(60, 5.0)
    assert FeatureDensity(known, np.arange(60)).classes is None
    assert FeatureDensity(known, np.zeros(60, np.int64)).classes is None
    assert len(FeatureDensity(known, np.arange(60) % 12 + 7).classes) == 12  # whatever the classes are called


# --- which features ---------------------------------------------------------------------------------------------------


class Camera(nn.Module):
    """[1, 3, 24, 24] -> [1, 2], or without a convolution before its dropout."""

    def __init__(self, convolutional: bool = True) -> None:
        super().__init__()
        body = (nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AvgPool2d(22)) if convolutional else (nn.AvgPool2d(4),)
        self.body = nn.Sequential(*body, nn.Flatten())
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(6 if convolutional else 108, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def built(networks: Callable[..., Any], convolutional: bool = True) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Camera(convolutional).eval()
    return networks(model, (torch.rand(1, 3, 24, 24),))[0]


def pictures(count: int, seed: int = 0) -> np.ndarray:
    """Smooth pictures [count, 1, 3, 24, 24], lit alike."""
    generator = np.random.Generator(np.random.Philox(seed))
    coarse = torch.from_numpy(generator.random((count, 3, 4, 4)).astype(np.float32))
    return nn.functional.interpolate(coarse, (24, 24), mode="bilinear").numpy()[:, None]


def frames_of(values: np.ndarray, labels: Any = None) -> CalibrationFrames:
    return CalibrationFrames(inputs={"x": values}, split=np.zeros(len(values), np.int64), labels=labels)


def score(network: Any, density: nn.Module, values: np.ndarray) -> np.ndarray:
    return np.array([float(density(*network.trunk((torch.from_numpy(value),))[1])) for value in values])


def test_light_and_noise_that_pooling_hides_are_far_from_known_pictures(networks: Callable[..., Any]):
    network = built(networks)
    density = fit_density(network, frames_of(pictures(300)), "regression")
    known = score(network, density, pictures(100, seed=1))
    assert 0.5 < np.median(known) < 2.0
    generator = np.random.Generator(np.random.Philox(2))
    strange = {
        "dark": 0.15 * pictures(20, seed=3),
        "noise": generator.random((20, 1, 3, 24, 24)).astype(np.float32),
        "grain": pictures(20, seed=3) + generator.normal(0.0, 0.3, (20, 1, 3, 24, 24)).astype(np.float32),
    }
    for what, values in strange.items():
        assert np.median(score(network, density, values)) > np.quantile(known, 0.95), what


class Lens(nn.Module):
    """What a camera takes, uint8 [24, 24, 3], or the same as numbers, for a `Camera`."""

    def __init__(self) -> None:
        super().__init__()
        self.camera = Camera()

    def forward(self, frames: Tensor) -> Tensor:
        return self.camera(frames.permute(0, 3, 1, 2).float() / 255)


def test_a_cameras_picture_in_somewhat_other_light_is_known_although_the_light_never_changed(
    networks: Callable[..., Any],
):
    taken = np.rint(100 + 5 * pictures(360).transpose(0, 1, 3, 4, 2))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Lens().eval()
    as_pictures, as_numbers = (taken[:300].astype(kind) for kind in (np.uint8, np.float32))
    (camera, _), (numbers, _) = (networks(model, (torch.from_numpy(known[0]),)) for known in (as_pictures, as_numbers))
    of_pictures = fit_density(camera, frames_of(as_pictures), "regression")
    of_numbers = fit_density(numbers, frames_of(as_numbers), "regression")

    def lit(network: Any, density: nn.Module, kind: type, gain: float) -> float:
        """The median score in this light."""
        return float(np.median(score(network, density, np.rint(gain * taken[300:]).astype(kind))))

    for gain in (0.85, 1.18):
        assert lit(camera, of_pictures, np.uint8, gain) < 3.0
        assert lit(numbers, of_numbers, np.float32, gain) > 30.0
    assert lit(camera, of_pictures, np.uint8, 0.4) > 10.0


def test_of_a_regression_only_the_picture_counts_of_classes_both(networks: Callable[..., Any]):
    network, frames = built(networks), frames_of(pictures(120), np.arange(120) % 3)
    regression, classes = fit_density(network, frames, "regression"), fit_density(network, frames, "classification")
    assert (regression.of_features, len(classes.of_features.classes)) == (None, 3)
    values = pictures(10, seed=4)
    features = [network.trunk((torch.from_numpy(value),))[1] for value in values]
    parts = [(classes.of_picture(classes.picture(read)), classes.of_features(deep)) for read, deep in features]
    np.testing.assert_array_equal(score(network, classes, values), [float(max(pair)) for pair in parts])


@pytest.mark.parametrize("labels", [None, np.zeros((120, 2), np.int64), np.linspace(0.0, 1.0, 120)])
def test_without_a_class_for_each_frame_there_is_one_mean(networks: Callable[..., Any], labels: Any):
    density = fit_density(built(networks), frames_of(pictures(120), labels), "classification")
    assert density.of_features.classes is None


def test_without_a_convolution_the_features_count(networks: Callable[..., Any]):
    network = built(networks, convolutional=False)
    density = fit_density(network, frames_of(pictures(120)), "regression")
    assert density.picture is None
    assert score(network, density, 0.15 * pictures(5, seed=1)).min() > score(network, density, pictures(50)).max()


def test_too_few_known_frames_give_no_density(networks: Callable[..., Any]):
    assert fit_density(built(networks), frames_of(pictures(MINIMUM_FRAMES - 1)), "regression") is None
