from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_bdl.errors import BundleError, InputError
from edge_bdl.findings import Fidelity, Flops, Partial
from edge_bdl.manifest import Bank, Calibration, FileEntry, Manifest, StochasticInput, TensorSpec, decode, encode
from edge_bdl.policy_spec import PolicyConfig, PolicySpec, Score, Thresholds

BUNDLES = sorted((Path(__file__).parents[1] / "bundles").glob("*.ebdl"))

MASK = {"name": "mask_0", "source": "head.0", "kind": "Dropout", "shape": (8,), "rate": 0.2, "scale": 1.25}
PRECISION = {"weights": "int8", "tolerance": 0.01, "density_tolerance": 0.02}
BANK = {"members": 4, "chunk": 2, "selection": "iid", "seed": 0, "inputs": (StochasticInput(**MASK),)}


FIDELITY = {"samples": 2, "reference_members": 256, "kl": 0.1, "epistemic_spearman": 0.9}
PARTIAL = {
    "from_layer": "head", "reference_members": 256, "kl": 0.1, "epistemic_spearman": 0.9, "mean_error": 0.1,
    "epistemic_ratio": 0.8,
}  # fmt: skip


def shipped() -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((BUNDLES[0] / "manifest.json").read_bytes())
    return fields


def as_json(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields).encode()


@pytest.mark.parametrize("folder", BUNDLES, ids=lambda folder: folder.stem)
def test_a_shipped_manifest_survives_decoding_and_encoding(folder: Path) -> None:
    raw = (folder / "manifest.json").read_bytes()
    assert encode(decode(raw)) == raw


def test_a_manifest_is_written_for_people_too() -> None:
    text = encode(decode(as_json(shipped()))).decode()
    assert text.startswith('{\n  "schema_version": 1')
    assert text.endswith("}\n")


def test_a_newer_schema_is_refused_before_anything_else_is_looked_at() -> None:
    with pytest.raises(BundleError, match=r"schema 3.*pip install -U edge-bdl"):
        decode(b'{"schema_version": 3, "things": ["of the future"]}')


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x00\xff",
        b"[]",
        b"null",
        b"{}",
        b'{"schema_version": "1"}',
        b'{"schema_version": 0}',
        b'{"schema_version": 1}',
        b"{" * 100_000,
        b'{"schema_version": 1, "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b', "schema_version": 1}',
    ],
    ids=["empty", "binary", "list", "null", "no fields", "text", "old", "bare", "open", "deep", "deep first"],
)
def test_what_is_no_manifest_is_a_bundle_error(raw: bytes) -> None:
    with pytest.raises(BundleError, match="export the bundle again"):
        decode(raw)


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(BundleError, match="colour"):
        decode(as_json(shipped() | {"colour": "red"}))


def test_a_field_given_twice_is_refused_even_deep_inside() -> None:
    raw = as_json(shipped())
    twice = raw.replace(b'"chunk": ', b'"chunk": 1, "chunk": ')
    assert twice != raw
    with pytest.raises(BundleError, match="given twice"):
        decode(twice)


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
def test_numbers_that_are_not_finite_are_refused(number: bytes) -> None:
    raw = as_json(shipped() | {"policy": {"config": {"slow_factor": "here"}}}).replace(b'"here"', number)
    with pytest.raises(BundleError):
        decode(raw)


