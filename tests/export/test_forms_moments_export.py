"""form='moments' from a posterior to predictions: dropout and mean field, every task, both engines, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_bdl import Runtime
from edge_bdl.bundle import Bundle
from edge_bdl.commands.inspect import inspect
from edge_bdl.errors import BundleError, ExportError, ProofError, UnsupportedModelError
from edge_bdl.manifest import Propagation, decode, encode
from edge_bdl.verification import verify_engine, verify_generator
from edge_bdl_export import export
from edge_bdl_export.adapters import adapt
from edge_bdl_export.adapters.layers import Gaussian, LayerAdapter, Replacement
from edge_bdl_export.forms.moments import head as moment_head
from edge_bdl_export.proof import propagation
from edge_bdl_train.methods.mean_field import MeanFieldPosterior


class Residual(nn.Module):
    """uint8 [1, 3, 8, 8] -> [1, 4]: convolutions, batch norm, a residual, pooling, dropout from the first layer on."""

    def __init__(self, rate: float = 0.1) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(rate))
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Dropout(rate))
        self.last = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 16), nn.LeakyReLU(0.1), nn.Dropout(rate))
        self.out = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x.float() / 128.0 - 1.0)
        return self.out(self.last(hidden + self.block(hidden)))


def built(kind: Any, *arguments: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(*arguments).eval()


def frames(count: int = 250) -> NDArray[np.uint8]:
    """Of brightness from dark to bright, so that scores differ."""
    generator = np.random.Generator(np.random.Philox(0))
    light = generator.uniform(0.2, 1.0, (count, 1, 1, 1))
    return (generator.integers(0, 256, (count, 3, 8, 8)) * light).astype(np.uint8)


def mean_field(network: nn.Module, sigma: float = 0.05) -> MeanFieldPosterior:
    sigmas = {name: torch.full_like(value, sigma) for name, value in network.named_parameters() if value.ndim > 1}
    return MeanFieldPosterior(network, {"weights": list(sigmas)}, sigmas)


@pytest.fixture(scope="module")
def dropout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("moments") / "dropout.ebdl"
    export(
        built(Residual), frames()[:1], folder, task="classification", calibration=frames(), form="moments", samples=8
    )
    return folder


@pytest.fixture(scope="module")
def gaussian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("moments") / "gaussian.ebdl"
    network = built(lambda: nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 2)))
    x = np.random.Generator(np.random.Philox(1)).normal(size=(250, 6)).astype(np.float32)
    export(mean_field(network), x[:1], folder, task="heteroscedastic", calibration=x, form="moments", formats=("onnx",))
    return folder


def test_moments_of_dropout_come_close_to_its_members_and_the_bundle_says_how_close(dropout: Path) -> None:
    manifest = Bundle.open(dropout).manifest
    assert (manifest.form, manifest.schema_version, manifest.gaussian) == ("moments", 2, msgspec.UNSET)
    found = manifest.propagation
    assert isinstance(found, Propagation)
    assert (found.reference_members, found.frames) == (1024, 50)
    assert found.mean_error < 0.2
    assert 0.8 < found.deviation_ratio < 1.2
    assert found.epistemic_spearman > 0.9
    checks = {check.check for check in manifest.parity}
    assert {"moments_mean_error", "moments_deviation_off", "moments_epistemic_spearman"} <= checks
    assert {"mean_equals_posterior", "variance_equals_posterior", "integral_equals_posterior"} <= checks
    assert "variance_agrees_with[tflite]" in checks


def test_moments_are_those_of_a_thousand_passes_of_torch_s_own_dropout(dropout: Path) -> None:
    model, x = built(Residual), frames()[-3:]
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.train()
    outputs = Runtime.open(dropout).engine.graph("fused")
    for frame in x:
        found = outputs.run({"x": frame[None]})
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            drawn = model(torch.from_numpy(frame).expand(4000, -1, -1, -1)).double().numpy()
        deviation = drawn.std(0)
        assert (np.abs(found["output_mean"][0] - drawn.mean(0)) < 0.25 * deviation).all()
        assert (np.abs(np.sqrt(found["output_variance"][0]) / deviation - 1.0) < 0.25).all()


@pytest.mark.parametrize("engine", ["onnxruntime", "tflite"])
def test_the_goldens_hold_under_every_engine(dropout: Path, engine: str) -> None:
    bundle = Bundle.open(dropout)
    checks = verify_engine(Runtime.open(bundle, engine).engine, bundle.manifest, bundle.bank(), bundle.golden())
    checks += verify_generator(bundle.manifest, bundle.golden())
    assert {check.name for check in checks} >= {"mean", "variance", "split_variance", "fresh_normals"}
    assert all(check.passed for check in checks), checks


def test_classes_are_integrated_over_as_many_logits_as_asked_for(dropout: Path) -> None:
    runtime = Runtime.open(dropout)
    few, many, none = (runtime.predict(frames()[0], samples=samples) for samples in (8, 2000, 0))
    assert few.mean.shape == (4,)
    assert few.epistemic > 0.0
    assert np.abs(few.mean - many.mean).max() < 0.05
    assert np.abs(none.mean - many.mean).max() < 0.02
    assert np.isnan(none.epistemic)


def test_mean_field_is_one_pass_with_the_variance_of_its_weights(gaussian: Path) -> None:
    bundle = Bundle.open(gaussian)
    found = bundle.manifest.propagation
    assert isinstance(found, Propagation)
    assert found.mean_error < 0.2
    assert 0.8 < found.deviation_ratio < 1.2
    assert found.epistemic_spearman > 0.9
    prediction = Runtime.open(bundle).predict(bundle.golden()["input.input"][0])
    assert prediction.fault is None
    assert prediction.standard_error is not None
    assert not prediction.standard_error.any()
    mean, variance = (bundle.golden()[f"fused.output_{name}"][0, 0] for name in ("mean", "variance"))
    assert np.allclose(prediction.mean, mean[:1], atol=1e-5)
    assert np.allclose(prediction.epistemic, variance[:1], rtol=1e-4)
    assert np.allclose(prediction.aleatoric, np.exp(mean[1:] + variance[1:] / 2.0), rtol=1e-4)


def test_a_likelihood_s_noise_is_the_aleatoric_part(tmp_path: Path) -> None:
    network = built(lambda: nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 1)))
    posterior = mean_field(network)
    posterior.settings["likelihood"] = {"class": "Gaussian", "noise": 0.5}
    x = np.random.Generator(np.random.Philox(1)).normal(size=(250, 6)).astype(np.float32)
    export(posterior, x[:1], tmp_path / "n.ebdl", calibration=x, form="moments", formats=("onnx",))
    prediction = Runtime.open(tmp_path / "n.ebdl").predict(x[:1])
    np.testing.assert_allclose(prediction.aleatoric, [[0.25]])
    np.testing.assert_allclose(prediction.total, prediction.epistemic + 0.25)


class Segmenting(nn.Module):
    """uint8 [1, 3, 8, 8] -> a map of classes [1, 6, 6, 4], which come last."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.drop, self.last = nn.Conv2d(3, 8, 3), nn.Dropout(0.2), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(torch.relu(self.body(x.float() / 128.0 - 1.0)))).permute(0, 2, 3, 1)


