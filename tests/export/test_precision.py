"""Bundles in fp16 and int8: how small they are, that the device finds them sound, what they cost, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from edge_bdl import Runtime
from edge_bdl.bundle import Bundle
from edge_bdl.engines import open_engine
from edge_bdl.errors import ExportError, ProofError
from edge_bdl.manifest import Manifest, Precision
from edge_bdl.stored_tensors import floats
from edge_bdl.verification import verify_engine
from edge_bdl_export import export
from edge_bdl_export.choose import Chosen
from edge_bdl_export.precision import Numbering
from edge_bdl_export.proof.quantised import accepted

FRAMES = 100


class Net(nn.Module):
    """[1, 3, 16, 16] -> [1, 2]; a trunk whose second convolution and first linear layer are worth quantising."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(144, 64)
        )
        self.head = nn.Sequential(nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x))


def frames(count: int = FRAMES) -> np.ndarray:
    """Of very different contrasts, so that uncertainty differs between them."""
    generator = np.random.Generator(np.random.Philox(5))
    contrast = generator.uniform(0.2, 2.0, (count, 1, 1, 1))
    return (generator.normal(size=(count, 3, 16, 16)) * contrast).astype(np.float32)


def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def members(model: nn.Module, names: tuple[str, ...], spread: float = 0.2) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    state = model.state_dict()
    return [
        {name: state[name] * (1.0 + spread * torch.randn(state[name].shape, generator=generator)) for name in names}
        for _ in range(4)
    ]


def written(model: nn.Module, out: Path, **options: Any) -> Manifest:
    options = {"formats": ("onnx",), "calibration": frames(), "samples": 8, **options}
    return export(model, frames()[:1], out, **options)


def checks(manifest: Manifest, name: str) -> list[Any]:
    return [check for check in manifest.parity if check.check == name]


def onnx_bytes(manifest: Manifest) -> int:
    return sum(entry.bytes for name, entry in manifest.files.items() if name.endswith((".onnx", "weights.bin")))


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Manifest]]:
    """The same network in three precisions; int8 in both formats."""
    folder = tmp_path_factory.mktemp("precisions")
    made = {}
    for weights in ("fp32", "fp16", "int8"):
        formats = ("onnx", "tflite") if weights == "int8" else ("onnx",)
        out = folder / f"{weights}.ebdl"
        made[weights] = (out, written(net(), out, weights=weights, formats=formats))
    return made


def test_a_bundle_in_fp32_says_nothing_of_precision(bundles: dict[str, tuple[Path, Manifest]]) -> None:
    _, manifest = bundles["fp32"]
    assert manifest.schema_version == 1
    assert '"precision"' not in (bundles["fp32"][0] / "manifest.json").read_text()


def test_other_precisions_are_told_and_are_of_schema_2(bundles: dict[str, tuple[Path, Manifest]]) -> None:
    for weights in ("fp16", "int8"):
        manifest = Bundle.open(bundles[weights][0]).manifest
        assert manifest.schema_version == 2
        assert isinstance(manifest.precision, Precision)
        assert manifest.precision.weights == weights


def test_weights_take_half_and_a_quarter_of_the_room(bundles: dict[str, tuple[Path, Manifest]]) -> None:
    sizes = {weights: manifest.files["weights.bin"].bytes for weights, (_, manifest) in bundles.items()}
    # The density's own matrix, the image's convolution (int8) and what is small stay as they are.
    assert sizes["fp16"] < 0.65 * sizes["fp32"]
    assert sizes["int8"] < 0.55 * sizes["fp32"]


def test_integers_are_stored_once_for_all_graphs(bundles: dict[str, tuple[Path, Manifest]]) -> None:
    folder = bundles["int8"][0]
    places = {}
    for name in ("det", "trunk", "fused"):
        graph = onnx.load(str(folder / f"{name}.onnx"), load_external_data=False).graph
        stored = [
            tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1
        ]
        places[name] = [tuple(entry.value for entry in tensor.external_data) for tensor in stored]
        assert len(stored) == 2
    assert places["det"] == places["trunk"] == places["fused"]
    assert all(places["det"])


def test_the_device_finds_every_graph_sound(bundles: dict[str, tuple[Path, Manifest]]) -> None:
    for folder, _ in bundles.values():
        bundle = Bundle.open(folder)
        for name in bundle.manifest.engines:
            engine = open_engine(name, bundle.folder, bundle.manifest)
            found = verify_engine(engine, bundle.manifest, bundle.bank(), bundle.golden())
            assert found
            assert all(check.passed for check in found), found


