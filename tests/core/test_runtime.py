"""`Runtime.predict` on scripted engines: what goes in, what comes out, what time does to it, and what faults become."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_bdl.engines.scripted import ScriptedEngine
from edge_bdl.errors import EngineError, InputError
from edge_bdl.findings import Fidelity, Flops, Provenance
from edge_bdl.manifest import Bank, Calibration, GaussianHead, Manifest, StochasticInput, TensorSpec
from edge_bdl.policy_spec import PolicySpec, Score
from edge_bdl.runtime import Runtime
from edge_bdl.sampling import draw_keep, draw_normal, pack
from edge_bdl.uncertainty import decompose

FRAME = np.arange(12, dtype=np.uint8).reshape(1, 2, 6)


def manifest_of(task: Any = "heteroscedastic", **changes: Any) -> Manifest:
    bank = Bank(
        members=8,
        chunk=2,
        selection="iid",
        seed=3,
        inputs=(
            StochasticInput(name="mask_0", source="drop", kind="Dropout", shape=(1, 40), rate=0.5, scale=2.0),
            StochasticInput(name="mask_1", source="drop", call=1, kind="Dropout", shape=(1, 30), rate=0.2, scale=1.25),
        ),
    )
    fields: dict[str, Any] = {
        "name": "scripted",
        "form": "mask_bank",
        "task": task,
        "inputs": (TensorSpec(name="frame", shape=(1, 2, 6), dtype="uint8"),),
        "outputs": (
            TensorSpec(name="members", shape=(1, 4), dtype="float32"),
            TensorSpec(name="density", shape=(1,), dtype="float32"),
        ),
        "boundary": (TensorSpec(name="boundary_0", shape=(1, 5), dtype="float32"),),
        "class_axis": 1 if task == "classification" else None,
        "engines": ("onnxruntime",),
        "bank": bank,
        "policy": PolicySpec(scores=(Score(name="epistemic"), Score(name="total", reduction="mean"))),
        "flops": Flops(total=10, deterministic=9),
        "provenance": Provenance(created_utc="2025-01-01T00:00:00Z", versions={}, model_class="m", seed=0),
    }
    return Manifest(**(fields | changes))


def with_bank(manifest: Manifest, **changes: Any) -> Manifest:
    return msgspec.structs.replace(manifest, bank=msgspec.structs.replace(manifest.bank, **changes))


class Clock:
    """Time that passes only while an engine sleeps."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def runtime_of(manifest: Manifest | None = None, samples: int | None = None, **script: Any) -> Runtime:
    manifest = manifest or manifest_of()
    clock = Clock()
    engine = ScriptedEngine(Path(), manifest, sleep=clock.sleep, **script)
    if manifest.form == "mask_bank":
        stored: dict[str, Any] = dict(pack(draw_keep(manifest.bank, 0, manifest.bank.members)))
    else:
        shapes = {source.name: (manifest.bank.members, *source.shape) for source in manifest.bank.inputs}
        stored = {
            name: np.random.default_rng(0).normal(size=shape).astype(np.float32) for name, shape in shapes.items()
        }
    return Runtime(manifest, engine, stored, samples=samples, clock=clock)


def canned(count: int = 8, width: int = 4, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=(count, 1, width)).astype(np.float32)


# Members


@pytest.mark.parametrize("task", ["classification", "regression", "heteroscedastic"])
def test_a_prediction_is_the_decomposition_of_the_members(task: Any) -> None:
    members = canned()
    prediction = runtime_of(manifest_of(task), members=members, density=2.5).predict(FRAME)
    expected = decompose(task, members, class_axis=1)
    for name in expected._fields:
        np.testing.assert_allclose(getattr(prediction, name), getattr(expected, name), rtol=1e-12)
    assert (prediction.samples, prediction.stop_reason, prediction.fault) == (8, "samples", None)
    assert prediction.density == 2.5


@pytest.mark.parametrize("samples", [2, 3, 5, 7])
def test_fewer_samples_are_the_first_members_of_the_bank(samples: int) -> None:
    members = canned()
    prediction = runtime_of(members=members).predict(FRAME, samples=samples)
    expected = decompose("heteroscedastic", members[:samples])
    np.testing.assert_allclose(prediction.epistemic, expected.epistemic, rtol=1e-12)
    assert prediction.samples == samples


