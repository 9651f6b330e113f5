"""Every engine is the same engine: one suite over all of them, the scripted one included, on real bundles."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_bdl.bundle import Bundle
from edge_bdl.engines import ENGINES, Engine, open_engine
from edge_bdl.errors import EngineError, InputError
from edge_bdl.runtime import Runtime
from edge_bdl.sampling import Members, masks, unpack

BUNDLES = Path(__file__).parents[1] / "bundles"
NAMES = ("tiny_masks", "tiny_weights", "tiny_ensemble", "tiny_dense", "tiny_points")
# Bundles without members, and what they give beside the mean.
MOMENTS = {"tiny_gaussian": "output_covariance", "tiny_moments": "output_variance"}
PACKAGES = {
    "onnxruntime": ("onnxruntime",),
    "tflite": ("ai_edge_litert", "tflite_runtime"),
    "reference": ("onnx",),
    "scripted": ("numpy",),
}
COMPUTING = [name for name in ENGINES if name != "scripted"]


def need(engine: str) -> None:
    if not any(importlib.util.find_spec(package) for package in PACKAGES[engine]):
        pytest.skip(f"{' or '.join(PACKAGES[engine])} is not installed")


class Subject:
    """A bundle, an engine on it, and inputs for its graphs."""

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self.bundle, self.engine, self.manifest = bundle, engine, bundle.manifest
        self.golden = bundle.golden()
        self.members = Members(self.manifest.form, self.manifest.bank, bundle.bank())

    def frame(self, number: int = 0) -> dict[str, Any]:
        return {spec.name: self.golden[f"input.{spec.name}"][number] for spec in self.manifest.inputs}

    def other_frame(self) -> dict[str, Any]:
        return {
            name: 255 - array if array.dtype == np.uint8 else array + np.float32(0.5)
            for name, array in self.frame().items()
        }

    def constants(self, first: int = 0, graph: str = "fused") -> dict[str, Any]:
        count = self.manifest.bank.members if graph == "fused" else self.manifest.bank.chunk
        return self.members.take(first, count)

    def chunks(self) -> list[tuple[str, dict[str, Any], int]]:
        """For each chunk of members: its graph, what that takes beside the boundary, and how many members it gives."""
        bank = self.manifest.bank
        starts = range(0, bank.members, bank.chunk)
        heads = bank.heads if bank.built_in else bank.heads * len(starts)
        counts = [min(bank.chunk, bank.members - start) if bank.built_in else bank.chunk for start in starts]
        return [(*row,) for row in zip(heads, (self.constants(first, "head") for first in starts), counts, strict=True)]

    def boundary(self, frame: dict[str, Any]) -> dict[str, Any]:
        outputs = self.engine.graph("trunk").run(frame)
        return {spec.name: outputs[spec.name] for spec in self.manifest.boundary}


@pytest.fixture(params=ENGINES)
def engine_name(request: pytest.FixtureRequest) -> str:
    need(request.param)
    return str(request.param)


@pytest.fixture(params=NAMES)
def bundle(request: pytest.FixtureRequest) -> Bundle:
    return Bundle.open(BUNDLES / f"{request.param}.ebdl")


@pytest.fixture
def subject(bundle: Bundle, engine_name: str) -> Subject:
    return Subject(bundle, open_engine(engine_name, bundle.folder, bundle.manifest))


@pytest.fixture
def pilot(engine_name: str) -> Subject:
    bundle = Bundle.open(BUNDLES / "tiny_masks.ebdl")
    return Subject(bundle, open_engine(engine_name, bundle.folder, bundle.manifest))


def near(actual: Any, expected: Any) -> None:
    """Within 1e-5 of the expected values' range."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    span = max(float(np.ptp(expected)), float(np.abs(expected).max()))
    assert np.abs(actual - expected).max() <= 1e-5 * span


# What graphs compute


def test_an_engine_says_what_it_is(pilot: Subject, engine_name: str) -> None:
    assert pilot.engine.name == engine_name
    assert pilot.engine.version


