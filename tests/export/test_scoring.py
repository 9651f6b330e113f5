"""Scoring: what the shipped graphs say, as the runtime would; fits and figures against computations by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_bdl import sampling
from edge_bdl.bundle import Bundle
from edge_bdl.engines import open_engine
from edge_bdl.errors import ExportError
from edge_bdl.findings import Flops, Provenance
from edge_bdl.manifest import Bank, Calibration, Manifest, StochasticInput, Task, TensorSpec
from edge_bdl.policy_spec import PolicySpec, Score, Thresholds
from edge_bdl.runtime import Runtime
from edge_bdl.uncertainty import Uncertainty
from edge_bdl_export.calibrate import fit_speed_curve
from edge_bdl_export.frames import CalibrationFrames
from edge_bdl_export.scoring import Scored, calibrated, figures, score

Z = 1.6448536269514722  # the normal quantile of 95 %
Array = NDArray[Any]


def manifest_of(task: Task, shape: tuple[int, ...], class_axis: int | None = None, **fields: Any) -> Manifest:
    mask = StochasticInput(name="mask_0", source="drop", kind="Dropout", shape=(4,), rate=0.5, scale=2.0)
    return Manifest(
        name="hand",
        form="mask_bank",
        task=task,
        inputs=(TensorSpec(name="x", shape=(1, 3), dtype="float32"),),
        outputs=(TensorSpec(name="members", shape=shape, dtype="float32"),),
        boundary=(TensorSpec(name="boundary_0", shape=(1, 4), dtype="float32"),),
        class_axis=class_axis,
        engines=("onnxruntime",),
        bank=Bank(members=4, chunk=4, selection="balanced", seed=0, inputs=(mask,)),
        flops=Flops(total=2, deterministic=1),
        provenance=Provenance(created_utc="", versions={}, model_class="", seed=0),
        **fields,
    )


def frames_of(count: int, labels: Array | None = None, episodes: Array | None = None) -> CalibrationFrames:
    return CalibrationFrames(
        inputs={"x": np.zeros((count, 1, 3), np.float32)},
        split=np.ones(count, np.int64),
        labels=labels,
        episodes=episodes,
    )


def told(mean: Array, total: Array, epistemic: Array | None = None) -> Uncertainty:
    epistemic = total if epistemic is None else epistemic
    return Uncertainty(mean, total - epistemic, epistemic, total, np.zeros_like(mean))


# --- what the graphs say ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["onnxruntime", "tflite"])
def test_scores_are_those_of_the_runtime_frame_by_frame(camera_bundle: Any, engine: str):
    bundle = Bundle.open(camera_bundle.folder)
    manifest, stored = bundle.manifest, bundle.bank()
    values = np.random.Generator(np.random.Philox(5)).integers(0, 256, (6, 1, 12, 12, 3), dtype=np.uint8)
    frames = CalibrationFrames(inputs={"frame": values}, split=np.zeros(6, np.int64))
    members = sampling.masks(manifest.bank, sampling.unpack(manifest.bank, stored))
    scored = score(manifest, open_engine(engine, bundle.folder, manifest), members, stored, frames)
    assert list(scored.uncertainty) == [2, 4, 8]
    runtime = Runtime.open(bundle, engine=engine)
    table = scored.scores()
    for samples in (2, 4, 8):
        for row, frame in enumerate(values):
            prediction = runtime.predict(frame, samples=samples)
            parts = scored.uncertainty[samples]
            for name in ("mean", "aleatoric", "epistemic", "total"):
                # Head by chunks here, all members at once there: equal up to rounding.
                np.testing.assert_allclose(getattr(parts, name)[row], getattr(prediction, name), rtol=1e-3, atol=1e-7)
            for name in ("epistemic", "total", "density"):
                assert table[name][samples][row] == pytest.approx(prediction.scores()[name], rel=1e-3)


def test_a_frame_s_score_is_its_largest_element():
    epistemic = np.array([[[1.0, 5.0], [2.0, 0.0]], [[0.0, 0.5], [3.0, 1.0]]])
    scored = Scored({2: told(np.zeros((2, 2, 2)), epistemic + 1.0, epistemic)}, np.array([7.0, 9.0]))
    table = scored.scores()
    assert table["epistemic"][2].tolist() == [5.0, 3.0]
    assert table["total"][2].tolist() == [6.0, 4.0]
    assert table["density"][2].tolist() == [7.0, 9.0]
    assert "density" not in Scored(scored.uncertainty, None).scores()


def test_outputs_that_are_not_finite_are_refused(dense_bundle: Any):
    bundle = Bundle.open(dense_bundle.folder)
    manifest, stored = bundle.manifest, bundle.bank()
    members = sampling.masks(manifest.bank, sampling.unpack(manifest.bank, stored))
    frames = CalibrationFrames(
        inputs={"image": np.full((1, 1, 1, 6, 7), 3e38, np.float32), "gain": np.full((1, 1, 1), 3e38, np.float32)},
        split=np.zeros(1, np.int64),
    )
    with pytest.raises(ExportError, match="outputs are not finite on the calibration frames"):
        score(manifest, open_engine("onnxruntime", bundle.folder, manifest), members, stored, frames)


# --- fits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["regression", "heteroscedastic"])
def test_an_interval_scale_is_the_ninetieth_percentile_of_the_normalised_miss(task: Task):
    generator = np.random.default_rng(0)
    mean, total = generator.normal(size=(200, 1, 2)), generator.uniform(0.5, 2.0, (200, 1, 2))
    labels = mean[:, 0] + generator.normal(size=(200, 2))
    # What is counted is targets: a heteroscedastic output has twice as many numbers.
    manifest = manifest_of(task, (1, 2 if task == "regression" else 4))
    scored = Scored({2: told(mean, 4.0 * total), 4: told(mean, total)}, None)
    calibration = calibrated(manifest, scored, frames_of(200, labels)).calibration
    ratios = np.sort(np.abs(labels - mean[:, 0]).ravel() / (Z * np.sqrt(total.ravel())))
    expected = ratios[math.ceil(0.9 * 401) - 1]
    assert calibration.interval_scale == {2: pytest.approx(expected / 2.0), 4: pytest.approx(expected)}
    assert calibration.temperature == {}


def test_a_temperature_is_the_one_that_gives_the_share_of_right_classes():
    # 0.9 said, 0.75 right: the logit log 9 must become log 3.
    mean = np.tile([[0.9, 0.1]], (200, 1, 1))
    labels = np.where(np.arange(200) % 4 == 0, 1, 0)
    score = np.linspace(0.1, 0.5, 200)[:, None]
    manifest = manifest_of("classification", (1, 2), class_axis=1)
    calibration = calibrated(manifest, Scored({4: told(mean, score)}, None), frames_of(200, labels)).calibration
    assert calibration.temperature == {4: pytest.approx(2.0, rel=1e-4)}
    assert calibration.interval_scale == {}


def test_speed_curves_are_fitted_on_the_largest_miss_of_a_frame():
    generator = np.random.default_rng(1)
    mean, total = generator.normal(size=(120, 1, 2)), generator.uniform(0.5, 2.0, (120, 1, 2))
    miss = generator.normal(size=(120, 2)) * total[:, 0] ** 2
    made = calibrated(
        manifest_of("regression", (1, 2)), Scored({4: told(mean, total)}, None), frames_of(120, mean[:, 0] + miss)
    )
    expected = fit_speed_curve(total.reshape(120, 2).max(1), np.abs(miss).max(1))
    curve = made.policy.scores[0].thresholds[4].speed_curve
    np.testing.assert_allclose(np.array(curve), np.array(expected))
    assert min(factor for _, factor in curve) < 1.0


def test_speed_curves_of_classes_are_fitted_on_the_probability_that_was_elsewhere():
    generator = np.random.default_rng(2)
    mean = np.moveaxis(generator.dirichlet(np.ones(3), (120, 1, 4)), -1, 2)  # [n, 1, 3, 4]: classes, then places
    labels = generator.integers(0, 3, (120, 4))
    score = generator.uniform(0.0, 1.0, (120, 1, 4))
    manifest = manifest_of("classification", (1, 3, 4), class_axis=1)
    made = calibrated(manifest, Scored({4: told(mean, score)}, None), frames_of(120, labels))
    worst = [max(1.0 - mean[n, 0, labels[n, place], place] for place in range(4)) for n in range(120)]
    expected = fit_speed_curve(score.reshape(120, 4).max(1), np.array(worst))
    np.testing.assert_allclose(np.array(made.policy.scores[0].thresholds[4].speed_curve), np.array(expected))


def test_without_labels_or_with_too_few_nothing_but_thresholds_is_fitted_and_a_warning_says_so():
    mean, total = np.zeros((99, 1, 1)), np.linspace(0.1, 1.0, 99).reshape(99, 1, 1)
    scored = Scored({4: told(mean, total)}, None)
    manifest = manifest_of("regression", (1, 1), warnings=("before",))
    unlabelled, few = (
        calibrated(manifest, scored, frames_of(99, labels)) for labels in (None, np.ones(99, np.float32))
    )
    assert few.policy == unlabelled.policy
    assert few.calibration == unlabelled.calibration == Calibration()
    assert [at.speed_curve for item in few.policy.scores for at in item.thresholds.values()] == [(), ()]
    assert few.warnings[: len(unlabelled.warnings)] == unlabelled.warnings
    assert unlabelled.warnings[0] == "before"
    assert few.warnings[-1].startswith("99 labelled frames are too few to fit")
    assert len(few.warnings) == len(unlabelled.warnings) + 1


def test_episodes_decide_what_thresholds_rest_on():
    total = np.random.default_rng(3).uniform(0.1, 1.0, (120, 1, 1))
    scored = Scored({4: told(np.zeros((120, 1, 1)), total)}, None)
    manifest = manifest_of("regression", (1, 1))
    still = calibrated(manifest, scored, frames_of(120))
    driven = calibrated(manifest, scored, frames_of(120, episodes=np.repeat([0, 1, 2], 40)))
    assert (still.policy.source, driven.policy.source) == ("frame_quantiles", "episode_replay")
    assert still.policy.scores[0].thresholds[4].slow == np.quantile(total, 0.99, method="lower")


# --- figures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["regression", "heteroscedastic"])
def test_figures_of_targets_are_the_mean_miss_and_the_share_inside_the_scaled_interval(task: Task):
    mean = np.zeros((2, 1, 2))
    labels = np.array([[0.5, -1.5], [3.0, -4.0]])
    total = np.ones((2, 1, 2))
    # Half-widths: 1.64 at a scale of 1, for 2 samples; 3.29 at a scale of 2, for 4.
    manifest = manifest_of(
        task, (1, 2 if task == "regression" else 4), calibration=Calibration(interval_scale={2: 1.0, 4: 2.0})
    )
    made = figures(manifest, Scored({2: told(mean, total), 4: told(mean, total)}, None), frames_of(2, labels))
    assert made.frames == 2
    assert made.error == {2: pytest.approx(2.25), 4: pytest.approx(2.25)}
    assert made.coverage == {2: 0.5, 4: 0.75}
    unfitted = manifest_of(task, (1, 2 if task == "regression" else 4), calibration=Calibration())
    assert figures(unfitted, Scored({2: told(mean, total)}, None), frames_of(2, labels)).coverage == {}
    assert (made.held_back, made.handed_over) == ({}, {})


def test_figures_of_classes_are_the_share_of_wrong_ones():
    mean = np.array([[[0.7, 0.2, 0.1]], [[0.1, 0.8, 0.1]], [[0.3, 0.3, 0.4]], [[0.5, 0.4, 0.1]]])
    manifest = manifest_of("classification", (1, 3), class_axis=1)
    made = figures(manifest, Scored({4: told(mean, np.ones((4, 1)))}, None), frames_of(4, np.array([0, 1, 2, 1])))
    assert made.error == {4: 0.25}
    assert made.coverage == {}


def test_figures_of_episodes_count_what_was_held_back_and_handed_over():
    # Two episodes of 40 frames; the second is over the HANDOFF threshold from its frame 20 on, and nobody answers.
    score = np.zeros(80)
    score[60] = 2.0
    parts = told(np.zeros((80, 1, 1)), score.reshape(80, 1, 1))
    limits = {4: Thresholds(slow=0.5, handoff=1.0)}
    policy = PolicySpec(scores=(Score(name="epistemic", thresholds=limits),), source="episode_replay")
    manifest = manifest_of("regression", (1, 1), policy=policy)
    made = figures(manifest, Scored({4: parts}, None), frames_of(80, episodes=np.repeat([0, 1], 40)))
    # The first four frames of each are the start; of the others 20 are after the handover.
    assert made.held_back == {4: pytest.approx(20 / 72)}
    assert made.handed_over == {4: 1}
    assert (made.error, made.coverage) == ({}, {})


# --- labels that do not fit -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2,), (2, 3), (3, 2), (4,), (1, 2, 2, 2)])
def test_targets_of_another_shape_are_refused(shape: tuple[int, ...]):
    parts = told(np.zeros((2, 1, 2)), np.ones((2, 1, 2)))
    with pytest.raises(ExportError, match=r"labels have shape .*, the predictions \(2, 1, 2\); give one per"):
        figures(manifest_of("regression", (1, 2)), Scored({4: parts}, None), frames_of(2, np.zeros(shape)))


def test_a_map_of_labels_with_its_axes_exchanged_is_refused():
    parts = told(np.full((5, 1, 2, 3, 4), 0.5), np.ones((5, 1, 3, 4)))
    manifest = manifest_of("classification", (1, 2, 3, 4), class_axis=1)
    scored = Scored({4: parts}, None)
    assert figures(manifest, scored, frames_of(5, np.zeros((5, 3, 4), int))).error == {4: 0.0}
    with pytest.raises(ExportError, match=r"labels have shape \(5, 4, 3\), the predictions \(5, 1, 3, 4\)"):
        figures(manifest, scored, frames_of(5, np.zeros((5, 4, 3), int)))


@pytest.mark.parametrize("labels", [np.array([0, 3]), np.array([-1, 0]), np.array([0.0, 1.0])])
def test_what_is_no_class_is_refused(labels: Array):
    parts = told(np.full((2, 1, 3), 1 / 3), np.ones((2, 1)))
    manifest = manifest_of("classification", (1, 3), class_axis=1)
    with pytest.raises(ExportError, match="labels of 3 classes are integers from 0 to 2"):
        figures(manifest, Scored({4: parts}, None), frames_of(2, labels))