def test_trunk_and_head_give_what_fused_gives() -> None:
    runtime = runtime_of()
    fused, chunked = runtime.predict(FRAME), runtime.predict(FRAME, deadline_ms=1e6)
    assert set(fused.stages_ms) == {"check", "fused", "uncertainty"}
    assert set(chunked.stages_ms) == {"check", "trunk", "head", "uncertainty"}
    np.testing.assert_array_equal(fused.mean, chunked.mean)
    np.testing.assert_array_equal(fused.epistemic, chunked.epistemic)


def test_more_samples_than_the_bank_are_the_bank_and_fresh_masks() -> None:
    runtime, manifest = runtime_of(), manifest_of()
    wider = with_bank(manifest, members=13, chunk=13)  # iid: it goes on with the same members
    expected = runtime_of(wider).predict(FRAME)
    prediction = runtime.predict(FRAME, samples=13)
    assert prediction.samples == 13
    np.testing.assert_allclose(prediction.mean, expected.mean, rtol=1e-6)
    np.testing.assert_allclose(prediction.epistemic, expected.epistemic, rtol=1e-6)


def test_a_chunk_that_does_not_divide_the_samples_is_cut() -> None:
    members = canned(6)
    runtime = runtime_of(with_bank(manifest_of(), members=5, chunk=3), members=members)
    prediction = runtime.predict(FRAME, samples=4)
    np.testing.assert_allclose(prediction.mean, members[:4, :, :2].mean(axis=0, dtype=float), rtol=1e-6)


def test_very_many_samples_do_not_stay_in_memory() -> None:
    runtime = runtime_of()
    once, again = runtime.predict(FRAME, samples=300), runtime.predict(FRAME, samples=300)
    np.testing.assert_array_equal(once.mean, again.mean)
    assert len(runtime._chunks) == 64


def test_a_weight_bank_refuses_more_samples_than_members() -> None:
    source = StochasticInput(name="weight_0", source="w", kind="parameter", shape=(3,))
    manifest = with_bank(manifest_of(form="weight_bank"), inputs=(source,), selection="given", chunk=3)
    runtime = runtime_of(manifest)
    assert runtime.predict(FRAME, samples=7).samples == 7
    with pytest.raises(InputError, match="holds 8 sets of weights"):
        runtime.predict(FRAME, samples=9)
    with pytest.raises(InputError, match="holds 8 sets of weights"):
        runtime_of(manifest, samples=9)


def test_members_that_graphs_hold_come_from_a_head_for_each_chunk() -> None:
    source = StochasticInput(name="weight_0", source="w", kind="parameter", shape=(3,))
    manifest = manifest_of(form="ensemble", schema_version=2)
    manifest = with_bank(manifest, inputs=(source,), selection="given", chunk=3, built_in=True)
    assert manifest.graphs == ("det", "trunk", "head_0", "head_1", "head_2", "fused")
    engine = ScriptedEngine(Path(), manifest)
    runtime = Runtime(manifest, engine, {})
    whole = runtime.predict(FRAME)
    assert list(engine._graphs) == ["fused"]
    assert runtime.predict(FRAME, samples=4).samples == 4
    assert list(engine._graphs) == ["fused", "trunk", "head_0", "head_1"]
    # The last head gives two members, and no padding.
    anytime = runtime.predict(FRAME, deadline_ms=60_000.0)
    assert (anytime.samples, anytime.stop_reason) == (8, "samples")
    np.testing.assert_array_equal(anytime.mean, whole.mean)
    np.testing.assert_array_equal(anytime.epistemic, whole.epistemic)
    with pytest.raises(InputError, match="holds 8 sets of weights"):
        runtime.predict(FRAME, samples=9)
    assert list(engine.graph("fused")._specs) == ["frame"]


def test_a_head_that_gives_more_members_than_its_chunk_holds_is_an_engine_error() -> None:
    source = StochasticInput(name="weight_0", source="w", kind="parameter", shape=(3,))
    manifest = manifest_of(form="ensemble", schema_version=2)
    manifest = with_bank(manifest, inputs=(source,), selection="given", chunk=3, built_in=True)
    longer = with_bank(manifest, members=9)
    runtime = Runtime(manifest, ScriptedEngine(Path(), longer), {})
    with pytest.raises(EngineError, match=r"members of shape \(2, 1, 4\), got \(3, 1, 4\)"):
        runtime.predict(FRAME, samples=7)


