"""A Gaussian over the last layer: its graph against the closed form in float64, its bundle against the posterior."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edge_bdl.bundle import Bundle
from edge_bdl.errors import ExportError, ProofError, UnsupportedModelError
from edge_bdl.gaussian_head import Moments, probit
from edge_bdl.manifest import Manifest
from edge_bdl.runtime import Runtime
from edge_bdl.uncertainty import classification
from edge_bdl_export import export
from edge_bdl_export.capture import capture
from edge_bdl_export.forms import gaussian_head
from edge_bdl_export.proof import closed_form
from edge_bdl_train.likelihoods.categorical import Categorical
from edge_bdl_train.likelihoods.gaussian import Gaussian, HeteroscedasticGaussian
from edge_bdl_train.methods import laplace, vbll
from edge_bdl_train.methods.gaussian_head import GaussianHeadPosterior
from edge_bdl_train.methods.mean_field import MeanFieldPosterior

LAYOUTS = ("full", "per_output", "diagonal")


class Network(nn.Module):
    """uint8 [N, 1, 8, 8] -> [N, outputs]; dropout that a posterior over the last layer leaves off."""

    def __init__(self, outputs: int = 4, biased: bool = True, pooled: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1) if pooled else nn.Identity(),
            nn.Flatten(), nn.Linear(4 if pooled else 36, 7), nn.Tanh(), nn.Dropout(0.3),
        )  # fmt: skip
        self.last = nn.Linear(7, outputs, bias=biased)

    def forward(self, image: Tensor) -> Tensor:
        return self.last(self.body(image.float() / 255.0))


def seeded(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().eval()


def covariance_of(layout: str, outputs: int, width: int, condition: float = 1e2, scale: float = 0.1) -> Tensor:
    """With eigenvalues from ``scale`` down to ``scale / condition``, in no direction of the axes."""
    generator = torch.Generator().manual_seed(1)
    size = outputs * width if layout == "full" else width
    values = scale * torch.logspace(0.0, -math.log10(condition), size, dtype=torch.float64)
    if layout == "diagonal":
        return values.repeat(outputs, 1)
    matrices = []
    for _ in range(1 if layout == "full" else outputs):
        q, _ = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator))
        matrices.append((q * values) @ q.T)
    return matrices[0].reshape(outputs, width, outputs, width) if layout == "full" else torch.stack(matrices)


def posterior_of(network: nn.Module, layout: str, noise: float | None = None, **shape: Any) -> GaussianHeadPosterior:
    layer = network.last
    covariance = covariance_of(layout, layer.out_features, layer.in_features + (layer.bias is not None), **shape)
    settings = {"layer": "last"} if noise is None else {"layer": "last", "noise": noise}
    return laplace.LaplacePosterior(copy.deepcopy(network), settings, covariance)


def images(count: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


# The head in torch


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_head_gives_the_posterior_s_moments(layout: str, biased: bool) -> None:
    network = seeded(lambda: Network(biased=biased))
    posterior, x = posterior_of(network, layout), images(6)
    mean, spread = gaussian_head.head(posterior, "regression")(network.body(x.float() / 255.0))
    expected_mean, expected = posterior.moments(x)
    if layout != "full":
        expected = expected.diagonal(dim1=1, dim2=2)
    assert spread.dtype == torch.float32
    torch.testing.assert_close(mean.double(), expected_mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(spread.double(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("layout", ["full", "per_output"])
def test_a_small_variance_keeps_its_digits_where_the_quadratic_form_loses_them(layout: str) -> None:
    """Features along the best known direction of a covariance of condition 1e8: phi^T S phi is 1e-8 |phi|^2 |S|."""
    network = seeded(lambda: Network(biased=False))
    posterior = posterior_of(network, layout, condition=1e8, scale=100.0)
    covariance = posterior.covariance[0, :, 0, :] if layout == "full" else posterior.covariance[0]
    phi = 30.0 * torch.linalg.eigh(covariance).eigenvectors[:, 0]
    expected = float(phi @ covariance @ phi)
    _, spread = gaussian_head.head(posterior, "regression")(phi.float()[None])
    ours = float(spread[0, 0, 0] if layout == "full" else spread[0, 0])
    rounded = phi.float().double()
    exact = float(rounded @ covariance @ rounded)
    plain = float(phi.float() @ covariance.float() @ phi.float())
    assert abs(ours - exact) < 2e-2 * expected
    if layout == "per_output":
        assert abs(plain - exact) > 10.0 * abs(ours - exact)


def test_a_shift_s_variance_does_not_swallow_that_of_the_logits_differences() -> None:
    """A million times the others': of the plain covariance in float32, the differences would keep no digit."""
    network = seeded(Network)
    posterior = posterior_of(network, "full")
    outputs, width = posterior.covariance.shape[:2]
    shift = 1e6 * torch.eye(width, dtype=torch.float64).expand(outputs, outputs, width, width).permute(0, 2, 1, 3)
    posterior.covariance = posterior.covariance + shift
    x = images(3)
    expected = posterior.moments(x)[1]
    _, centred = gaussian_head.head(posterior, "classification")(network.body(x.float() / 255.0))

    def differences(covariance: Tensor) -> Tensor:
        variance = covariance.double().diagonal(dim1=1, dim2=2)
        return variance[:, :, None] + variance[:, None, :] - 2.0 * covariance.double()

    torch.testing.assert_close(differences(centred), differences(expected), rtol=1e-3, atol=1e-6)
    assert (differences(expected.float()) - differences(expected)).abs().max() > 0.1 * differences(expected).max()