def test_a_wrong_graph_is_still_found_within_what_rounding_may_do(
    bundles: dict[str, tuple[Path, Manifest]], tmp_path: Path
) -> None:
    bundle = Bundle.open(bundles["int8"][0])
    golden = {**bundle.golden()}
    golden["fused.members"] = golden["fused.members"] + 0.1 * np.ptp(golden["fused.members"])
    engine = open_engine("onnxruntime", bundle.folder, bundle.manifest)
    failed = {c.name for c in verify_engine(engine, bundle.manifest, bundle.bank(), golden) if not c.passed}
    assert failed == {"members", "split_members"}


def test_integers_move_the_prediction_a_little(bundles: dict[str, tuple[Path, Manifest]]) -> None:
    means = {
        weights: np.stack([Runtime.open(folder).predict(frame).mean for frame in frames(8)])
        for weights, (folder, _) in bundles.items()
    }
    spread = np.ptp(means["fp32"])
    assert 0.0 < np.abs(means["fp16"] - means["fp32"]).max() < 2e-3 * spread
    assert 0.0 < np.abs(means["int8"] - means["fp32"]).max() < 0.1 * spread


def test_engines_agree_in_integers(bundles: dict[str, tuple[Path, Manifest]]) -> None:
    _, manifest = bundles["int8"]
    (agreement,) = checks(manifest, "agrees_with[tflite]")
    assert agreement.passed
    assert agreement.limit == manifest.precision.tolerance < 0.05
    assert checks(manifest, "network_equals_model")[0].limit == 1e-5


def test_what_it_costs_is_measured_under_every_engine(bundles: dict[str, tuple[Path, Manifest]]) -> None:
    _, manifest = bundles["int8"]
    lost = checks(manifest, "precision_spearman_lost")
    assert [check.engine for check in lost] == ["onnxruntime", "tflite"]
    assert all(0.0 <= check.value <= check.limit == 0.02 for check in lost)
    assert all(check.passed for check in checks(manifest, "precision_mean_moved"))


# --- a bank of weights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bank", ["fp16", "int8"])
def test_a_bank_is_smaller_and_its_members_are_what_is_predicted_with(bank: Any, tmp_path: Path) -> None:
    model = net()
    posterior = members(model, ("head.2.weight", "head.2.bias", "head.4.weight", "head.4.bias"))
    manifest = written(model, tmp_path / "bank.ebdl", members=posterior, bank=bank)
    if bank == "int8":
        exact = 4 * 4 * (64 * 32 + 32 + 32 * 2 + 2)
        assert exact / manifest.files["bank.safetensors"].bytes > 3.2  # vectors, scales and a header
    else:
        graph = onnx.load(str(tmp_path / "bank.ebdl" / "fused.onnx"), load_external_data=False).graph
        halves = [tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16]
        assert sum(int(np.prod(tensor.dims)) for tensor in halves) >= 4 * (64 * 32 + 32 * 2)
    runtime = Runtime.open(tmp_path / "bank.ebdl")
    frame = frames(1)[0]
    with torch.no_grad():
        outputs = []
        for member in posterior:
            model.load_state_dict({**model.state_dict(), **member})
            outputs.append(model(torch.from_numpy(frame[None])).numpy())
    expected, ours = np.mean(outputs, axis=0), runtime.predict(frame).mean
    assert 0.0 < np.abs(expected - ours).max() < 0.02 * np.ptp(outputs)
    assert np.allclose(runtime.predict(frame, samples=4).mean, ours, atol=1e-6)
    # Members are exact numbers in any precision: what is proved of them is proved as closely as ever.
    assert manifest.precision.tolerance == 1e-5


def test_int8_has_one_scale_per_member_and_output() -> None:
    generator = np.random.Generator(np.random.Philox(0))
    values = (generator.normal(size=(3, 4, 5)) * 10.0 ** np.arange(-2, 2)[:, None]).astype(np.float32)
    vector = generator.normal(size=(3, 4)).astype(np.float32)
    values[1, 2] = 0.0
    given = {"weight_0": values, "weight_1": vector}
    chosen: Any = Chosen(bank=type("B", (), {"built_in": None})(), stored=given, inputs=given)
    stored = Numbering(bank="int8").store(chosen)
    assert {name: (array.dtype.name, array.shape) for name, array in stored.stored.items()} == {
        "weight_0": ("int8", (3, 4, 5)), "weight_0.scale": ("float32", (3, 4)), "weight_1": ("float32", (3, 4)),
    }  # fmt: skip
    step = np.abs(values).max(-1, keepdims=True) / 127.0
    assert (np.abs(stored.inputs["weight_0"] - values) <= 0.5001 * step).all()
    assert np.array_equal(stored.inputs["weight_1"], vector)
    assert np.array_equal(floats(stored.stored, "weight_0", slice(1, 2)), stored.inputs["weight_0"][1:2])