def test_one_sample_has_a_mean_but_is_no_evidence() -> None:
    prediction = runtime_of().predict(FRAME, samples=1)
    assert np.isfinite(prediction.mean).all()
    assert np.isnan(prediction.epistemic).all()
    assert prediction.standard_error is not None
    assert np.isnan(prediction.standard_error).all()
    assert prediction.evidence().fault == "one sample says nothing about epistemic uncertainty"


def test_weights_of_a_prefix_are_used_for_that_prefix_alone() -> None:
    members = canned()
    manifest = with_bank(manifest_of(), selection="selected", member_weights={2: (0.9, 0.1)})
    runtime = runtime_of(manifest, members=members)
    np.testing.assert_allclose(
        runtime.predict(FRAME, samples=2).mean, 0.9 * members[0, :, :2] + 0.1 * members[1, :, :2], rtol=1e-6
    )
    np.testing.assert_allclose(
        runtime.predict(FRAME, samples=4).mean, members[:4, :, :2].mean(axis=0, dtype=float), rtol=1e-6
    )


def test_selected_members_carry_their_measured_fidelity_instead_of_a_standard_error() -> None:
    entries = tuple(
        Fidelity(samples=count, reference_members=256, kl=1 / count, epistemic_spearman=0.9) for count in (2, 4)
    )
    runtime = runtime_of(msgspec.structs.replace(with_bank(manifest_of(), selection="selected"), fidelity=entries))
    prediction = runtime.predict(FRAME, samples=3)
    assert prediction.standard_error is None
    assert prediction.fidelity == entries[0]
    assert runtime.predict(FRAME).fidelity == entries[1]
    assert runtime_of().predict(FRAME).fidelity is None


def test_the_runtimes_own_number_of_samples_is_the_default() -> None:
    assert runtime_of(samples=3).predict(FRAME).samples == 3


def test_a_later_prediction_leaves_an_earlier_one_alone() -> None:
    runtime = runtime_of()
    for options in ({}, {"samples": 4}):
        first = runtime.predict(FRAME, **options)
        kept = first.mean.copy(), first.epistemic.copy()
        runtime.predict(FRAME + 50, **options)
        np.testing.assert_array_equal(first.mean, kept[0])
        np.testing.assert_array_equal(first.epistemic, kept[1])


# Frames


def test_a_leading_axis_of_one_may_be_left_out() -> None:
    runtime = runtime_of()
    whole, bare = runtime.predict(FRAME), runtime.predict(FRAME[0])
    assert (whole.mean.shape, bare.mean.shape) == ((1, 2), (2,))
    assert bare.standard_error is not None
    assert bare.standard_error.shape == bare.epistemic.shape == bare.total.shape == bare.aleatoric.shape == (2,)
    np.testing.assert_array_equal(whole.mean[0], bare.mean)


def test_a_bare_frame_of_a_classifier_has_scalar_uncertainty() -> None:
    prediction = runtime_of(manifest_of("classification")).predict(FRAME[0])
    assert (prediction.mean.shape, prediction.epistemic.shape) == ((4,), ())
    assert prediction.probabilities().shape == (4,)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (FRAME.astype(np.float32), r"expected frame: uint8 \[1, 2, 6\], got float32 \[1, 2, 6\]"),
        (FRAME[:, :, :5], r"expected frame: uint8 \[1, 2, 6\], got uint8 \[1, 2, 5\]"),
        (FRAME[None], r"got uint8 \[1, 1, 2, 6\]"),
        (FRAME[0, 0], r"got uint8 \[6\]"),
        (FRAME.tolist(), r"expected a numpy array for frame: uint8 \[1, 2, 6\], got list"),
        ([FRAME, FRAME], r"this bundle takes frame: uint8 \[1, 2, 6\], got list"),
        ({"image": FRAME}, r"this bundle takes frame: uint8 \[1, 2, 6\], got inputs named \['image'\]"),
        (None, r"this bundle takes frame: uint8 \[1, 2, 6\], got NoneType"),
        (3.0, "got float"),
        ("frame.png", "this bundle takes frame"),
    ],
)
def test_a_wrong_frame_is_refused_before_the_engine_sees_it(frame: Any, message: str) -> None:
    runtime = runtime_of(faults=["raise"])
    with pytest.raises(InputError, match=message):
        runtime.predict(frame)
    with pytest.raises(EngineError):  # the first run of the script: nothing ran before
        runtime.predict(FRAME)