def test_a_graph_is_loaded_once(pilot: Subject) -> None:
    assert pilot.engine.graph("fused") is pilot.engine.graph("fused")


def test_graphs_have_the_names_and_shapes_of_the_manifest(subject: Subject) -> None:
    manifest = subject.manifest
    density = {"density": (1,)} if manifest.has_density else {}
    shape = manifest.output.shape
    boundary = {spec.name: spec.shape for spec in manifest.boundary}
    frame = subject.frame()
    expected = {
        "det": (frame, {"output": shape}),
        "trunk": (frame, boundary | density),
        "fused": (frame | subject.constants(), {"members": (manifest.bank.members, *shape)} | density),
    }
    for head, constants, count in subject.chunks():
        expected[head] = (subject.boundary(frame) | constants, {"members": (count, *shape)})
    assert set(expected) == set(manifest.graphs)
    for name, (inputs, shapes) in expected.items():
        outputs = subject.engine.graph(name).run(inputs)  # type: ignore[arg-type]
        assert {key: array.shape for key, array in outputs.items()} == shapes
        assert {array.dtype for array in outputs.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("engine_name", COMPUTING)
def test_golden_outputs_come_out(bundle: Bundle, engine_name: str) -> None:
    need(engine_name)
    subject = Subject(bundle, open_engine(engine_name, bundle.folder, bundle.manifest))
    golden, bank = subject.golden, subject.manifest.bank
    for number in range(len(golden["det.output"])):
        frame = subject.frame(number)
        near(subject.engine.graph("det").run(frame)["output"], golden["det.output"][number])
        outputs = subject.engine.graph("fused").run(frame | subject.constants())
        near(outputs["members"], golden["fused.members"][number])
        if subject.manifest.has_density:
            near(outputs["density"], golden["density"][number])
        if "fresh.members" in golden:
            packed = {source.name: golden[f"fresh.{source.name}"] for source in bank.inputs}
            stored = masks(bank, unpack(bank, packed))
            drawn = subject.constants(bank.members, "head")
            for name, array in stored.items():
                np.testing.assert_array_equal(array, drawn[name])
            head = subject.engine.graph("head").run(subject.boundary(frame) | drawn)
            near(head["members"], golden["fresh.members"][number])


def test_trunk_and_head_are_fused(subject: Subject) -> None:
    bank, frame = subject.manifest.bank, subject.frame()
    fused = subject.engine.graph("fused").run(frame | subject.constants())
    boundary = subject.boundary(frame)
    chunks = [subject.engine.graph(head).run(boundary | more)["members"] for head, more, _ in subject.chunks()]
    near(np.concatenate(chunks)[: bank.members], fused["members"])
    if subject.manifest.has_density:
        near(subject.engine.graph("trunk").run(frame)["density"], fused["density"])


def test_the_same_members_give_the_same_bits_and_others_do_not(subject: Subject) -> None:
    graph, frame = subject.engine.graph("fused"), subject.frame()
    constants = subject.constants()
    first, second = graph.run(frame | constants), graph.run(frame | constants)
    np.testing.assert_array_equal(first["members"], second["members"])
    if subject.manifest.bank.built_in:
        assert (np.ptp(first["members"], axis=0) > 0.0).any()
        return
    turned = {name: np.roll(array, 1, axis=0) for name, array in constants.items()}
    other = graph.run(frame | turned)
    assert (first["members"] != other["members"]).any()
    near(other["members"], np.roll(first["members"], 1, axis=0))


@pytest.mark.parametrize("name", MOMENTS)
def test_moments_take_no_members_and_are_the_same_by_trunk_and_head(name: str, engine_name: str) -> None:
    bundle = Bundle.open(BUNDLES / f"{name}.ebdl")
    subject = Subject(bundle, open_engine(engine_name, bundle.folder, bundle.manifest))
    fused, frame = subject.engine.graph("fused"), subject.frame()
    outputs = fused.run(frame)
    shapes = {spec.name: spec.shape for spec in bundle.manifest.outputs}
    assert {name: array.shape for name, array in outputs.items()} == shapes
    assert {array.dtype for array in outputs.values()} == {np.dtype(np.float32)}
    for output, array in fused.run(frame).items():
        np.testing.assert_array_equal(array, outputs[output])
    assert (fused.run(subject.other_frame())["output_mean"] != outputs["output_mean"]).any()
    head = subject.engine.graph("head").run(subject.boundary(frame))
    for output in ("output_mean", MOMENTS[name]):
        near(head[output], outputs[output])
    with pytest.raises(EngineError):
        fused.run(frame | {"normal_0": np.zeros((8, 1, 4), np.float32)})


@pytest.mark.parametrize("name", MOMENTS)
@pytest.mark.parametrize("engine_name", COMPUTING)
def test_golden_moments_come_out(name: str, engine_name: str) -> None:
    need(engine_name)
    bundle = Bundle.open(BUNDLES / f"{name}.ebdl")
    subject = Subject(bundle, open_engine(engine_name, bundle.folder, bundle.manifest))
    for number in range(len(subject.golden["det.output"])):
        outputs = subject.engine.graph("fused").run(subject.frame(number))
        for output in ("output_mean", MOMENTS[name]):
            near(outputs[output], subject.golden[f"fused.{output}"][number])
        near(outputs["density"], subject.golden["density"][number])


# Holding members


@pytest.mark.parametrize("graph_name", ["fused", "head"])
def test_held_members_are_as_good_as_given_ones_over_changing_frames(subject: Subject, graph_name: Any) -> None:
    here, there = subject.constants(0, graph_name), subject.constants(1, graph_name)
    name = graph_name if graph_name == "fused" else subject.manifest.bank.heads[0]
    graph = subject.engine.graph(name)
    held_here, held_there = graph.hold(here), graph.hold(there)
    frames = [subject.frame(), subject.other_frame()]
    inputs = frames if graph_name == "fused" else [subject.boundary(frame) for frame in frames]
    for number, held, constants in (
        (0, held_here, here), (1, held_here, here), (0, held_here, here), (1, held_there, there), (0, None, here),
        (0, held_there, there), (1, held_here, here), (1, held_here, here),
    ):  # fmt: skip
        kept = graph.run(inputs[number] | constants) if held is None else graph.run(inputs[number], held)
        fresh = open_engine(subject.engine.name, subject.bundle.folder, subject.manifest).graph(name)
        np.testing.assert_array_equal(kept["members"], fresh.run(inputs[number] | constants)["members"])


def test_running_another_graph_leaves_held_members_alone(pilot: Subject) -> None:
    fused, frame = pilot.engine.graph("fused"), pilot.frame()
    held = fused.hold(pilot.constants())
    before = fused.run(frame, held)["members"]
    pilot.engine.graph("det").run(pilot.other_frame())
    pilot.engine.graph("head").run(pilot.boundary(pilot.other_frame()) | pilot.constants(4, "head"))
    np.testing.assert_array_equal(fused.run(frame, held)["members"], before)


def test_outputs_belong_to_the_caller(subject: Subject) -> None:
    graph = subject.engine.graph("fused")
    held = graph.hold(subject.constants())
    first = graph.run(subject.frame(), held)
    kept = {name: array.copy() for name, array in first.items()}
    second = graph.run(subject.other_frame(), held)
    assert (second["members"] != kept["members"]).any()
    for name, array in first.items():
        np.testing.assert_array_equal(array, kept[name])
        array[...] = 0.0
    np.testing.assert_array_equal(graph.run(subject.frame(), held)["members"], kept["members"])


def test_a_boundary_that_is_a_frame_input_is_a_copy_of_it(engine_name: str) -> None:
    bundle = Bundle.open(BUNDLES / "tiny_points.ebdl")
    subject = Subject(bundle, open_engine(engine_name, bundle.folder, bundle.manifest))
    frame = subject.frame()
    assert not np.shares_memory(subject.boundary(frame)["boundary_0"], frame["x"])


def test_inputs_are_not_written_to_and_may_lie_in_any_order_in_memory(subject: Subject) -> None:
    graph, frame = subject.engine.graph("fused"), subject.frame()
    held = graph.hold(subject.constants())
    expected = graph.run(frame, held)["members"]
    strided = {name: np.repeat(array, 2, axis=-1)[..., ::2] for name, array in frame.items()}
    copies = {name: array.copy() for name, array in strided.items()}
    np.testing.assert_array_equal(graph.run(strided, held)["members"], expected)
    for name, array in strided.items():
        np.testing.assert_array_equal(array, copies[name])


# What goes wrong


def test_inputs_that_are_not_the_graphs_are_engine_errors_and_do_no_harm(pilot: Subject) -> None:
    graph = pilot.engine.graph("fused")
    frame, constants = pilot.frame(), pilot.constants()
    held = graph.hold(constants)
    expected = graph.run(frame, held)["members"]
    for inputs, what in (
        ({}, held),
        (frame, None),
        (frame | {"image": frame["frame"]}, held),
        (frame | constants, held),
        ({"frame": frame["frame"].astype(np.float32)}, held),
        ({"frame": frame["frame"][:, :8]}, held),
        ({"frame": frame["frame"][0]}, held),
        (frame | {name: array[:4] for name, array in constants.items()}, None),
    ):
        with pytest.raises(EngineError, match=pilot.engine.name) as caught:
            graph.run(inputs, what)
        assert "\n" not in str(caught.value)
        np.testing.assert_array_equal(graph.run(frame, held)["members"], expected)


def test_members_are_of_no_use_to_another_graph_than_the_one_that_holds_them(pilot: Subject) -> None:
    held = pilot.engine.graph("fused").hold(pilot.constants())
    other = open_engine(pilot.engine.name, pilot.bundle.folder, pilot.manifest).graph("fused")
    with pytest.raises(EngineError, match="another graph holds"):
        other.run(pilot.frame(), held)


def test_members_of_another_shape_cannot_be_held(pilot: Subject) -> None:
    graph, constants = pilot.engine.graph("fused"), pilot.constants()
    for wrong in (
        {name: array[:3] for name, array in constants.items()},
        {name: array.astype(np.float64) for name, array in constants.items()},
        {"mask_9": constants["mask_0"]},
    ):
        with pytest.raises(EngineError, match="takes no input mask_"):
            graph.hold(wrong)


@pytest.mark.parametrize("engine_name", COMPUTING)
def test_a_damaged_graph_is_an_engine_error_of_one_line(engine_name: str, tmp_path: Path) -> None:
    need(engine_name)
    bundle = Bundle.open(BUNDLES / "tiny_masks.ebdl")
    folder = tmp_path / "copy.ebdl"
    shutil.copytree(bundle.folder, folder)
    for path in (folder / "fused.onnx", folder / "graph.tflite"):
        path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(EngineError, match=f"{engine_name} could not load") as caught:
        open_engine(engine_name, folder, bundle.manifest).graph("fused")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("engine_name", COMPUTING)
def test_a_bundle_without_the_engines_graphs_is_an_input_error(engine_name: str, tmp_path: Path) -> None:
    need(engine_name)
    manifest = Bundle.open(BUNDLES / "tiny_masks.ebdl").manifest
    with pytest.raises(InputError, match=f"so {engine_name} cannot run it"):
        open_engine(engine_name, tmp_path, manifest).graph("fused")


def test_only_the_graphs_that_are_asked_for_are_read(tmp_path: Path) -> None:
    need("onnxruntime")
    bundle = Bundle.open(BUNDLES / "tiny_masks.ebdl")
    for name in ("fused.onnx", "weights.bin"):
        shutil.copy(bundle.folder / name, tmp_path)
    runtime = Runtime(bundle.manifest, open_engine("onnxruntime", tmp_path, bundle.manifest), bundle.bank())
    assert runtime.predict(bundle.golden()["input.frame"][0]).fault is None


# Opening


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tensorrt", {}, "no engine is called 'tensorrt': choose one of onnxruntime, tflite, reference, scripted"),
        ("scripted", {"threads": 0}, "threads must be a whole number of at least 1, got 0"),
        ("scripted", {"threads": True}, "threads must be a whole number"),
        ("scripted", {"speed": 2}, "engine scripted has no option speed: it knows density, faults"),
        ("reference", {"providers": ()}, "engine reference has no option providers: it knows none"),
        ("scripted", {"members": np.zeros((2, 3), np.float32)}, r"scripted members must be \[n"),
    ],
)
def test_options_that_are_not_the_engines_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    bundle = Bundle.open(BUNDLES / "tiny_masks.ebdl")
    with pytest.raises(InputError, match=message):
        open_engine(name, bundle.folder, bundle.manifest, **options)


