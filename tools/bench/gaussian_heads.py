"""What a Gaussian over the last layer costs, as Markdown: R(S) and overhead by network, covariance and engine.

    .venv/bin/python tools/bench/gaussian_heads.py [--seconds 5] [--network NAME ...]

Networks are untrained and covariances are of no data: time depends on neither. What is compared runs interleaved in one
process, 1 thread; there is no density in the graphs, for that is measured by latency.py.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edge_bdl.manifest import Task
from edge_bdl.profiling import profile
from edge_bdl_export import export
from edge_bdl_train.methods.gaussian_head import GaussianHeadPosterior, last_layer
from edge_bdl_train.methods.laplace import LaplacePosterior
from edge_bdl_train.models.pilotnet import PILOTNET_SIZE, PilotNet
from edge_bdl_train.preprocess import Preprocess

_SAMPLES = (16, 1000)


def lenet() -> nn.Module:
    """LeNet-5 with ReLU: 10 classes from 84 features."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


class _Block(nn.Module):
    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, 1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1), nn.BatchNorm2d(width),
        )  # fmt: skip
        self.skip = nn.Conv2d(channels, width, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.skip(x))


def resnet8() -> nn.Module:
    """MLPerf Tiny's ResNet-8: 10 classes from 64 features."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU(), _Block(16, 16, 1), _Block(16, 32, 2),
        _Block(32, 64, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def wide() -> nn.Module:
    """1000 classes from 1280 features, as MobileNetV2 and EfficientNet-Lite0 have, behind plain convolutions."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (32, 64, 128, 256, 512):
        layers += [nn.Conv2d(channels, width, 3, 2, 1), nn.ReLU()]
        channels = width
    return nn.Sequential(
        *layers, nn.Conv2d(512, 1280, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000)
    )


def pilotnet() -> nn.Module:
    """PilotNet: mean and log-variance from 10 features."""
    return PilotNet(preprocess=Preprocess(PILOTNET_SIZE))


# By name: how to build it, one input, its task, and its covariances.
_NETWORKS: dict[str, tuple[Any, Tensor, Task, tuple[str, ...]]] = {
    "pilotnet": (pilotnet, torch.zeros(1, *PILOTNET_SIZE, 3, dtype=torch.uint8), "heteroscedastic", ("full",)),
    "lenet": (lenet, torch.zeros(1, 1, 28, 28), "classification", ("full", "per_output", "diagonal")),
    "resnet8": (resnet8, torch.zeros(1, 3, 32, 32), "classification", ("full", "per_output", "diagonal")),
    "wide": (wide, torch.zeros(1, 3, 224, 224), "classification", ("diagonal",)),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="What a Gaussian over the last layer costs.")
    parser.add_argument("--seconds", type=float, default=5.0, help="measuring time per engine (default: 5)")
    parser.add_argument("--network", nargs="+", default=list(_NETWORKS), choices=list(_NETWORKS))
    options = parser.parse_args()
    print("| network | covariance | engine | S | n | p50 ms | T_det ms | R(S) | overhead us |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for name in options.network:
        build, example, task, layouts = _NETWORKS[name]
        for layout in layouts:
            torch.manual_seed(0)
            posterior = _posterior(build().eval(), layout)
            given = torch.rand(example.shape) if example.is_floating_point() else torch.randint_like(example, 256)
            with tempfile.TemporaryDirectory() as folder:
                bundle = Path(folder) / f"{name}.ebdl"
                export(posterior, given, bundle, task=task)
                report = profile(bundle, samples=_SAMPLES, seconds=options.seconds, cold_starts=0)
            for row in report.rows:
                print(
                    f"| {name} | {layout} | {row.engine} | {row.samples} | {row.n} | {row.p50_ms:.3f} "
                    f"| {row.det_p50_ms:.3f} | {row.ratio:.3f} | {row.overhead_us:.0f} |",
                    flush=True,
                )


def _posterior(network: nn.Module, layout: str) -> GaussianHeadPosterior:
    """Some covariance of this layout over the weights of the last layer."""
    name = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)][-1]
    layer = last_layer(network, name)
    outputs, width = layer.out_features, layer.in_features + 1
    if layout == "diagonal":
        return LaplacePosterior(network, {"layer": name}, 0.01 * torch.rand(outputs, width, dtype=torch.float64) + 0.01)
    size = outputs * width if layout == "full" else width
    factor = torch.randn(1 if layout == "full" else outputs, size, size, dtype=torch.float64) / size**0.5
    covariance = 0.01 * (factor @ factor.transpose(1, 2) + torch.eye(size, dtype=torch.float64))
    if layout == "full":
        covariance = covariance[0].reshape(outputs, width, outputs, width)
    return LaplacePosterior(network, {"layer": name}, covariance)


if __name__ == "__main__":
    main()
