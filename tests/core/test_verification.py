from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_bdl.bundle import Bundle
from edge_bdl.engines import open_engine
from edge_bdl.manifest import Precision
from edge_bdl.verification import Check, verify_engine, verify_generator

BUNDLES = Path(__file__).parents[1] / "bundles"
NAMES = sorted(folder.stem for folder in BUNDLES.glob("*.ebdl"))
PACKAGES = {"onnxruntime": ("onnxruntime",), "tflite": ("ai_edge_litert", "tflite_runtime"), "reference": ("onnx",)}
INSTALLED = [name for name, packages in PACKAGES.items() if any(map(importlib.util.find_spec, packages))]

Golden = dict[str, NDArray[Any]]


def opened(name: str = "tiny_masks") -> Bundle:
    return Bundle.open(BUNDLES / f"{name}.ebdl")


def check(bundle: Bundle, golden: Golden, engine: str = INSTALLED[0]) -> dict[str, Check]:
    checks = verify_engine(open_engine(engine, bundle.folder, bundle.manifest), bundle.manifest, bundle.bank(), golden)
    return {check.name: check for check in checks}


@pytest.mark.parametrize("engine", INSTALLED)
@pytest.mark.parametrize("name", NAMES)
def test_shipped_bundles_are_right_under_every_installed_engine(name: str, engine: str) -> None:
    bundle = opened(name)
    checks = check(bundle, bundle.golden(), engine)
    expected = {"deterministic", "members", "split_members"}
    if bundle.manifest.closed is not None:
        spread = {"gaussian_head": "covariance", "moments": "variance"}[bundle.manifest.form]
        expected = {"deterministic", "mean", "split_mean", spread, f"split_{spread}"}
    expected |= {"fresh_members"} if bundle.manifest.form == "mask_bank" else set()
    expected |= {"density", "split_density"} if bundle.manifest.has_density else set()
    assert checks.keys() == expected
    assert all(one.passed and one.engine == engine for one in checks.values()), checks


@pytest.mark.parametrize(
    ("key", "failing"),
    [
        ("det.output", {"deterministic"}),
        ("fused.members", {"members", "split_members"}),
        ("fresh.members", {"fresh_members"}),
        ("density", {"density", "split_density"}),
        ("input.frame", {"deterministic", "members", "split_members", "fresh_members", "density", "split_density"}),
    ],
)
def test_a_golden_that_differs_fails_its_checks_alone(key: str, failing: set[str]) -> None:
    bundle = opened()
    golden = bundle.golden()
    changed = golden[key].copy()
    changed[-1].flat[-1] += 1 if key == "input.frame" else np.float32(0.01)
    if key == "input.frame":
        changed[-1] = 255 - changed[-1]
    checks = check(bundle, golden | {key: changed})
    assert {name for name, one in checks.items() if not one.passed} == failing


def test_the_tolerance_is_of_the_outputs_range() -> None:
    bundle = opened()
    golden = bundle.golden()
    step = np.float32(np.ptp(golden["fused.members"]))
    nearly = golden | {"det.output": golden["det.output"] + step * np.float32(5e-6)}
    too_far = golden | {"det.output": golden["det.output"] + step * np.float32(2e-5)}
    assert check(bundle, nearly)["deterministic"].passed
    assert not check(bundle, too_far)["deterministic"].passed


@pytest.mark.parametrize("fault", ["nan", "inf", "identical"])
def test_an_engine_that_answers_wrongly_fails(fault: str) -> None:
    bundle = opened()
    engine = open_engine("scripted", bundle.folder, bundle.manifest, faults=[fault] * 99)
    checks = verify_engine(engine, bundle.manifest, bundle.bank(), bundle.golden())
    assert not any(one.passed for one in checks if one.name in ("members", "split_members"))


def test_an_engine_that_raises_is_one_failed_check() -> None:
    bundle = opened()
    engine = open_engine("scripted", bundle.folder, bundle.manifest, faults=["raise"])
    (one,) = verify_engine(engine, bundle.manifest, bundle.bank(), bundle.golden())
    assert (one.name, one.engine, one.passed) == ("runs", "scripted", False)