def test_frames_of_numbers_must_be_finite() -> None:
    runtime = runtime_of(manifest_of(inputs=(TensorSpec(name="x", shape=(2, 3), dtype="float32"),)))
    good = np.full((2, 3), 1e30, np.float32)  # its sum of squares overflows, it is finite all the same
    assert runtime.predict(good).samples == 8
    for bad in (np.nan, np.inf, -np.inf):
        frame = good.copy()
        frame[1, 2] = bad
        with pytest.raises(InputError, match=r"expected finite numbers for x: float32 \[2, 3\], got 1 that are not"):
            runtime.predict(frame)


def test_several_inputs_come_by_name_or_in_order() -> None:
    inputs = (
        TensorSpec(name="image", shape=(1, 3), dtype="uint8"),
        TensorSpec(name="speed", shape=(1,), dtype="float32"),
    )
    runtime = runtime_of(manifest_of(inputs=inputs))
    image, speed = np.array([[1, 2, 3]], np.uint8), np.array([0.5], np.float32)
    by_name, in_order = runtime.predict({"speed": speed, "image": image}), runtime.predict((image, speed))
    np.testing.assert_array_equal(by_name.mean, in_order.mean)
    assert runtime.predict([image[0], speed[0:1][0:1].reshape(())]).mean.shape == (2,)
    assert runtime.predict([image[0], speed]).mean.shape == (1, 2)
    with pytest.raises(InputError, match=r"image: uint8 \[1, 3\], speed: float32 \[1\]"):
        runtime.predict(image)
    with pytest.raises(InputError, match="expected speed"):
        runtime.predict([image, image])


def test_a_frame_in_any_memory_layout_is_the_same_frame() -> None:
    runtime = runtime_of()
    strided = np.asfortranarray(FRAME)
    np.testing.assert_array_equal(runtime.predict(strided).mean, runtime.predict(FRAME).mean)


# Deadlines: the trunk takes 10 ms, each head chunk of two members 5 ms

TIMES = {"trunk": 0.010, "head": 0.005}


@pytest.mark.parametrize(
    ("deadline_ms", "samples", "reason"),
    [(31, 8, "samples"), (29, 6, "deadline"), (25.5, 6, "deadline"), (21, 4, "deadline"), (15.5, 2, "deadline")],
)
def test_a_deadline_takes_the_chunks_that_fit(deadline_ms: float, samples: int, reason: str) -> None:
    runtime = runtime_of(latency_s=TIMES)
    prediction = runtime.predict(FRAME, deadline_ms=deadline_ms)
    assert (prediction.samples, prediction.stop_reason) == (samples, reason)
    assert prediction.latency_ms <= deadline_ms
    assert prediction.standard_error is not None
    assert (prediction.standard_error > 0).all()


@pytest.mark.parametrize("deadline_ms", [0.001, 1, 12])
def test_an_impossible_deadline_still_leaves_two_members(deadline_ms: float) -> None:
    prediction = runtime_of(latency_s=TIMES).predict(FRAME, deadline_ms=deadline_ms)
    assert (prediction.samples, prediction.stop_reason, prediction.fault) == (2, "deadline", None)


def test_chunks_of_one_member_still_leave_two() -> None:
    runtime = runtime_of(with_bank(manifest_of(), chunk=1), latency_s=TIMES)
    assert runtime.predict(FRAME, deadline_ms=1).samples == 2


def test_a_slow_chunk_makes_the_next_frames_careful() -> None:
    runtime = runtime_of(latency_s=TIMES)
    assert runtime.predict(FRAME, deadline_ms=25.5).samples == 6
    runtime.engine.latency_s["head"] = 0.008  # type: ignore[attr-defined]
    assert runtime.predict(FRAME, deadline_ms=100).samples == 8
    runtime.engine.latency_s["head"] = 0.005  # type: ignore[attr-defined]
    assert runtime.predict(FRAME, deadline_ms=25.5).samples == 4  # 10 + 5 + 5 and room for 8


