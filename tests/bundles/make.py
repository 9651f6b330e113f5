"""Makes the tiny bundles beside this file, which the device-side tests run without torch.

    .venv/bin/python tests/bundles/make.py

They are real: exported and proved. Their networks are untrained; what is tested is the runtime, not a task.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edge_bdl_export import export
from edge_bdl_train.likelihoods.categorical import Categorical
from edge_bdl_train.methods import laplace

HERE = Path(__file__).parent


class Pilot(nn.Module):
    """uint8 camera frame to steering mean and log-variance, dropout in the head."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU(), nn.Flatten())
        self.head = nn.Sequential(
            nn.Dropout(0.2), nn.Linear(72, 24), nn.ReLU(), nn.Dropout(0.1), nn.Linear(24, 2)
        )  # fmt: skip

    def forward(self, frame: Tensor) -> Tensor:
        """[1, 16, 16, 3] uint8 to [1, 2]."""
        return self.head(self.features(frame.permute(0, 3, 1, 2).float() / 255.0))


class Classifier(nn.Module):
    """Float features to logits."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 16), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, x: Tensor) -> Tensor:
        """[1, 6] to [1, 4]."""
        return self.head(self.body(x))


class Dense(nn.Module):
    """Image to a class map, channel dropout called twice from one module, and two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Conv2d(1, 6, 3, padding=1)
        self.drop = nn.Dropout2d(0.25)
        self.middle = nn.Conv2d(6, 6, 3, padding=1)
        self.decode = nn.Conv2d(6, 3, 1)

    def forward(self, image: Tensor, gain: Tensor) -> Tensor:
        """[1, 1, 6, 7] and [1, 1] to [1, 3, 6, 7]."""
        hidden = torch.relu(self.encode(image * gain.reshape(1, 1, 1, 1)))
        hidden = hidden + torch.relu(self.middle(self.drop(hidden)))
        return self.decode(self.drop(hidden))


class Points(nn.Module):
    """Features to two targets, dropout on the input itself: there is no trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Dropout(0.1), nn.Linear(5, 12), nn.Tanh(), nn.Dropout(0.3), nn.Linear(12, 2))

    def forward(self, x: Tensor) -> Tensor:
        """[1, 5] to [1, 2]."""
        return self.layers(x)


class Labels(nn.Module):
    """uint8 image to logits, for a Gaussian over the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 7), nn.ReLU())
        self.last = nn.Linear(7, 4)

    def forward(self, image: Tensor) -> Tensor:
        """[1, 1, 8, 8] uint8 to [1, 4]."""
        return self.last(self.body(image.float() / 255.0))


class Sampled(Labels):
    """The same with dropout behind both hidden layers, for moments that go through it."""

    def __init__(self) -> None:
        super().__init__()
        self.body.insert(2, nn.Dropout(0.1))
        self.body.append(nn.Dropout(0.1))


class Steering(nn.Module):
    """Image to two targets, normalised by its own statistics; for an ensemble, preprocessing its trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
        self.decode = nn.Sequential(nn.Linear(72, 16), nn.ReLU(), nn.Linear(16, 2))
        with torch.no_grad():
            self.encode[1].running_mean.normal_(0.0, 0.3)
            self.encode[1].running_var.uniform_(0.5, 2.0)

    def forward(self, image: Tensor) -> Tensor:
        """[1, 1, 8, 8] uint8 to [1, 2]."""
        return self.decode(self.encode(image.float() / 255.0))


def make_ensemble() -> None:
    """Five whole networks, built into the graphs: a head of four and one of the last."""
    torch.manual_seed(0)
    frame = np.random.Generator(np.random.Philox(0)).integers(0, 256, (1, 1, 8, 8), dtype=np.uint8)
    export([Steering().eval() for _ in range(5)], frame, HERE / "tiny_ensemble.ebdl", samples=5)


def make_gaussian() -> None:
    """Last-layer Laplace of untrained logits, with the covariance that random labels leave."""
    torch.manual_seed(0)
    generator = np.random.Generator(np.random.Philox(0))
    frames = generator.integers(0, 256, (400, 1, 8, 8), dtype=np.uint8)
    labels = generator.integers(0, 4, 400)
    trainee = laplace.build(
        Labels(), Categorical(4), laplace.Config(prior_precision=1.0), n_data=400, generator=torch.Generator()
    )
    posterior = trainee.posterior([(torch.from_numpy(frames), torch.from_numpy(labels))])
    export(
        posterior, frames[:1], HERE / "tiny_gaussian.ebdl", task="classification", samples=8,
        calibration={"inputs": frames, "labels": labels},
    )  # fmt: skip


def make_moments() -> None:
    """Mean and variance of logits in one pass through dropout."""
    torch.manual_seed(0)
    generator = np.random.Generator(np.random.Philox(0))
    light = generator.uniform(0.2, 1.0, (400, 1, 1, 1))
    frames = (generator.integers(0, 256, (400, 1, 8, 8)) * light).astype(np.uint8)
    export(
        Sampled().eval(), frames[:1], HERE / "tiny_moments.ebdl", task="classification", samples=8, form="moments",
        calibration={"inputs": frames, "labels": generator.integers(0, 4, 400)},
    )  # fmt: skip


def make() -> None:
    """Write all bundles, replacing those that are there."""
    torch.manual_seed(0)
    generator = np.random.Generator(np.random.Philox(0))
    frames = generator.integers(0, 256, (400, 16, 16, 3), dtype=np.uint8)
    export(
        Pilot().eval(), torch.from_numpy(frames[:1]), HERE / "tiny_masks.ebdl", task="heteroscedastic", samples=16,
        selection="balanced",
        calibration={
            "inputs": frames,
            "labels": generator.normal(size=(400, 1)).astype(np.float32),
            "episodes": np.repeat(np.arange(10), 40),
        },
    )  # fmt: skip
    classifier = Classifier().eval()
    heads = []
    for _ in range(8):
        member = Classifier()
        heads.append({name: value.detach() for name, value in member.state_dict().items() if name.startswith("head.")})
    export(
        classifier, generator.normal(size=(1, 6)).astype(np.float32), HERE / "tiny_weights.ebdl", task="classification",
        members=heads,
        calibration={
            "inputs": generator.normal(size=(400, 6)).astype(np.float32), "labels": generator.integers(0, 4, 400),
        },
    )  # fmt: skip
    image, gain = generator.normal(size=(1, 1, 6, 7)).astype(np.float32), np.ones((1, 1), np.float32)
    export(
        Dense().eval(), (image, gain), HERE / "tiny_dense.ebdl", task="classification", samples=6, selection="iid"
    )  # fmt: skip
    export(
        Points().eval(), generator.normal(size=(1, 5)).astype(np.float32), HERE / "tiny_points.ebdl", task="regression",
        samples=8, selection="selected", calibration=generator.normal(size=(300, 5)).astype(np.float32),
    )  # fmt: skip
    make_gaussian()
    make_moments()
    make_ensemble()


if __name__ == "__main__":
    for old in HERE.glob("*.ebdl"):
        shutil.rmtree(old)
    make()
