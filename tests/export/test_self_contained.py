"""One ONNX file, run by plain onnxruntime, says what the runtime says."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from edge_bdl.bundle import SELF_CONTAINED, Bundle, write_bundle
from edge_bdl.errors import BundleError, ExportError
from edge_bdl.findings import Flops, Provenance
from edge_bdl.manifest import Bank, Manifest, StochasticInput, TensorSpec
from edge_bdl.runtime import Runtime
from edge_bdl.uncertainty import decompose
from edge_bdl_export import export
from edge_bdl_export.graphs import Graph
from edge_bdl_export.self_contained import Probit, Together, equals_runtime
from edge_bdl_export.write_onnx import to_onnx
from edge_bdl_train.methods.laplace import LaplacePosterior

GENERATOR = np.random.Generator(np.random.Philox(5))
FRAMES = GENERATOR.normal(size=(120, 1, 6)).astype(np.float32)
PARTS = ("mean", "total", "aleatoric", "epistemic")


def seeded(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().eval()


def network(outputs: int, dropout: float = 0.0) -> nn.Module:
    layers = (nn.Linear(6, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, outputs))
    return seeded(lambda: nn.Sequential(*layers))


class Map(nn.Module):
    """Image and gain -> class map; an input is called as an output of the file is."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.drop, self.decode = nn.Conv2d(1, 6, 3, padding=1), nn.Dropout2d(0.3), nn.Conv2d(6, 3, 1)

    def forward(self, image: Tensor, mean: Tensor) -> Tensor:
        return self.decode(self.drop(torch.relu(self.encode(image - mean.reshape(1, 1, 1, 1)))))


def laplace(outputs: int, layout: str, **settings: Any) -> LaplacePosterior:
    generator = torch.Generator().manual_seed(1)
    width = 17
    if layout == "diagonal":
        covariance = 0.1 * torch.rand(outputs, width, generator=generator, dtype=torch.float64)
    else:
        size = outputs * width
        root = torch.randn(size, size, generator=generator, dtype=torch.float64) / size**0.5
        covariance = (0.1 * root @ root.T).reshape(outputs, width, outputs, width)
    return LaplacePosterior(copy.deepcopy(network(outputs)), {"layer": "3", **settings}, covariance)


def heads(outputs: int, count: int) -> list[dict[str, Tensor]]:
    states = [seeded(lambda: nn.Linear(16, outputs), seed).state_dict() for seed in range(count)]
    return [{f"3.{name}": value for name, value in state.items()} for state in states]


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "masks": lambda: {"model": network(2, 0.3), "task": "heteroscedastic", "calibration": FRAMES, "samples": 6},
    "map": lambda: {
        "model": seeded(Map), "task": "classification", "selection": "iid", "samples": 5,
        "example_input": (GENERATOR.normal(size=(1, 1, 4, 5)).astype(np.float32), np.ones((1, 1), np.float32)),
    },
    "weights": lambda: {"model": network(4), "task": "classification", "members": heads(4, 5)},
    "gaussian_regression": lambda: {"model": laplace(2, "full", noise=0.3)},
    "gaussian_log_variance": lambda: {"model": laplace(2, "diagonal"), "task": "heteroscedastic"},
    "gaussian_classes": lambda: {"model": laplace(3, "diagonal"), "task": "classification", "samples": 8},
    "gaussian_classes_full": lambda: {"model": laplace(3, "full"), "task": "classification", "samples": 8},
}  # fmt: skip


@dataclass(frozen=True)
class Exported:
    folder: Path
    manifest: Manifest
    example: Any


@pytest.fixture(scope="module", params=CASES)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp(request.param) / "x.ebdl"
    given = {"example_input": FRAMES[0], **CASES[request.param]()}
    manifest = export(out=folder, formats=("onnx",), self_contained=True, **given)
    return Exported(folder, manifest, given["example_input"])