def test_the_deadline_leaves_time_for_what_follows_the_engine() -> None:
    runtime = runtime_of(latency_s=TIMES)
    assert runtime.predict(FRAME, deadline_ms=26).samples == 6
    runtime._finish_pace.record(0.002)
    assert runtime.predict(FRAME, deadline_ms=26).samples == 4


def test_a_deadline_counts_from_the_call() -> None:
    prediction = runtime_of(latency_s={"fused": 0.25}).predict(FRAME)
    assert prediction.latency_ms == pytest.approx(250)
    assert prediction.engine_ms == pytest.approx(250)
    assert prediction.stages_ms["fused"] == pytest.approx(250)


@pytest.mark.parametrize("deadline_ms", [0.0, -5.0, math.nan, math.inf])
def test_a_deadline_must_be_positive_and_finite(deadline_ms: float) -> None:
    with pytest.raises(InputError, match="deadline_ms must be positive and finite"):
        runtime_of().predict(FRAME, deadline_ms=deadline_ms)


def test_warming_up_loads_what_will_be_used() -> None:
    runtime = runtime_of(latency_s=TIMES)
    runtime.warm_up(runs=1)
    assert set(runtime.engine._graphs) == {"fused"}  # type: ignore[attr-defined]
    runtime.warm_up(runs=1, anytime=True)
    assert set(runtime.engine._graphs) == {"fused", "trunk", "head"}  # type: ignore[attr-defined]
    assert runtime._head_pace.estimate_s == pytest.approx(0.005)


# Faults


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("nan", "the engine returned members that are not finite"),
        ("inf", "the engine returned members that are not finite"),
        ("identical", "all 8 members are identical"),
    ],
)
@pytest.mark.parametrize("task", ["classification", "regression", "heteroscedastic"])
def test_a_broken_output_is_invalid_evidence(task: Any, fault: Any, reason: str) -> None:
    runtime = runtime_of(manifest_of(task), faults=[fault, None])
    broken, good = runtime.predict(FRAME), runtime.predict(FRAME)
    assert broken.fault == reason
    assert broken.evidence().fault == reason
    assert fault == "identical" or np.isnan(broken.mean).all()
    assert good.evidence().fault is None


def test_a_broken_head_chunk_is_invalid_evidence() -> None:
    runtime = runtime_of(faults=[None, None, "nan"])  # trunk, first chunk, second chunk
    assert runtime.predict(FRAME, samples=4).fault == "the engine returned members that are not finite"


def test_members_that_differ_in_one_number_are_not_identical() -> None:
    members = np.ones((8, 1, 4), np.float32)
    members[7, 0, 3] += 1e-6
    assert runtime_of(members=members).predict(FRAME).fault is None


def test_an_engine_that_raises_is_an_engine_error_and_the_next_frame_is_fine() -> None:
    runtime = runtime_of(faults=["raise"])
    with pytest.raises(EngineError, match="scripted could not run fused"):
        runtime.predict(FRAME)
    assert runtime.predict(FRAME).fault is None


def test_a_script_may_never_recover() -> None:
    runtime = runtime_of(faults=itertools.repeat("nan"))
    assert all(runtime.predict(FRAME).fault for _ in range(5))


def test_a_hang_takes_its_time() -> None:
    assert runtime_of(faults=["hang"], hang_s=30.0).predict(FRAME).latency_ms == pytest.approx(30_000)


@pytest.mark.parametrize("density", [math.nan, math.inf])
def test_a_density_that_is_not_finite_is_invalid_evidence(density: float) -> None:
    assert runtime_of(density=density).predict(FRAME).fault == "the density is missing or not finite"


def test_a_missing_density_is_invalid_evidence() -> None:
    manifest = manifest_of()
    engine = ScriptedEngine(Path(), msgspec.structs.replace(manifest, outputs=manifest.outputs[:1]))
    runtime = Runtime(manifest, engine, pack(draw_keep(manifest.bank, 0, 8)))
    assert runtime.predict(FRAME).evidence().fault == "the density is missing or not finite"
    assert runtime.predict(FRAME, samples=4).evidence().fault == "the density is missing or not finite"


