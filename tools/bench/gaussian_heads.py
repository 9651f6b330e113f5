"""What a Gaussian over the last layer costs, as Markdown: R and overhead by network, covariance and engine.

    .venv/bin/python tools/bench/gaussian_heads.py [--rounds 3000] [--network NAME ...] [--bundles FOLDER]

Networks are untrained, but for EfficientNet-Lite0, and covariances are of no data: time depends on neither. The two
graphs whose ratio R is run in turn in one process, 1 thread, each after a pass of its own; logit samples come after the
pass, and are overhead. There is no density in the graphs: latency.py measures what that costs.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edge_bdl import Bundle, Runtime
from edge_bdl.manifest import GaussianHead, Task
from edge_bdl_export import export
from edge_bdl_train.methods.gaussian_head import GaussianHeadPosterior, last_layer
from edge_bdl_train.methods.laplace import LaplacePosterior
from edge_bdl_train.models.efficientnet import efficientnet_lite0
from edge_bdl_train.models.lenet import LeNet
from edge_bdl_train.models.pilotnet import PILOTNET_SIZE, PilotNet
from edge_bdl_train.models.resnet8 import ResNet8
from edge_bdl_train.preprocess import Preprocess
from interleaved import interleaved, passes

_SAMPLES = (16, 1000)


def pilotnet() -> nn.Module:
    """PilotNet: mean and log-variance from 10 features."""
    return PilotNet(preprocess=Preprocess(PILOTNET_SIZE))


# By name: how to build it, one input, its task, and its covariances.
_NETWORKS: dict[str, tuple[Any, Tensor, Task, tuple[str, ...]]] = {
    "pilotnet": (pilotnet, torch.zeros(1, *PILOTNET_SIZE, 3, dtype=torch.uint8), "heteroscedastic", ("full",)),
    "lenet": (LeNet, torch.zeros(1, 1, 28, 28), "classification", ("full", "per_output", "diagonal")),
    "resnet8": (ResNet8, torch.zeros(1, 3, 32, 32), "classification", ("full", "per_output", "diagonal")),
    "efficientnet_lite0": (efficientnet_lite0, torch.zeros(1, 3, 224, 224), "classification", ("diagonal",)),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="What a Gaussian over the last layer costs.")
    parser.add_argument("--rounds", type=int, default=3000, help="runs of each graph (default: 3000)")
    parser.add_argument("--network", nargs="+", default=list(_NETWORKS), choices=list(_NETWORKS))
    parser.add_argument("--bundles", type=Path, help="where bundles are kept; those that are there are measured again")
    options = parser.parse_args()
    overheads = " | ".join(f"overhead us, S = {samples}" for samples in _SAMPLES)
    print(f"| network | covariance | MACs, covariance's share | engine | n | T_det ms | R | {overheads} |")
    print("|---" * (7 + len(_SAMPLES)) + "|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in options.network:
            for layout in _NETWORKS[name][3]:
                bundle = _bundle(options.bundles or Path(folder), name, layout)
                for engine in bundle.manifest.engines:
                    print(f"| {name} | {layout} | {_row(bundle, engine, options.rounds)} |", flush=True)


def _bundle(folder: Path, name: str, layout: str) -> Bundle:
    out = folder / f"{name}_{layout}.ebdl"
    if not out.is_dir():
        build, example, task, _ = _NETWORKS[name]
        torch.manual_seed(0)
        posterior = _posterior(build().eval(), layout)
        given = torch.rand(example.shape) if example.is_floating_point() else torch.randint_like(example, 256)
        export(posterior, given, out, task=task)
    return Bundle.open(out)


def _row(bundle: Bundle, engine: str, rounds: int) -> str:
    runtime, golden = Runtime.open(bundle, engine), bundle.golden()
    frames = [{spec.name: golden[f"input.{spec.name}"][i] for spec in bundle.manifest.inputs} for i in range(3)]
    det_s, fused_s = np.median(interleaved(passes(bundle, engine), rounds), axis=0)
    overheads = " | ".join(f"{_overhead_us(runtime, frames, samples):.0f}" for samples in _SAMPLES)
    total = bundle.manifest.flops.total
    head = bundle.manifest.gaussian
    assert isinstance(head, GaussianHead)
    share = _work(head.covariance, *_last(bundle)) / total
    return f"{total:,}, {share:.1%} | {engine} | {rounds} | {det_s * 1e3:.4f} | {fused_s / det_s:.3f} | {overheads}"


def _last(bundle: Bundle) -> tuple[int, int, bool]:
    """Outputs, features with the bias's, and whether they are classes."""
    manifest = bundle.manifest
    return manifest.output.shape[1], manifest.boundary[0].shape[1] + 1, manifest.task == "classification"


def _work(covariance: str, outputs: int, width: int, classes: bool) -> int:
    """Multiply-accumulates of the covariance alone."""
    if covariance == "diagonal":
        return outputs * width
    if covariance == "per_output":
        return outputs * width**2
    rows = outputs - classes
    return rows * (rows + 1) // 2 * width**2 + (rows + outputs) * outputs * rows * width


def _overhead_us(runtime: Runtime, frames: Sequence[dict[str, Any]], samples: int) -> float:
    """All of a prediction but its engine's part, median over 500."""
    predictions = [runtime.predict(frames[number % 3], samples=samples) for number in range(550)][50:]
    return float(np.median([prediction.latency_ms - prediction.engine_ms for prediction in predictions])) * 1e3


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