def session_of(folder: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(folder / SELF_CONTAINED, providers=["CPUExecutionProvider"])


def test_plain_onnxruntime_gives_the_runtime_s_numbers(exported: Exported, tmp_path: Path) -> None:
    # The file alone, away from the bundle: nothing beside it is needed.
    shutil.copy(exported.folder / SELF_CONTAINED, tmp_path)
    session = session_of(tmp_path)
    runtime = Runtime.open(exported.folder)
    names = [output.name for output in session.get_outputs()]
    assert [spec.name for spec in exported.manifest.self_contained] == names
    assert [spec.shape for spec in exported.manifest.self_contained] == [
        tuple(output.shape) for output in session.get_outputs()
    ]
    generator = np.random.Generator(np.random.Philox(9))
    for _ in range(5):
        frame = {spec.name: generator.normal(size=spec.shape).astype(spec.dtype) for spec in exported.manifest.inputs}
        said = dict(zip(names, session.run(None, frame), strict=True))
        wanted = runtime.predict(frame, None if "epistemic" in names else 0)
        for name, value in said.items():
            # float32 here, float64 there.
            np.testing.assert_allclose(
                value, np.reshape(getattr(wanted, name), value.shape), rtol=1e-3 if name == "density" else 1e-4,
                atol=2e-6, err_msg=name,
            )  # fmt: skip


def test_it_gives_what_can_be_known_and_the_proof_covers_it(exported: Exported) -> None:
    names = [spec.name for spec in exported.manifest.self_contained]
    probit = exported.manifest.gaussian is not msgspec.UNSET and exported.manifest.gaussian.covariance == "full"
    probit = probit and exported.manifest.task == "classification"
    density = ["density"] if exported.manifest.has_density else []
    assert names == [*(("mean", "total") if probit else PARTS), *density]
    proved = {check.check for check in exported.manifest.parity}
    assert proved >= {f"self_contained_equals_runtime[{name}]" for name in names}


def test_the_bundle_names_it_and_states_the_schema_that_knows_it(exported: Exported) -> None:
    assert exported.manifest.schema_version == 2
    assert SELF_CONTAINED in exported.manifest.files
    assert Bundle.open(exported.folder).manifest == exported.manifest
    model = onnx.load(exported.folder / SELF_CONTAINED)
    assert model.ir_version <= 10
    assert {(entry.domain, entry.version <= 20) for entry in model.opset_import} == {("", True)}
    assert [value.name for value in model.graph.input] == [spec.name for spec in exported.manifest.inputs]
    assert not any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer)
    # TensorRT has no double.
    assert not any(tensor.data_type == onnx.TensorProto.DOUBLE for tensor in model.graph.initializer)


def test_another_bank_in_it_fails_the_proof(exported: Exported, tmp_path: Path) -> None:
    shutil.copytree(exported.folder, tmp_path / "x")
    path = tmp_path / "x" / SELF_CONTAINED
    model = onnx.load(path)
    inside = {tensor.name: tensor for tensor in model.graph.initializer}
    bank = next((name for name in inside if "/mask_0" in name or "/weight_0" in name), None)
    name = bank or max(inside, key=lambda name: onnx.numpy_helper.to_array(inside[name]).size)
    values = onnx.numpy_helper.to_array(inside[name])
    inside[name].CopyFrom(onnx.numpy_helper.from_array(1.01 * values, name))
    onnx.save(model, path)
    bundle = Bundle.open(exported.folder)
    frames = [{spec.name: bundle.golden()[f"input.{spec.name}"][0] for spec in bundle.manifest.inputs}]
    for folder, sound in ((exported.folder, True), (tmp_path / "x", False)):
        checks = equals_runtime(bundle.manifest, bundle.bank(), folder, frames, 1.0)
        assert all(check.passed for check in checks) == sound


def test_without_the_file_there_is_no_bundle(exported: Exported, tmp_path: Path) -> None:
    shutil.copytree(exported.folder, tmp_path / "x")
    (tmp_path / "x" / SELF_CONTAINED).unlink()
    with pytest.raises(BundleError, match=r"self_contained\.onnx is missing"):
        Bundle.open(tmp_path / "x")


def test_it_may_not_take_weights_from_elsewhere(exported: Exported, tmp_path: Path) -> None:
    staged = tmp_path / "staged"
    shutil.copytree(exported.folder, staged)
    model = onnx.load(staged / SELF_CONTAINED)
    onnx.save(model, staged / SELF_CONTAINED, save_as_external_data=True, location="weights.bin", size_threshold=0)
    shutil.copy(exported.folder / "weights.bin", staged)
    for name in ("manifest.json", "manifest.sha256"):
        (staged / name).unlink()
    with pytest.raises(BundleError, match=r"takes weights from 'weights\.bin', expected all of them inside"):
        write_bundle(tmp_path / "y.ebdl", exported.manifest, staged)


