"""What the export tests share: small networks, and bundles of them that are exported once per session."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edge_bdl.findings import Flops, Provenance
from edge_bdl.manifest import Bank, Manifest, TensorSpec
from edge_bdl_export import export
from edge_bdl_export.capture import capture
from edge_bdl_export.choose import Reading, choose
from edge_bdl_export.cut import cut
from edge_bdl_export.density import FeatureDensity
from edge_bdl_export.forms import mask_bank
from edge_bdl_export.graphs import Network
from edge_bdl_export.proof.subject import Subject
from edge_bdl_export.write_onnx import write_onnx
from edge_bdl_export.write_tflite import write_tflite


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class Camera(nn.Module):
    """uint8 [1, 12, 12, 3] -> steering mean and log-variance; three dropouts, the last two from one module."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU(), nn.Flatten())
        self.first = nn.Dropout(0.3)
        self.hidden = nn.Linear(32, 16)
        self.drop = nn.Dropout(0.2)
        self.middle = nn.Linear(16, 16)
        self.last = nn.Linear(16, 2)

    def forward(self, frame: Tensor) -> Tensor:
        hidden = self.features(frame.permute(0, 3, 1, 2).float() / 255.0)
        hidden = self.drop(torch.relu(self.hidden(self.first(hidden))))
        return self.last(self.drop(torch.relu(self.middle(hidden))))