def test_a_map_s_classes_may_be_its_last_axis(tmp_path: Path) -> None:
    folder, model = tmp_path / "s.ebdl", built(Segmenting)
    export(
        model, frames()[:1], folder, task="classification", class_axis=3, calibration=frames(), form="moments",
        samples=8, formats=("onnx",), accept_loss=True,  # frames of noise are hardly to be told apart
    )  # fmt: skip
    runtime, frame = Runtime.open(folder), frames(3)[2:]
    prediction, probit = runtime.predict(frame, samples=4000), runtime.predict(frame, samples=0)
    with torch.no_grad():
        model.drop.train()
        hidden = torch.relu(model.body(torch.from_numpy(frame).float() / 128.0 - 1.0)).expand(4000, -1, -1, -1)
        members = model.last(model.drop(hidden)).permute(0, 2, 3, 1).softmax(-1)
    assert prediction.epistemic.shape == probit.total.shape == (1, 6, 6)
    assert prediction.mean.shape == probit.mean.shape == (1, 6, 6, 4)
    np.testing.assert_allclose(prediction.mean.sum(-1), 1.0, atol=1e-6)
    np.testing.assert_allclose(probit.mean.sum(-1), 1.0, atol=1e-6)
    np.testing.assert_allclose(prediction.mean[0], members.mean(0).numpy(), atol=0.02)
    np.testing.assert_allclose(probit.mean[0], members.mean(0).numpy(), atol=0.02)
    spread = -(members * members.log()).sum(-1)
    expected = -(members.mean(0) * members.mean(0).log()).sum(-1) - spread.mean(0)
    np.testing.assert_allclose(prediction.epistemic[0], expected.numpy(), rtol=0.5, atol=2e-3)