def test_a_covariance_that_is_too_large_for_a_graph_is_refused_with_what_to_do() -> None:
    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(1300, 11)

    covariance = torch.ones(11, 1301, 1, dtype=torch.float64).expand(11, 1301, 1301)
    posterior = laplace.LaplacePosterior(Large(), {"layer": "last"}, torch.ones(11, 1301, dtype=torch.float64))
    assert gaussian_head.head(posterior, "regression")
    posterior.covariance = covariance
    with pytest.raises(ExportError, match=r"11 outputs by 1301 features is 18,618,611 numbers.*covariance='diagonal'"):
        gaussian_head.head(posterior, "classification")


class Softmaxed(Network):
    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image).softmax(-1)


class Twice(Network):
    def __init__(self) -> None:
        super().__init__()
        self.body[5], self.last = nn.Linear(36, 4), nn.Linear(4, 4)

    def forward(self, image: Tensor) -> Tensor:
        return self.last(super().forward(image))


@pytest.mark.parametrize("build", [Softmaxed, Twice])
def test_a_layer_that_is_not_last_of_all_is_refused_by_name(build: Any) -> None:
    network = seeded(build)
    posterior = posterior_of(network, "diagonal")
    with pytest.raises(UnsupportedModelError, match=r"'last'.*end the network in that nn.Linear"):
        gaussian_head.rewrite(capture(posterior.network, (images(1),)), "last")