def edited(edit: Callable[[dict[str, Any]], object]) -> bytes:
    fields = shipped()
    edit(fields)
    return as_json(fields)


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: m.update(inputs=[]),
        lambda m: m.update(outputs=[]),
        lambda m: m.update(inputs=m["inputs"] * 2),
        lambda m: m["bank"].update(inputs=m["bank"]["inputs"][:1] * 2),
        lambda m: m["bank"]["inputs"][0].update(name=m["inputs"][0]["name"]),
        lambda m: m.update(task="classification", class_axis=None),
        lambda m: m.update(task="classification", class_axis=9),
        lambda m: m.update(task="classification", class_axis=-1),
        lambda m: m.update(task="heteroscedastic", outputs=[{"name": "y", "shape": [1, 3], "dtype": "float32"}]),
        lambda m: m.update(task="heteroscedastic", outputs=[{"name": "y", "shape": [], "dtype": "float32"}]),
        lambda m: m.update(form="pickle"),
        lambda m: m.update(name=None),
        lambda m: m.pop("bank"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(edit: Callable[[dict[str, Any]], object]) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json cannot be read"):
        decode(edited(edit))


@pytest.mark.parametrize(
    "news",
    [
        {"fidelity": [{**FIDELITY, "auroc_lost": 0.01}]},
        {"fidelity": [FIDELITY, {**FIDELITY, "samples": 3, "seen_kl": 0.1, "seen_epistemic_spearman": 0.9}]},
        {"partial": PARTIAL},
        {"precision": PRECISION},
        {"self_contained": [{"name": name, "shape": [1, 2], "dtype": "float32"} for name in ("mean", "total")]},
        {"pictures": {"darkest": 20.0, "brightest": 200.0, "least_sharp": 0.1}},
    ],
)
def test_what_schema_1_had_not_makes_a_manifest_one_of_schema_2(news: dict[str, Any]) -> None:
    for before in ([FIDELITY], []):
        assert decode(edited(lambda m, before=before: m.update(fidelity=before))).schema_version == 1
    with pytest.raises(BundleError, match="is of schema 2, got 1"):
        decode(edited(lambda m: m.update(news)))
    manifest = decode(edited(lambda m: m.update(news, schema_version=2)))
    assert decode(encode(manifest)) == manifest


@pytest.mark.parametrize(
    ("news", "message"),
    [
        ({"weights": "fp32"}, "fp32 is what a bundle without a precision has"),
        ({"weights": "int4"}, "int4"),
        ({"tolerance": 0.0}, "positive and finite"),
        ({"density_tolerance": -1.0}, "positive and finite"),
        ({"bank": "int8"}, "a mask_bank has no bank of weights to be stored in int8"),
    ],
)
def test_a_precision_that_makes_no_sense_is_refused(news: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        decode(edited(lambda m: m.update(precision={**PRECISION, **news}, schema_version=2)))


SAID = {"shape": [1, 2], "dtype": "float32"}


@pytest.mark.parametrize(
    ("names", "engines"),
    [
        ([], ["onnxruntime"]), (["mean"], ["onnxruntime"]), (["total", "mean"], ["onnxruntime"]),
        (["mean", "total", "members"], ["onnxruntime"]), (["mean", "total", "epistemic", "aleatoric"], ["onnxruntime"]),
        (["mean", "total"], ["tflite"]),
    ],
)  # fmt: skip
def test_a_self_contained_graph_gives_mean_total_and_more_of_the_known_in_order(names: list[str], engines: Any) -> None:
    outputs = [SAID | {"name": name} for name in names]
    with pytest.raises(BundleError, match="a self-contained graph"):
        decode(edited(lambda m: m.update(self_contained=outputs, schema_version=2, engines=engines)))


def test_weights_may_be_built_in_and_masks_may_not() -> None:
    weights = next(folder for folder in BUNDLES if folder.stem == "tiny_weights")
    fields = json.loads((weights / "manifest.json").read_bytes())
    bank = fields["bank"] | {"built_in": True, "members": 8, "chunk": 3}
    with pytest.raises(BundleError, match="is of schema 2"):
        decode(as_json(fields | {"bank": bank, "schema_version": 1}))
    manifest = decode(as_json(fields | {"bank": bank, "schema_version": 2}))
    assert manifest.graphs == ("det", "trunk", "head_0", "head_1", "head_2", "fused")
    assert manifest.member_inputs == ()
    assert decode(as_json(fields)).graphs == ("det", "trunk", "head", "fused")
    with pytest.raises(BundleError, match="enum value False"):
        decode(as_json(fields | {"bank": bank | {"built_in": False}, "schema_version": 2}))
    with pytest.raises(BundleError, match="more than 100 heads"):
        decode(as_json(fields | {"bank": bank | {"members": 101, "chunk": 1}, "schema_version": 2}))
    with pytest.raises(BundleError, match="a mask_bank has none"):
        decode(edited(lambda m: m.update(bank=m["bank"] | {"built_in": True}, schema_version=2)))


def test_an_ensemble_is_of_schema_2() -> None:
    ensemble = next(folder for folder in BUNDLES if folder.stem == "tiny_ensemble")
    fields = json.loads((ensemble / "manifest.json").read_bytes())
    assert (fields["form"], fields["schema_version"]) == ("ensemble", 2)
    with pytest.raises(BundleError, match="a ensemble is of schema 2, got 1"):
        decode(as_json(fields | {"schema_version": 1}))


def test_masks_may_be_fixed_and_weights_may_not() -> None:
    masks = next(folder for folder in BUNDLES if folder.stem == "tiny_masks")
    fields = json.loads((masks / "manifest.json").read_bytes())
    fixed = {"bank": fields["bank"] | {"fixed": True}}
    with pytest.raises(BundleError, match="is of schema 2"):
        decode(as_json(fields | fixed | {"schema_version": 1}))
    assert decode(as_json(fields | fixed | {"schema_version": 2})).bank.fixed is True
    weights = next(folder for folder in BUNDLES if folder.stem == "tiny_weights")
    fields = json.loads((weights / "manifest.json").read_bytes())
    fields["bank"]["fixed"] = True
    with pytest.raises(BundleError, match="masks may be fixed, a weight_bank has none"):
        decode(as_json(fields | {"schema_version": 2}))


def test_a_gaussian_head_is_not_partial() -> None:
    folder = next(folder for folder in BUNDLES if folder.stem == "tiny_gaussian")
    fields = json.loads((folder / "manifest.json").read_bytes())
    with pytest.raises(BundleError, match="has nothing partial"):
        decode(as_json(fields | {"partial": PARTIAL}))


@pytest.mark.parametrize(
    ("part", "fields"),
    [
        (TensorSpec, {"name": "x", "shape": (1, 0), "dtype": "uint8"}),
        (TensorSpec, {"name": "x", "shape": (-1,), "dtype": "uint8"}),
        (FileEntry, {"bytes": -1, "sha256": "0" * 64}),
        (FileEntry, {"bytes": 1, "sha256": "0" * 63}),
        (FileEntry, {"bytes": 1, "sha256": "A" * 64}),
        (StochasticInput, MASK | {"rate": 1.0}),
        (StochasticInput, MASK | {"rate": -0.1}),
        (StochasticInput, MASK | {"rate": float("nan")}),
        (StochasticInput, MASK | {"scale": 0.0}),
        (StochasticInput, MASK | {"scale": float("inf")}),
        (StochasticInput, MASK | {"shape": (-1,)}),
        (Bank, BANK | {"members": 1, "chunk": 1}),
        (Bank, BANK | {"chunk": 0}),
        (Bank, BANK | {"chunk": 5}),
        (Bank, BANK | {"inputs": ()}),
        (Bank, BANK | {"seed": -1}),
        (Bank, BANK | {"seed": 2**64}),
        (Bank, BANK | {"member_weights": {2: (0.5,)}}),
        (Bank, BANK | {"member_weights": {2: (0.5, 0.6)}}),
        (Bank, BANK | {"member_weights": {2: (1.5, -0.5)}}),
        (Thresholds, {"slow": 2.0, "handoff": 1.0}),
        (Thresholds, {"slow": float("nan"), "handoff": 1.0}),
        (Thresholds, {"slow": 0.0, "handoff": float("inf")}),
        (Thresholds, {"slow": 1.0, "handoff": 2.0, "speed_curve": ((1.0, 0.5), (0.5, 0.2))}),
        (Thresholds, {"slow": 1.0, "handoff": 2.0, "speed_curve": ((0.5, 0.2), (1.0, 0.5))}),
        (Thresholds, {"slow": 1.0, "handoff": 2.0, "speed_curve": ((0.5, 1.2),)}),
        (Fidelity, FIDELITY | {"epistemic_spearman": 1.1}),
        (Fidelity, FIDELITY | {"auroc_lost": -1.1}),
        (Fidelity, FIDELITY | {"seen_kl": 0.1}),
        (Fidelity, FIDELITY | {"seen_epistemic_spearman": 0.1}),
        (Fidelity, FIDELITY | {"seen_kl": 0.1, "seen_epistemic_spearman": float("nan")}),
        (Partial, PARTIAL | {"reference_members": 1}),
        (Partial, PARTIAL | {"epistemic_spearman": -1.1}),
        (Partial, PARTIAL | {"kl": float("nan")}),
        (Partial, PARTIAL | {"mean_error": -0.1}),
        (Partial, PARTIAL | {"epistemic_ratio": float("inf")}),
        (Calibration, {"temperature": {4: 0.0}}),
        (Calibration, {"interval_scale": {4: float("nan")}}),
        (PolicyConfig, {"good_frames_to_start": 0}),
        (PolicyConfig, {"slow_votes": 6}),
        (PolicyConfig, {"slow_factor": 1.1}),
        (PolicyConfig, {"slow_factor": float("nan")}),
        (PolicyConfig, {"hold_to_stop_s": 0.0}),
        (PolicyConfig, {"loosen_per_s": float("inf")}),
        (PolicyConfig, {"assessment_timeout_s": 0.41}),
        (PolicyConfig, {"slow_window": 64}),
        (PolicyConfig, {"hold_ramp_s": -0.1}),
        (PolicyConfig, {"hold_ramp_s": 1.01}),
        (PolicyConfig, {"hold_ramp_s": float("nan")}),
        (PolicyConfig, {"hold_ramp_s": float("inf")}),
    ],
)
def test_a_part_that_makes_no_sense_cannot_be_built(part: Callable[..., Any], fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        part(**fields)


@pytest.mark.parametrize("hold_ramp_s", [0.0, 0.3, 1.0])
def test_hold_may_be_by_a_ramp_or_at_once_and_a_manifest_without_the_word_means_at_once(hold_ramp_s: float) -> None:
    raw = encode(decode(edited(lambda m: m["policy"].update(config={"hold_ramp_s": hold_ramp_s}))))
    assert decode(raw).policy.config.hold_ramp_s == hold_ramp_s
    assert decode(edited(lambda m: m["policy"].update(config={}))).policy.config.hold_ramp_s == 0.0


@pytest.mark.parametrize(
    ("rate_hz", "timeout_s"), [(5.0, 0.4), (6.0, 1 / 3), (6.7, 0.3), (20.0, 0.3), (1000.0, 0.3), (float("inf"), 0.3)]
)
def test_evidence_may_be_as_old_as_two_frames_of_the_camera_and_no_younger_than_configured(
    rate_hz: float, timeout_s: float
) -> None:
    spec = PolicySpec(config=PolicyConfig(hold_ramp_s=0.2), scores=(Score(name="epistemic"),), source="episode_replay")
    at_rate = spec.at_rate(rate_hz)
    assert at_rate.config.assessment_timeout_s == pytest.approx(timeout_s)
    config = msgspec.structs.replace(at_rate.config, assessment_timeout_s=0.3)
    assert msgspec.structs.replace(at_rate, config=config) == spec


@pytest.mark.parametrize("rate_hz", [4.99, 4.0, 0.0, -20.0, float("nan"), float("-inf"), math.nextafter(5.0, 0.0)])
def test_a_camera_that_is_too_slow_to_be_safe_is_refused(rate_hz: float) -> None:
    with pytest.raises(InputError, match="too slow to be safe, expected at least 5 Hz"):
        PolicySpec().at_rate(rate_hz)


def test_a_frame_takes_the_thresholds_of_the_largest_number_of_samples_it_reaches() -> None:
    few, many = Thresholds(slow=1.0, handoff=2.0), Thresholds(slow=3.0, handoff=4.0)
    score = Score(name="epistemic", thresholds={4: few, 16: many})
    assert [score.at(samples) for samples in (1, 3, 4, 15, 16, 99)] == [None, None, few, few, many, many]


@pytest.mark.parametrize(
    ("selection", "unbiased"), [("iid", True), ("given", True), ("balanced", False), ("selected", False)]
)
def test_only_independent_members_are_unbiased(selection: Any, unbiased: bool) -> None:
    assert Bank(**BANK | {"selection": selection}).unbiased is unbiased


def test_the_deterministic_share_is_a_share_also_of_nothing() -> None:
    assert Flops(total=200, deterministic=150).deterministic_share == 0.75
    assert Flops(total=0, deterministic=0).deterministic_share == 0.0


def test_a_manifest_cannot_be_changed() -> None:
    manifest = decode(as_json(shipped()))
    with pytest.raises(AttributeError):
        manifest.name = "other"  # type: ignore[misc]
    assert isinstance(msgspec.structs.replace(manifest, name="other"), Manifest)