@pytest.mark.parametrize("providers", [(), ("NoSuchExecutionProvider",)])
def test_execution_providers_must_be_there(providers: tuple[str, ...]) -> None:
    need("onnxruntime")
    bundle = Bundle.open(BUNDLES / "tiny_masks.ebdl")
    with pytest.raises(InputError, match=r"providers must be among .*CPUExecutionProvider"):
        open_engine("onnxruntime", bundle.folder, bundle.manifest, providers=providers)


@pytest.mark.parametrize(("name", "extra"), [("onnxruntime", "onnx"), ("tflite", "tflite"), ("reference", "reference")])
def test_a_missing_package_names_its_extra(name: str, extra: str) -> None:
    code = (
        "import sys\n"
        "for blocked in ('onnxruntime', 'onnx', 'ai_edge_litert', 'tflite_runtime'): sys.modules[blocked] = None\n"
        "from edge_bdl import MissingExtraError, Runtime\n"
        f"try: Runtime.open({str(BUNDLES / 'tiny_masks.ebdl')!r}, {name!r})\n"
        "except MissingExtraError as error: print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert f"pip install 'edge-bdl[{extra}]'" in said


# Through the runtime


def test_threads_do_not_change_what_is_predicted(pilot: Subject) -> None:
    one = Runtime.open(pilot.bundle, pilot.engine.name, threads=1).predict(pilot.frame())
    two = Runtime.open(pilot.bundle, pilot.engine.name, threads=2).predict(pilot.frame())
    near(one.mean, two.mean)


@pytest.mark.parametrize("samples", [2, 3, 8, 20])
@pytest.mark.parametrize("name", ["tiny_masks", "tiny_dense", "tiny_points"])
def test_engines_predict_the_same_for_any_number_of_samples(name: str, samples: int) -> None:
    bundle = Bundle.open(BUNDLES / f"{name}.ebdl")
    golden = bundle.golden()
    frame = {spec.name: golden[f"input.{spec.name}"][0] for spec in bundle.manifest.inputs}
    installed = [engine for engine in COMPUTING if any(map(importlib.util.find_spec, PACKAGES[engine]))]
    predictions = [Runtime.open(bundle, engine).predict(frame, samples=samples) for engine in installed]
    for prediction in predictions:
        assert (prediction.samples, prediction.fault) == (samples, None)
        near(prediction.mean, predictions[0].mean)
        np.testing.assert_allclose(prediction.epistemic, predictions[0].epistemic, rtol=1e-3)


def test_a_prediction_of_the_bank_is_made_of_the_golden_members(bundle: Bundle, engine_name: str) -> None:
    runtime = Runtime.open(bundle, engine_name)
    golden = bundle.golden()
    frame = {spec.name: golden[f"input.{spec.name}"][0] for spec in bundle.manifest.inputs}
    prediction, anytime = runtime.predict(frame), runtime.predict(frame, deadline_ms=60_000)
    assert prediction.samples == anytime.samples == bundle.manifest.bank.members
    assert prediction.fault is None
    near(anytime.mean, prediction.mean)
    if engine_name != "scripted" and bundle.manifest.task == "regression":
        near(prediction.mean.astype(np.float32), golden["fused.members"][0].mean(axis=0))