# Whole bundles


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GaussianHeadPosterior, Manifest]:
    """Last-layer Laplace, full covariance, both formats, calibrated with labels."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("classes") / "classes.ebdl"
    x, labels = images(300), torch.arange(300) % 4
    trainee = laplace.build(
        seeded(Network), Categorical(4), laplace.Config(prior_precision=0.3), n_data=300, generator=torch.Generator()
    )
    posterior = trainee.posterior([(x, labels)])
    manifest = export(
        posterior, x[:1], folder, task="classification", samples=8, seed=5,
        calibration={"inputs": x.numpy(), "labels": labels.numpy()},
    )  # fmt: skip
    return folder, posterior, manifest


def test_mean_and_covariance_are_the_closed_form_under_every_engine(classes: Any) -> None:
    _, _, manifest = classes
    assert (manifest.form, manifest.schema_version) == ("gaussian_head", 2)
    # On so small a network it is most of the work, and said to be.
    assert any(warning.startswith("the covariance costs ") for warning in manifest.warnings)
    assert (manifest.gaussian.layer, manifest.gaussian.covariance) == ("last", "full")
    found = {(check.engine, check.check): check for check in manifest.parity}
    for engine in ("onnxruntime", "tflite"):
        for name in (
            "mean_equals_posterior", "covariance_equals_posterior", "integral_equals_posterior",
            "split_covariance_equals_fused", "same_frame_same_bits", "deterministic_equals_torch",
        ):  # fmt: skip
            assert found.pop((engine, name)).passed
    assert found.pop(("torch", "members_have_these_moments")).passed
    assert found.pop(("onnxruntime", "covariance_agrees_with[tflite]")).limit == 1e-5
    assert found.pop(("reference", "covariance_equals_golden")).passed
    assert {name for _, name in found} <= {
        "random_operations", "density_equals_torch[trunk]", "density_equals_torch[fused]", "split_mean_equals_fused",
        "mean_agrees_with[tflite]", "mean_equals_golden",
    }  # fmt: skip


@pytest.mark.parametrize("engine", ["onnxruntime", "tflite"])
def test_the_runtime_s_integral_is_that_of_100_000_members_of_the_posterior(classes: Any, engine: str) -> None:
    """Members are last layers that torch draws, in the float64 features: no closed form of ours is in them."""
    folder, posterior, _ = classes
    frame, count = images(1, seed=9), 100_000
    phi = posterior.network.body(frame.float() / 255.0).double()[0]
    generator, theirs = torch.Generator().manual_seed(3), []
    for _ in range(count // 1000):
        drawn = posterior.sample(generator, 1000)
        weight = torch.stack([member["last.weight"] for member in drawn]).double()
        theirs.append(weight @ phi + torch.stack([member["last.bias"] for member in drawn]).double())
    logits = torch.cat(theirs)
    expected = classification(logits.numpy()[:, None], 1)
    prediction = Runtime.open(folder, engine).predict(frame.numpy(), samples=20_000)
    assert prediction.fault is None
    assert prediction.standard_error is not None
    error = np.hypot(prediction.standard_error, expected.standard_error)
    assert (np.abs(prediction.mean - expected.mean) < 5.0 * error).all()
    entropies = -(logits.softmax(1) * logits.log_softmax(1)).sum(1)
    entropy_error = float(entropies.std()) * math.sqrt(1 / count + 1 / 20_000)
    assert abs((prediction.aleatoric - expected.aleatoric).item()) < 5.0 * entropy_error
    # d total = -sum log(p) dp: no further off than its probabilities.
    slope = float((np.abs(np.log(expected.mean)) * error).sum())
    assert abs((prediction.total - expected.total).item()) < 5.0 * slope
    # Sixteen-fold fewer members come near already; the stored ones are balanced.
    few = Runtime.open(folder, engine).predict(frame.numpy())
    assert few.samples == 8
    assert np.abs(few.mean - expected.mean).max() < 3.0 * float(np.max(few.standard_error))


def test_without_samples_the_probabilities_are_the_probit_of_the_posterior_s_logits(classes: Any) -> None:
    folder, posterior, _ = classes
    frame = images(1, seed=9)
    expected = probit(Moments(*(values.numpy() for values in posterior.moments(frame))))
    prediction = Runtime.open(folder).predict(frame.numpy(), samples=0)
    np.testing.assert_allclose(prediction.mean, expected.mean, atol=1e-5)


def test_scores_are_calibrated_for_every_number_of_samples_and_drive_a_policy(classes: Any) -> None:
    folder, _, manifest = classes
    scores = {score.name: score for score in manifest.policy.scores}
    assert scores.keys() == {"epistemic", "total", "density"}
    assert all(set(score.thresholds) == {2, 4, 8} for score in scores.values())
    assert set(manifest.calibration.temperature) == {2, 4, 8}
    assert [entry.samples for entry in manifest.fidelity] == [2, 3, 4, 5, 6, 7, 8]
    assert all(entry.kl < 1e-2 and entry.epistemic_spearman > 0.9 for entry in manifest.fidelity)
    runtime = Runtime.open(folder)
    evidence = runtime.predict(images(1, seed=9).numpy()).evidence()
    assert evidence.fault is None
    assert set(evidence.scores) == set(scores)
    assert all(score.at(1) is None for score in scores.values())


def test_the_bundle_opens_and_verifies_itself(classes: Any) -> None:
    from edge_bdl.engines import open_engine
    from edge_bdl.verification import verify_engine, verify_generator

    bundle = Bundle.open(classes[0])
    for engine in ("onnxruntime", "tflite"):
        opened = open_engine(engine, bundle.folder, bundle.manifest)
        assert all(check.passed for check in verify_engine(opened, bundle.manifest, bundle.bank(), bundle.golden()))
    assert all(check.passed for check in verify_generator(bundle.manifest, bundle.golden()))


def test_a_learned_layer_s_regression_has_its_variance_and_its_noise_without_samples(tmp_path: Path) -> None:
    x = images(300)
    trainee = vbll.build(
        seeded(lambda: Network(2, pooled=True)), Gaussian(0.5), vbll.Config(initial_scale=0.3), n_data=300,
        generator=torch.Generator(),
    )  # fmt: skip
    posterior = trainee.posterior([(x, torch.zeros(300, 2))])
    labels = np.random.Generator(np.random.Philox(1)).normal(size=(300, 2)).astype(np.float32)
    manifest = export(
        posterior, x[:1], tmp_path / "r.ebdl", formats=("onnx",), calibration={"inputs": x.numpy(), "labels": labels}
    )
    assert (manifest.gaussian.covariance, manifest.gaussian.noise_variance) == ("per_output", 0.25)
    assert (manifest.bank.members, manifest.bank.selection) == (1, "closed_form")
    assert all(set(score.thresholds) == {1} for score in manifest.policy.scores)
    assert set(manifest.calibration.interval_scale) == {1}
    frame = images(1, seed=9)
    prediction = Runtime.open(tmp_path / "r.ebdl").predict(frame.numpy())
    mean, covariance = posterior.moments(frame)
    np.testing.assert_allclose(prediction.mean, mean.numpy(), atol=1e-5)
    np.testing.assert_allclose(prediction.epistemic, covariance.diagonal(dim1=1, dim2=2).numpy(), rtol=1e-4)
    np.testing.assert_allclose(prediction.aleatoric, np.full((1, 2), 0.25))
    assert prediction.evidence().fault is None
    low, high = prediction.interval()
    assert (low < prediction.mean).all()
    assert (prediction.mean < high).all()


def test_heteroscedastic_outputs_are_those_of_100_000_members(tmp_path: Path) -> None:
    x, y = images(60), torch.randn(60, 1, generator=torch.Generator().manual_seed(2))
    trainee = laplace.build(
        seeded(lambda: Network(2)), HeteroscedasticGaussian(), laplace.Config(covariance="diagonal"), n_data=60,
        generator=torch.Generator(),
    )  # fmt: skip
    posterior = trainee.posterior([(x, y)])
    manifest = export(posterior, x[:1], tmp_path / "h.ebdl", task="heteroscedastic", formats=("onnx",))
    assert (manifest.gaussian.covariance, manifest.gaussian.noise_variance) == ("diagonal", 0.0)
    frame, count = images(1, seed=9), 100_000
    drawn = posterior.sample_outputs(frame, count, torch.Generator().manual_seed(4))[:, 0].numpy()
    noise = np.exp(drawn[:, 1])
    prediction = Runtime.open(tmp_path / "h.ebdl").predict(frame.numpy())
    assert abs(prediction.mean.item() - drawn[:, 0].mean()) < 5.0 * drawn[:, 0].std() / math.sqrt(count)
    assert abs(prediction.epistemic.item() / drawn[:, 0].var() - 1.0) < 5.0 * math.sqrt(2.0 / count)
    assert abs(prediction.aleatoric.item() - noise.mean()) < 5.0 * noise.std() / math.sqrt(count)


# Mean field where the last layer alone is random


def mean_field_of(network: nn.Module, *names: str, noise: float = 0.3) -> MeanFieldPosterior:
    parameters = dict(network.named_parameters())
    sigmas = {name: torch.linspace(0.1, 0.3, parameters[name].numel()).view_as(parameters[name]) for name in names}
    settings = {"weights": list(sigmas), "likelihood": {"class": "Gaussian", "noise": noise}}
    return MeanFieldPosterior(network, settings, sigmas)


@pytest.mark.parametrize("names", [("last.weight", "last.bias"), ("last.weight",), ("last.bias",)])
def test_mean_field_over_the_last_layer_alone_has_the_variance_of_100_000_members(
    names: tuple[str, ...], tmp_path: Path
) -> None:
    posterior = mean_field_of(seeded(Network), *names)
    manifest = export(posterior, images(1), tmp_path / "m.ebdl", formats=("onnx",))
    assert (manifest.form, manifest.gaussian.covariance, manifest.gaussian.layer) == (
        "gaussian_head", "diagonal", "last",
    )  # fmt: skip
    assert manifest.gaussian.noise_variance == pytest.approx(0.09)
    assert not any("covariance costs" in warning for warning in manifest.warnings)
    frame, count = images(1, seed=9), 100_000
    phi = posterior.network.body(frame.float() / 255.0)
    generator = torch.Generator().manual_seed(4)
    drawn = torch.zeros(count, 4)
    for name, mean in {"last.weight": posterior.network.last.weight, "last.bias": posterior.network.last.bias}.items():
        sigma = posterior.sigmas.get(name, torch.zeros_like(mean))
        values = mean + sigma * torch.randn(count, *mean.shape, generator=generator)
        drawn += values @ phi[0] if name == "last.weight" else values
    prediction = Runtime.open(tmp_path / "m.ebdl").predict(frame.numpy())
    variance = drawn.var(0).numpy()
    assert (np.abs(prediction.mean[0] - drawn.mean(0).numpy()) < 5.0 * np.sqrt(variance / count)).all()
    assert (np.abs(prediction.epistemic[0] / variance - 1.0) < 5.0 * math.sqrt(2.0 / count)).all()


@pytest.mark.parametrize(
    "arguments",
    [
        {"form": "weight_bank"},
        {"selection": "selected", "calibration": images(250).numpy()},
        {"bank": "fp16"},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
@pytest.mark.parametrize("kind", ["mean field", "Laplace"])
def test_a_gaussian_last_layer_has_members_where_they_are_asked_for(
    kind: str, arguments: dict[str, Any], tmp_path: Path
) -> None:
    network = seeded(Network)
    posterior: Any = mean_field_of(network, "last.weight") if kind == "mean field" else posterior_of(network, "full")
    manifest = export(
        posterior, images(1), tmp_path / "b.ebdl", task="classification", samples=8, formats=("onnx",), **arguments
    )
    assert (manifest.form, manifest.bank.members) == ("weight_bank", 8)


class Two(nn.Module):
    """A last layer behind two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(5, 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.last(torch.tanh(torch.cat([a, b], 1)))


def test_a_network_may_have_two_inputs(tmp_path: Path) -> None:
    posterior = mean_field_of(seeded(Two), "last.weight", "last.bias")
    manifest = export(posterior, (torch.rand(1, 2), torch.rand(1, 3)), tmp_path / "t.ebdl", formats=("onnx",))
    assert manifest.form == "gaussian_head"


class Functional(Network):
    """The last layer's weights, without the layer."""

    def forward(self, image: Tensor) -> Tensor:
        return nn.functional.linear(self.body(image.float() / 255.0), self.last.weight, self.last.bias)


class Sequence(nn.Module):
    """Every step of a sequence through the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(8, 3)

    def forward(self, image: Tensor) -> Tensor:
        return self.last(image[:, 0].float() / 255.0)


class Squashed(Network):
    def forward(self, image: Tensor) -> Tensor:
        return torch.tanh(super().forward(image))


@pytest.mark.parametrize(
    ("build", "names"),
    [
        (Network, ("body.5.weight", "last.weight")),
        (Network, ("body.5.weight",)),
        (Network, ("body.0.weight",)),
        (Squashed, ("last.weight",)),
        (Sequence, ("last.weight",)),
        (Functional, ("last.weight",)),
    ],
    ids=["two layers", "another layer", "a convolution", "not last of all", "a map", "without its layer"],
)
def test_random_weights_that_are_not_the_last_layer_s_alone_have_members(
    build: Any, names: tuple[str, ...], tmp_path: Path
) -> None:
    posterior = mean_field_of(seeded(build), *names)
    assert export(posterior, images(1), tmp_path / "b.ebdl", samples=4, formats=("onnx",)).form == "weight_bank"


def test_masks_are_no_bank_of_weights(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="form='weight_bank' is for weights that are random, and here masks are"):
        export(seeded(Network), images(1), tmp_path / "b.ebdl", form="weight_bank", formats=("onnx",))


# Proofs that fail, and arguments that do not fit


def test_a_graph_with_another_covariance_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    posterior = posterior_of(seeded(Network), "per_output")
    head = gaussian_head.head

    def a_little_more(given: GaussianHeadPosterior, task: Any) -> nn.Module:
        more = copy.copy(given)
        more.covariance = 1.001 * given.covariance
        return head(more, task)

    monkeypatch.setattr(gaussian_head, "head", a_little_more)
    with pytest.raises(ProofError, match="variance_equals_posterior under onnxruntime"):
        export(posterior, images(1), tmp_path / "x.ebdl", task="regression", formats=("onnx",))
    assert not (tmp_path / "x.ebdl").exists()


def test_a_closed_form_that_its_own_members_contradict_is_seen() -> None:
    posterior = posterior_of(seeded(Network), "full")
    frames = [{"image": image[None].numpy()} for image in images(2)]

    class Subject:
        output_range = 1.0
        closed = gaussian_head.ClosedForm(
            described=gaussian_head.describe(posterior), head=gaussian_head.head(posterior, "regression"),
            reference=gaussian_head.reference(posterior, "regression"), posterior=posterior,
        )  # fmt: skip

    subject: Any = Subject()
    subject.frames = frames
    assert closed_form.members_have_these_moments(subject, 1000, seed=0).passed
    wrong = copy.copy(posterior)
    wrong.moments = lambda x: (posterior.moments(x)[0], 1.5 * posterior.moments(x)[1])  # type: ignore[method-assign]
    subject.closed = replace(Subject.closed, posterior=wrong)
    assert not closed_form.members_have_these_moments(subject, 1000, seed=0).passed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"members": [{}, {}]}, "draws its own members"),
        ({"class_axis": 0}, "class_axis=0 is not where the classes are"),
        ({"samples": 1}, "samples must be at least 2"),
    ],
)
def test_arguments_that_do_not_fit_a_gaussian_head_are_refused(tmp_path: Path, arguments: Any, message: str) -> None:
    posterior = posterior_of(seeded(Network), "diagonal")
    with pytest.raises(ExportError, match=message):
        export(posterior, images(1), tmp_path / "x.ebdl", task="classification", formats=("onnx",), **arguments)


def test_a_posterior_without_uncertainty_is_no_posterior(tmp_path: Path) -> None:
    posterior = posterior_of(seeded(Network), "diagonal")
    posterior.covariance = torch.zeros_like(posterior.covariance)
    posterior._root = posterior.covariance
    with pytest.raises(ProofError, match="covariance is zero on every frame"):
        export(posterior, images(1), tmp_path / "x.ebdl", task="regression", formats=("onnx",))