class Dense(nn.Module):
    """Image and gain -> class map: channel dropout between convolutions, a residual across the cut, BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Conv2d(1, 6, 3, padding=1)
        self.drop = nn.Dropout2d(0.25)
        self.middle = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.decode = nn.Conv2d(6, 3, 1)
        with torch.no_grad():
            self.middle[1].running_mean.normal_()
            self.middle[1].running_var.uniform_(0.5, 2.0)

    def forward(self, image: Tensor, gain: Tensor) -> Tensor:
        hidden = torch.relu(self.encode(image * gain.reshape(1, 1, 1, 1)))
        return self.decode(self.drop(hidden + self.middle(self.drop(hidden))))


class Classifier(nn.Module):
    """Float features [1, 6] -> logits [1, 4]; for a bank of heads."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 16), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
        with torch.no_grad():
            self.head[1].running_mean.normal_(0.0, 0.3)
            self.head[1].running_var.uniform_(0.5, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


@dataclass(frozen=True)
class Exported:
    """A bundle, and what it was made of."""

    folder: Path
    model: nn.Module
    frames: tuple[np.ndarray, ...]
    members: Sequence[dict[str, Tensor]] = ()


def _seeded(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().eval()


@pytest.fixture(scope="session")
def camera_bundle(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """mask_bank, both formats, with calibration frames in labelled episodes."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("camera") / "camera.ebdl"
    model = _seeded(Camera)
    generator = np.random.Generator(np.random.Philox(1))
    frames = generator.integers(0, 256, (240, 12, 12, 3), dtype=np.uint8)
    labels = generator.normal(size=(240, 1)).astype(np.float32)
    export(
        model,
        frames[:1],
        folder,
        task="heteroscedastic",
        samples=8,
        calibration={"inputs": frames, "labels": labels, "episodes": np.repeat(np.arange(8), 30), "period_s": 0.05},
    )
    return Exported(folder, model, (frames[:1],))


@pytest.fixture(scope="session")
def dense_bundle(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """mask_bank with iid members, both formats, two inputs, a map as output."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("dense") / "dense.ebdl"
    model = _seeded(Dense)
    generator = np.random.Generator(np.random.Philox(2))
    image = generator.normal(size=(1, 1, 6, 7)).astype(np.float32)
    gain = np.full((1, 1), 1.5, np.float32)
    export(model, (image, gain), folder, task="classification", samples=6, selection="iid", name="a map")
    return Exported(folder, model, (image, gain))


@pytest.fixture(scope="session")
def ensemble_bundle(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """weight_bank, both formats: five heads with their BatchNorm statistics."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("ensemble") / "ensemble.ebdl"
    model = _seeded(Classifier)
    members = []
    for seed in range(5):
        state = _seeded(Classifier, 10 + seed).state_dict()
        members.append({name: value for name, value in state.items() if name.startswith("head.")})
    x = np.random.Generator(np.random.Philox(3)).normal(size=(1, 6)).astype(np.float32)
    export(model, x, folder, task="classification", members=members)
    return Exported(folder, model, (x,), members)


@dataclass(frozen=True)
class Staged:
    """Graphs that are written but not proved, and the subject that they are to be proved against."""

    subject: Subject
    folder: Path


class TwoMasks(nn.Module):
    """[1, 6] -> [1, 2]; two masks of one shape, so that they can be mistaken for each other."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(6, 8)
        self.first = nn.Dropout(0.3)
        self.middle = nn.Linear(8, 8)
        self.second = nn.Dropout(0.2)
        self.last = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(torch.tanh(self.middle(self.first(torch.tanh(self.body(x)))))))


def build_network(
    model: nn.Module, example: tuple[Tensor, ...], deterministic: Sequence[str] = ()
) -> tuple[Network, Any]:
    """The cut network and the dropout posterior of a model, in torch."""
    captured = capture(model, example, deterministic)
    posterior = mask_bank.posterior(model, captured, deterministic)
    names = [node.name for node in captured.inputs]
    return Network(cut(captured, posterior.stochastic), example, names, posterior.inputs), posterior


@pytest.fixture(scope="session")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Staged:
    """TwoMasks in both formats, with a density, sound."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("staged")
    model = _seeded(TwoMasks)
    generator = np.random.Generator(np.random.Philox(4))
    frames = [{"x": generator.normal(size=(1, 6)).astype(np.float32)} for _ in range(2)]
    example = (torch.from_numpy(frames[0]["x"]),)
    network, posterior = build_network(model, example)
    chosen = choose(
        posterior, network, None, Reading("regression", None), how="balanced", samples=6, chunk=4, seed=0, head_work=1
    )  # fmt: skip
    density = FeatureDensity(
        torch.from_numpy(generator.normal(size=(80, network.features[0].shape[-1])).astype(np.float32))
    )
    graphs = network.graphs({name: torch.from_numpy(value) for name, value in chosen.inputs.items()}, 4, density)
    write_onnx(graphs, folder)
    write_tflite(graphs, folder)
    manifest = Manifest(
        name="staged",
        form="mask_bank",
        task="regression",
        inputs=(TensorSpec(name="x", shape=(1, 6), dtype="float32"),),
        outputs=(
            TensorSpec(name="members", shape=(1, 2), dtype="float32"),
            TensorSpec(name="density", shape=(1,), dtype="float32"),
        ),
        boundary=(TensorSpec(name="boundary_0", shape=tuple(network.boundary[0].shape), dtype="float32"),),
        engines=("onnxruntime", "tflite"),
        bank=chosen.bank,
        flops=Flops(total=2, deterministic=1),
        provenance=Provenance(created_utc="", versions={}, model_class="TwoMasks", seed=0),
    )
    subject = Subject(
        manifest=manifest,
        members=chosen.inputs,
        frames=frames,
        model=model,
        reference=posterior.reference,
        sampler=posterior.sampler,
        network=network,
        density=density,
    )
    return Staged(subject, folder)


@pytest.fixture(scope="session")
def networks() -> Callable[..., tuple[Network, Any]]:
    """Builds a network and its dropout posterior in torch."""
    return build_network


@pytest.fixture(scope="session")
def rebank() -> Callable[..., Subject]:
    """A subject whose manifest tells another bank."""

    def change(subject: Subject, **fields: Any) -> Subject:
        bank: Bank = subject.manifest.bank
        values = {name: getattr(bank, name) for name in bank.__struct_fields__} | fields
        manifest = subject.manifest
        told = {name: getattr(manifest, name) for name in manifest.__struct_fields__} | {"bank": Bank(**values)}
        return replace(subject, manifest=Manifest(**told))

    return change


# --- models of other libraries ----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def foreign() -> Callable[[str], Any]:
    """Imports a module of somebody else's library, whose warnings are not ours; where it is missing, skips."""

    def load(name: str) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return importlib.import_module(name)
            except ModuleNotFoundError as error:
                return pytest.skip(f"{error}; tools/setup --foreign installs it")

    return load


@pytest.fixture(scope="session")
def varied() -> Callable[..., nn.Module]:
    """Builds a model whose Gaussian weights vary enough to matter, told by how their parameters' names end or begin."""

    def build_varied(build: Callable[[], nn.Module], mean: str, spread: str) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = build().eval()
            for name, parameter in model.named_parameters():
                if spread in name:
                    parameter.data.uniform_(-3.0, -1.0)
                elif mean in name:
                    parameter.data.normal_(0.0, 0.5)
        return model

    return build_varied


@pytest.fixture(scope="session")
def answers() -> Callable[[nn.Module, Tensor, int], Tensor]:
    """What a library itself samples, [n, ...]; of those that give a divergence too, the output alone."""

    @torch.no_grad()
    def sample(model: nn.Module, x: Tensor, n: int) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            outputs = [model(x) for _ in range(n)]
        return torch.stack([output[0] if isinstance(output, tuple) else output for output in outputs])

    return sample


@pytest.fixture(scope="session")
def member_outputs() -> Callable[..., Tensor]:
    """Outputs [n, ...] of a network with each member's state."""

    def run(network: nn.Module, members: Sequence[Any], *inputs: Tensor) -> Tensor:
        stacked = {name: torch.stack([member[name] for member in members]) for name in members[0]}
        with torch.no_grad():
            return torch.func.vmap(lambda member: torch.func.functional_call(network, member, inputs))(stacked)

    return run


@pytest.fixture(scope="session")
def same_moments() -> Callable[[Tensor, Tensor], None]:
    """Asserts that two sets of independent draws have the same mean and variance, within Monte-Carlo error.

    At 5 standard errors a sound pair fails once in a million numbers. The error of a variance comes from the draws' own
    fourth moment; a zero variance must be zero in both.
    """

    def check(ours: Tensor, theirs: Tensor) -> None:
        assert ours.shape[1:] == theirs.shape[1:]
        moments = []
        for draws in (ours.double(), theirs.double()):
            n, mean, variance = len(draws), draws.mean(0), draws.var(0)
            fourth = ((draws - mean) ** 4).mean(0)
            moments.append((mean, variance, variance / n, (fourth - variance**2).clamp_min(0.0) / n))
        (mean, variance, of_mean, of_variance), (mean_, variance_, of_mean_, of_variance_) = moments
        assert ((mean - mean_).abs() <= 5.0 * (of_mean + of_mean_).sqrt() + 1e-6).all()
        assert ((variance - variance_).abs() <= 5.0 * (of_variance + of_variance_).sqrt() + 1e-12).all()

    return check