def test_inspect_says_how_close_the_moments_are(gaussian: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect([str(gaussian)]) == 0
    text = capsys.readouterr().out
    assert "moments through the whole network" in text
    assert "of a deviation, deviation" in text


def test_another_library_s_gaussian_layers_bring_their_deviations() -> None:
    class Foreign(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.plain = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.plain(x)

    def replaced(layer: Any) -> Replacement:
        weight = layer.plain.weight.detach()
        return Replacement(layer.plain, {"weight": Gaussian(weight, torch.full_like(weight, 0.1))})

    class Known(LayerAdapter):
        rules: ClassVar = {f"{Foreign.__module__}.{Foreign.__qualname__}": replaced}

    adapter = Known(nn.Sequential(Foreign()))
    assert adapter.sigmas is not None
    assert {name: float(value[0, 0]) for name, value in adapter.sigmas.items()} == {"0.weight": pytest.approx(0.1)}
    assert adapt(nn.Linear(2, 2), None, ()) is None


@pytest.mark.parametrize(
    ("model", "arguments", "error", "message"),
    [
        (lambda: Residual(), {"calibration": None}, ExportError, "only calibration frames say how close"),
        (lambda: Residual(), {"form": "magic"}, ExportError, "form is 'moments', 'weight_bank', or left out"),
        (lambda: Residual(), {"selection": "selected", "task": "classification"}, ExportError,
         "chooses masks.*'balanced' or 'iid'"),
        (lambda: Residual(), {"stochastic_from": "out"}, ExportError, "leave out stochastic_from"),
        (lambda: Residual(0.0), {"members": [{"out.bias": torch.zeros(4)}, {"out.bias": torch.ones(4)}]}, ExportError,
         "these weights have members and no more"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.1), nn.LayerNorm(192), nn.Linear(192, 4)), {},
         UnsupportedModelError, r"no rule for aten\.layer_norm"),
    ],
)  # fmt: skip
def test_what_moments_are_not_for_is_refused_before_anything_is_written(
    model: Any, arguments: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    given = {"calibration": frames(), "form": "moments", "formats": ("onnx",), **arguments}
    example = frames()[:1] if isinstance(built(model), Residual) else frames()[:1].astype(np.float32)
    if given["calibration"] is not None and example.dtype == np.float32:
        given["calibration"] = frames().astype(np.float32)
    with pytest.raises(error, match=message):
        export(built(model), example, tmp_path / "x.ebdl", **given)
    assert not list(tmp_path.iterdir())


def test_moments_too_far_from_the_members_are_refused_unless_the_loss_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.random.Generator(np.random.Philox(1)).normal(size=(250, 6)).astype(np.float32)
    network = built(lambda: nn.Sequential(nn.Dropout(0.2), nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1)))
    # Rectifiers that pass too much: what is compared with the members, not with the rules themselves, must notice.
    monkeypatch.setitem(moment_head.RULES, torch.ops.aten.relu.default, lambda value: value)
    given = {"calibration": x, "form": "moments", "formats": ("onnx",)}
    with pytest.raises(ProofError, match=r"moments_mean_error .*accept it with accept_loss=True"):
        export(network, x[:1], tmp_path / "x.ebdl", **given)
    assert not list(tmp_path.iterdir())
    manifest = export(network, x[:1], tmp_path / "x.ebdl", accept_loss=True, **given)
    assert any("it was accepted at export" in warning for warning in manifest.warnings)
    assert any(not check.passed for check in manifest.parity)


def test_limits_are_told_with_what_was_measured() -> None:
    good = Propagation(frames=50, reference_members=1024, mean_error=0.1, deviation_ratio=0.9, epistemic_spearman=0.95)
    assert all(check.passed for check in propagation.checks(good))
    bad = Propagation(frames=50, reference_members=1024, mean_error=0.6, deviation_ratio=0.5, epistemic_spearman=0.7)
    assert not any(check.passed for check in propagation.checks(bad))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"propagation": None}, "moments, and nothing else, say how close"),
        ({"propagation": {"epistemic_spearman": 2.0}}, "rank correlation"),
        ({"propagation": {"deviation_ratio": -1.0}}, "not negative"),
        ({"propagation": {"noise_variance": -1.0}}, "noise"),
        ({"class_axis": 2}, "class_axis 2 is not an axis"),
        ({"schema_version": 1}, "is of schema 2"),
    ],
)
def test_a_manifest_of_moments_that_contradicts_itself_is_refused(
    dropout: Path, change: dict[str, Any], message: str
) -> None:
    fields = json.loads(encode(Bundle.open(dropout).manifest))
    fields.update(change)
    if change.get("propagation", ...) is None:
        del fields["propagation"]
    with pytest.raises(BundleError, match=message):
        decode(json.dumps(fields).encode())