@pytest.mark.parametrize("break_it", [lambda out: out.clear(), lambda out: out.update(members=out["members"][:1])])
def test_outputs_that_are_missing_or_of_another_shape_fail(break_it: Callable[[Golden], None]) -> None:
    bundle = opened()
    engine = open_engine(INSTALLED[0], bundle.folder, bundle.manifest)
    graph = engine.graph("fused")
    run = graph.run

    def broken(*arguments: Any) -> Golden:
        outputs = run(*arguments)
        break_it(outputs)
        return outputs

    graph.run = broken  # type: ignore[method-assign]
    checks = verify_engine(engine, bundle.manifest, bundle.bank(), bundle.golden())
    failed = {one.name: one.detail for one in checks if not one.passed}
    assert "members" in failed
    assert failed["members"].startswith("expected shape [16, 1, 2], got ")
    assert "split_members" not in failed


@pytest.mark.parametrize("name", NAMES)
def test_this_machine_draws_the_masks_that_the_exporter_drew(name: str) -> None:
    bundle = opened(name)
    checks = verify_generator(bundle.manifest, bundle.golden())
    assert [one.passed for one in checks] == ([] if bundle.manifest.form in ("weight_bank", "ensemble") else [True])


def test_a_machine_that_draws_other_masks_is_found_out() -> None:
    bundle = opened()
    bank = msgspec.structs.replace(bundle.manifest.bank, seed=bundle.manifest.bank.seed + 1)
    (one,) = verify_generator(msgspec.structs.replace(bundle.manifest, bank=bank), bundle.golden())
    assert not one.passed
    assert "mask_0" in one.detail


@pytest.mark.parametrize(
    ("name", "key", "failing"),
    [
        ("tiny_gaussian", "det.output", {"deterministic"}),
        ("tiny_gaussian", "fused.output_mean", {"mean", "split_mean"}),
        ("tiny_gaussian", "fused.output_covariance", {"covariance", "split_covariance"}),
        ("tiny_gaussian", "density", {"density", "split_density"}),
        ("tiny_moments", "fused.output_mean", {"mean", "split_mean"}),
        ("tiny_moments", "fused.output_variance", {"variance", "split_variance"}),
    ],
)
def test_a_golden_moment_that_differs_fails_its_checks_alone(name: str, key: str, failing: set[str]) -> None:
    bundle = opened(name)
    golden = bundle.golden()
    changed = golden[key].copy()
    changed[-1].flat[-1] += np.float32(0.03)
    checks = check(bundle, golden | {key: changed})
    assert {name for name, one in checks.items() if not one.passed} == failing


def test_a_covariance_is_held_against_the_largest_variance() -> None:
    bundle = opened("tiny_gaussian")
    golden = bundle.golden()
    largest = np.diagonal(golden["fused.output_covariance"], axis1=2, axis2=3).max()
    for share, passed in ((5e-6, True), (2e-5, False)):
        moved = golden | {"fused.output_covariance": golden["fused.output_covariance"] + largest * np.float32(share)}
        assert check(bundle, moved)["covariance"].passed is passed


def test_normal_draws_that_differ_by_more_than_rounding_fail() -> None:
    bundle = opened("tiny_gaussian")
    golden = bundle.golden()
    for error, passed in ((5e-6, True), (2e-5, False)):
        moved = golden | {"fresh.normal_0": golden["fresh.normal_0"] + np.float32(error)}
        (one,) = verify_generator(bundle.manifest, moved)
        assert (one.name, one.passed) == ("fresh_normals", passed)


def test_a_bundle_in_integers_says_itself_how_far_machines_may_differ() -> None:
    bundle = opened()
    precision = Precision(weights="int8", tolerance=0.02, density_tolerance=0.5)
    manifest = msgspec.structs.replace(bundle.manifest, schema_version=2, precision=precision)
    engine = open_engine(INSTALLED[0], bundle.folder, bundle.manifest)
    golden = bundle.golden()
    members, density = golden["fused.members"], golden["density"]
    for share, passed in ((0.019, True), (0.021, False)):
        moved = golden | {"fused.members": members + np.float32(share) * np.ptp(members)}
        checks = {one.name: one.passed for one in verify_engine(engine, manifest, bundle.bank(), moved)}
        assert (checks["members"], checks["deterministic"]) == (passed, True)
    moved = golden | {"density": density + np.float32(0.4) * (np.abs(density) + 1.0)}
    checks = {one.name: one.passed for one in verify_engine(engine, manifest, bundle.bank(), moved)}
    assert checks["density"]