def manifest_of(task: str, shape: tuple[int, ...], selection: str, members: int) -> Manifest:
    mask = StochasticInput(name="mask_0", source="drop", kind="Dropout", shape=(2,), rate=0.5, scale=2.0)
    return Manifest(
        name="x", form="mask_bank", task=task, class_axis=1 if task == "classification" else None,
        inputs=(TensorSpec(name="x", shape=(1, 2), dtype="float32"),),
        outputs=(TensorSpec(name="members", shape=shape, dtype="float32"),),
        boundary=(), engines=("onnxruntime",), flops=Flops(total=1, deterministic=1),
        bank=Bank(members=members, chunk=1, selection=selection, seed=0, inputs=(mask,)),
        provenance=Provenance(created_utc="", versions={}, model_class="", seed=0),
    )  # fmt: skip


@pytest.mark.parametrize("selection", ["iid", "balanced"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("task", "shape"),
    [("classification", (1, 4)), ("classification", (2, 3, 5)), ("regression", (3,)), ("heteroscedastic", (2, 4))],
)
def test_the_arithmetic_is_that_of_the_runtime(
    task: Any, shape: tuple[int, ...], selection: str, weighted: bool
) -> None:
    generator = np.random.Generator(np.random.Philox(3))
    members = 3.0 * generator.normal(size=(7, *shape)).astype(np.float32)
    weights = generator.dirichlet(np.ones(7)) if weighted else np.full(7, 1.0 / 7.0)
    manifest = manifest_of(task, shape, selection, 7)
    wanted = decompose(task, members, weights=weights, unbiased=selection == "iid", class_axis=manifest.class_axis)
    said = Together(manifest, weights)(torch.from_numpy(members))
    for name, value in said.items():
        np.testing.assert_allclose(value.numpy(), getattr(wanted, name), rtol=2e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("task", ["classification", "regression", "heteroscedastic"])
def test_where_a_member_is_no_number_the_total_is_none(task: Any) -> None:
    example = {"members": torch.rand(3, 1, 4)}
    graph = Graph(
        module=Together(manifest_of(task, (1, 4), "iid", 3), np.full(3, 1.0 / 3.0)), example=example, outputs=PARTS
    )
    session = onnxruntime.InferenceSession(to_onnx("x", graph).SerializeToString(), providers=["CPUExecutionProvider"])
    for bad in (np.nan, np.inf, -np.inf):
        for place in ((1, 0, 1), (2, 0, 0)):
            members = np.zeros((3, 1, 4), np.float32)
            members[place] = bad
            said = dict(zip(PARTS, session.run(None, {"members": members}), strict=True))
            assert not np.isfinite(said["total"]).all()
            assert not np.isfinite(said["epistemic"]).all()


# Of ONNX's operators those that this file adds: TensorRT's parser reads each of them.
PLAIN = {
    "Add", "Clip", "Div", "Exp", "Gather", "Greater", "Identity", "Less", "Log", "LogSoftmax", "MatMul", "Mul", "Neg",
    "ReduceSum", "Reshape", "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Transpose", "Where",
}  # fmt: skip


def test_what_it_adds_are_a_few_plain_operators(exported: Exported) -> None:
    alone, fused = (onnx.load(exported.folder / name).graph.node for name in (SELF_CONTAINED, "fused.onnx"))
    added = {node.op_type for node in alone if any(name.startswith("behind/") for name in (*node.input, *node.output))}
    assert added <= PLAIN
    assert {node.op_type for node in alone} <= PLAIN | {node.op_type for node in fused}


def test_it_is_onnx_or_nothing(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="a self-contained graph is ONNX"):
        export(network(2, 0.3), FRAMES[0], tmp_path / "x.ebdl", formats=("tflite",), self_contained=True)
    assert not (tmp_path / "x.ebdl").exists()


def test_probit_of_one_class_does_not_divide_by_zero() -> None:
    said = Probit(1)(torch.zeros(1, 1), torch.ones(1, 1, 1))
    assert said["mean"].tolist() == [[1.0]]