def test_an_infinite_variance_is_invalid_evidence() -> None:
    members = canned()
    members[3, 0, 2] = 2e38
    assert runtime_of(members=members).predict(FRAME).evidence().fault == "the uncertainty is not finite"


def test_an_engine_whose_output_has_another_shape_is_an_engine_error() -> None:
    wide = manifest_of(outputs=(TensorSpec(name="members", shape=(1, 6), dtype="float32"),))
    manifest = manifest_of()
    runtime = Runtime(manifest, ScriptedEngine(Path(), wide), pack(draw_keep(manifest.bank, 0, 8)))
    with pytest.raises(EngineError, match=r"members of shape \(8, 1, 4\), got \(8, 1, 6\)"):
        runtime.predict(FRAME)


# What the policy and people are told


def test_scores_reduce_as_the_manifest_says() -> None:
    scores = (Score(name="epistemic", reduction="max"), Score(name="total", reduction="mean"), Score(name="density"))
    runtime = runtime_of(manifest_of(policy=PolicySpec(scores=scores)), density=7.0)
    prediction = runtime.predict(FRAME)
    assert prediction.scores() == {
        "epistemic": prediction.epistemic.max(),
        "total": prediction.total.mean(),
        "density": 7.0,
    }
    evidence = prediction.evidence(age_s=0.25)
    assert (evidence.samples, evidence.age_s, evidence.fault) == (8, 0.25, None)
    assert evidence.scores == prediction.scores()


def test_a_score_that_the_bundle_cannot_give_is_invalid_evidence() -> None:
    manifest = manifest_of(policy=PolicySpec(scores=(Score(name="density"),)))
    runtime = runtime_of(msgspec.structs.replace(manifest, outputs=manifest.outputs[:1]))
    prediction = runtime.predict(FRAME)
    assert math.isnan(prediction.scores()["density"])
    assert prediction.evidence().fault == "not finite: density"


def test_probabilities_use_the_temperature_of_the_samples() -> None:
    manifest = manifest_of("classification", calibration=Calibration(temperature={4: 2.0, 8: 0.5}))
    runtime = runtime_of(manifest, members=canned() * 2)
    for samples, power in ((8, 2.0), (5, 0.5), (3, 1.0)):
        prediction = runtime.predict(FRAME, samples=samples)
        expected = prediction.mean**power
        np.testing.assert_allclose(prediction.probabilities(), expected / expected.sum(), rtol=1e-9)
    with pytest.raises(InputError, match="use probabilities"):
        prediction.interval()


def test_intervals_use_the_scale_of_the_samples() -> None:
    manifest = manifest_of(calibration=Calibration(interval_scale={4: 2.0}))
    runtime = runtime_of(manifest)
    for samples, scale in ((8, 2.0), (3, 1.0)):
        prediction = runtime.predict(FRAME, samples=samples)
        low, high = prediction.interval()
        np.testing.assert_allclose(high - low, 2 * scale * 1.6448536269514722 * np.sqrt(prediction.total))
        np.testing.assert_allclose((high + low) / 2, prediction.mean)
    with pytest.raises(InputError, match="use mean and interval"):
        prediction.probabilities()


# Gaussian heads