def test_members_built_into_the_graphs_are_computed_in_int8(tmp_path: Path) -> None:
    model = net()
    posterior = members(model, tuple(model.state_dict()), 0.1)
    manifest = written(model, tmp_path / "built_in.ebdl", members=posterior, bank="int8", accept_loss=True)
    assert manifest.bank.built_in
    graph = onnx.load(str(tmp_path / "built_in.ebdl" / "fused.onnx"), load_external_data=False).graph
    quantised = [
        tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1
    ]
    assert len(quantised) == 4 * 3  # per member: a convolution and two linear layers
    assert manifest.precision.tolerance > 1e-5
    bundle = Bundle.open(tmp_path / "built_in.ebdl")
    engine = open_engine("onnxruntime", bundle.folder, bundle.manifest)
    assert all(check.passed for check in verify_engine(engine, bundle.manifest, bundle.bank(), bundle.golden()))


# --- what is lost -----------------------------------------------------------------------------------------------------


class Coarse(Net):
    """One feature is a hundred times the others, and the head does not look at it: int8 loses most of the rest."""

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self.trunk[5].weight[0] *= 100.0
            self.head[2].weight[:, 0] = 0.0


def test_a_loss_beyond_the_limits_is_refused_or_accepted_and_told(tmp_path: Path) -> None:
    torch.manual_seed(0)
    manifest = written(Coarse().eval(), tmp_path / "coarse.ebdl", weights="int8", accept_loss=True)
    (told,) = (warning for warning in manifest.warnings if "cost too much" in warning)
    assert "accepted at export" in told
    losses = [check for check in manifest.parity if check.check.startswith("precision_")]
    assert not all(check.passed for check in losses)
    with pytest.raises(ProofError, match=r"precision_spearman_lost.*nothing was written.*--accept-loss"):
        accepted(manifest, losses, accept_loss=False)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "int4"}, "weights is one of fp32, fp16, int8; got 'int4'"),
        ({"bank": "half"}, "bank is one of fp32, fp16, int8"),
        ({"bank": "int8"}, "bank='int8' is for a bank of weights, and this is a mask_bank"),
        ({"weights": "int8", "calibration": None}, "needs calibration frames"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        written(net(), tmp_path / "refused.ebdl", **options)
    assert not list(tmp_path.iterdir())


def test_an_int8_bank_that_nothing_measures_is_refused(tmp_path: Path) -> None:
    model = net()
    with pytest.raises(ExportError, match=r"without calibration frames.*accept_loss=True"):
        written(model, tmp_path / "b.ebdl", members=members(model, ("head.4.weight",)), bank="int8", calibration=None)


def test_a_weight_too_large_for_fp16_is_named(tmp_path: Path) -> None:
    model = net()
    with torch.no_grad():
        model.trunk[5].weight[0, 0] = 1e5
    with pytest.raises(ExportError, match=r"trunk_5_weight holds 1e\+05.*fp16 ends at 65504"):
        written(model, tmp_path / "large.ebdl", weights="fp16")


def test_fp16_needs_no_frames(tmp_path: Path) -> None:
    manifest = written(net(), tmp_path / "half.ebdl", weights="fp16", calibration=None)
    (moved,) = checks(manifest, "precision_members_moved")
    assert 0.0 < moved.value <= moved.limit == 0.01


def test_a_convolution_s_features_keep_their_density_in_int8_under_tflite(tmp_path: Path):
    """They leave the trunk flattened for the head, and with their channels for the density."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.3), nn.Linear(144, 4),
    ).eval()  # fmt: skip
    frames = np.random.default_rng(0).random((250, 1, 1, 12, 12), dtype=np.float32)
    manifest = export(
        model, frames[0], tmp_path / "x.ebdl", task="classification", samples=4, formats=("tflite",), weights="int8",
        calibration={"inputs": frames, "labels": np.arange(250) % 4}, accept_loss=True,
    )  # fmt: skip
    checks = [check for check in manifest.parity if check.check.startswith("density_equals_torch")]
    assert len(checks) == 2
    assert all(check.passed for check in checks)