def gaussian_of(task: Any = "classification", covariance: Any = "full", **changes: Any) -> Manifest:
    head = GaussianHead(layer="last", covariance=covariance, noise_variance=0.25)
    normal = StochasticInput(name="normal_0", source="last", kind="normal", shape=(1, 4))
    closed = Bank(members=1, chunk=1, selection="closed_form", seed=3, inputs=())
    density = TensorSpec(name="density", shape=(1,), dtype="float32")
    fields: dict[str, Any] = {
        "schema_version": 2,
        "form": "gaussian_head",
        "gaussian": head,
        "outputs": (*head.moments((1, 4)), density),
        "bank": Bank(members=8, chunk=4, selection="balanced", seed=3, inputs=(normal,)),
    }
    if task != "classification":
        fields["bank"] = closed
    return manifest_of(task, **fields | changes)


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
@pytest.mark.parametrize("samples", [2, 8, 300])
def test_a_gaussian_head_s_members_are_its_logits_from_the_stored_draws_and_then_fresh_ones(
    covariance: Any, samples: int
) -> None:
    members, manifest = canned(), gaussian_of(covariance=covariance)
    runtime = runtime_of(manifest, members=members)
    prediction = runtime.predict(FRAME, samples=samples)
    stored = np.random.default_rng(0).normal(size=(8, 1, 4)).astype(np.float32)
    normals = np.concatenate([stored, draw_normal(manifest.bank, 8, samples)["normal_0"]])[:samples].astype(np.float64)
    centred = (members - members.mean(axis=0))[:, 0]
    matrix = (centred.T @ centred / np.float32(8)).astype(np.float64)
    values, vectors = np.linalg.eigh(matrix)
    root = vectors @ np.diag(np.sqrt(values)) @ vectors.T if covariance == "full" else np.diag(np.sqrt(np.diag(matrix)))
    logits = members.mean(axis=0) + normals @ root.T
    expected = decompose("classification", logits, unbiased=False, class_axis=1)
    for name in expected._fields:
        np.testing.assert_allclose(getattr(prediction, name), getattr(expected, name), rtol=1e-4, atol=1e-6)
    assert (prediction.samples, prediction.stop_reason, prediction.fault) == (samples, "samples", None)
    assert prediction.density == 0.0


@pytest.mark.parametrize("task", ["regression", "heteroscedastic"])
def test_a_regression_s_gaussian_head_is_as_good_with_any_number_of_samples(task: Any) -> None:
    members, manifest = canned(), gaussian_of(task)
    runtime = runtime_of(manifest, members=members)
    one, many = runtime.predict(FRAME), runtime.predict(FRAME, samples=500)
    assert (one.samples, many.samples, one.fault) == (1, 500, None)
    np.testing.assert_array_equal(one.total, many.total)
    np.testing.assert_allclose(one.epistemic, members[..., : one.mean.shape[1]].var(axis=0), rtol=1e-4)
    np.testing.assert_allclose(one.total, one.aleatoric + one.epistemic)
    assert one.standard_error is not None
    assert not one.standard_error.any()
    assert one.evidence().fault is None


def test_a_gaussian_head_is_one_pass_whatever_the_deadline_and_always_all_samples() -> None:
    runs: list[float] = []
    manifest = gaussian_of()
    engine = ScriptedEngine(Path(), manifest, members=canned(), latency_s={"fused": 2.0}, sleep=runs.append)
    stored = {"normal_0": np.ones((8, 1, 4), np.float32) * np.arange(8, dtype=np.float32)[:, None, None]}
    runtime = Runtime(manifest, engine, stored)
    prediction = runtime.predict(FRAME, samples=30, deadline_ms=1e-3)
    assert (prediction.samples, prediction.stop_reason, runs) == (30, "samples", [2.0])
    runtime.warm_up(runs=1, anytime=True)
    assert runs == [2.0, 2.0]


def test_without_samples_there_are_probit_probabilities_and_no_evidence() -> None:
    manifest = gaussian_of()
    prediction = runtime_of(manifest, members=canned()).predict(FRAME, samples=0)
    assert prediction.mean.sum() == pytest.approx(1.0)
    assert np.isfinite(prediction.total).all()
    assert np.isnan(prediction.epistemic).all()
    assert prediction.evidence().fault == "without samples the epistemic uncertainty is not known"


@pytest.mark.parametrize("task", ["classification", "regression", "heteroscedastic"])
@pytest.mark.parametrize(
    ("fault", "said"),
    [("nan", "moments that are not finite"), ("inf", "not finite"), ("identical", "identical|no variance")],
)
def test_a_gaussian_head_s_faults_are_faults_of_the_evidence(task: Any, fault: Any, said: str) -> None:
    prediction = runtime_of(gaussian_of(task), members=canned(), faults=itertools.repeat(fault)).predict(FRAME)
    assert prediction.fault is not None
    assert re.search(said, prediction.fault)
    assert fault == "identical" or np.isnan(prediction.mean).all()


def test_one_logit_sample_says_nothing() -> None:
    prediction = runtime_of(gaussian_of(), members=canned()).predict(FRAME, samples=1)
    assert prediction.fault == "one sample says nothing about epistemic uncertainty"
