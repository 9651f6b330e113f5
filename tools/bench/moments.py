"""What mean and variance in one pass cost, and how close they come to members, as Markdown.

    .venv/bin/python tools/bench/moments.py [--rounds 1000]
    .venv/bin/python tools/bench/moments.py --data FOLDER

The first table times PilotNet with everything random: the deterministic and the fused graph in turn in one process, 1
thread, untrained, for time does not depend on weights. The second, of a folder that recipe rc_car reads, trains the
small CNN with unit dropout, channel dropout and mean field throughout, and prints what each bundle says of its moments.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edge_bdl import Bundle, Runtime
from edge_bdl.manifest import Propagation
from edge_bdl_export import export
from edge_bdl_train.bayesianize import bayesianize
from edge_bdl_train.fit import fit
from edge_bdl_train.frames import LabelledFrames
from edge_bdl_train.imitation import ImitationConfig, imitate
from edge_bdl_train.likelihoods.gaussian import HeteroscedasticGaussian
from edge_bdl_train.methods import mean_field
from edge_bdl_train.methods.mean_field import MeanFieldPosterior
from edge_bdl_train.models import SmallCnn
from edge_bdl_train.models.pilotnet import PILOTNET_SIZE, PilotNet
from edge_bdl_train.preprocess import Preprocess
from edge_bdl_train.priors.gaussian import Gaussian
from edge_bdl_train.recipes.rc_car import read_drive

_USE_EVERY = 3
_RATE, _SIGMA = 0.05, 0.02


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="What moments cost, and how close they come.")
    parser.add_argument("--rounds", type=int, default=1000, help="runs of each graph (default: 1000)")
    parser.add_argument("--data", type=Path, help="folder of frames: train, and compare with members")
    parser.add_argument("--bundles", type=Path, help="where bundles are kept; those that are there are measured again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.bundles or Path(temporary)
        if options.data:
            _closeness(options.data, folder)
        else:
            _cost(folder, options.rounds)


def _cost(folder: Path, rounds: int) -> None:
    print("| random | engine | n | T_det ms | R |\n|---|---|---|---|---|", flush=True)
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 256, (60, *PILOTNET_SIZE, 3), dtype=np.uint8)
    for name, build in (("dropout", _pilotnet_with_dropout), ("mean field", _pilotnet_with_mean_field)):
        out = folder / f"pilotnet_{name.replace(' ', '_')}.ebdl"
        if not out.is_dir():
            torch.manual_seed(0)
            given: dict[str, Any] = {"task": "heteroscedastic", "calibration": frames, "form": "moments"}
            export(build(), frames[:1], out, accept_loss=True, **given)
        bundle = Bundle.open(out)
        for engine in bundle.manifest.engines:
            det_ms, ratio = _time(bundle, engine, rounds)
            print(f"| {name} | {engine} | {rounds} | {det_ms:.3f} | {ratio:.2f} |", flush=True)


def _pilotnet_with_dropout() -> nn.Module:
    return PilotNet(dropout_everywhere=True, preprocess=Preprocess(PILOTNET_SIZE)).eval()


def _pilotnet_with_mean_field() -> MeanFieldPosterior:
    network = PilotNet(dropout=0.0, preprocess=Preprocess(PILOTNET_SIZE)).eval()
    sigmas = {name: torch.full_like(value, _SIGMA) for name, value in network.named_parameters()}
    return MeanFieldPosterior(network, {"weights": list(sigmas)}, sigmas)


def _time(bundle: Bundle, engine: str, rounds: int) -> tuple[float, float]:
    runtime, golden = Runtime.open(bundle, engine), bundle.golden()
    frame = {spec.name: golden[f"input.{spec.name}"][0] for spec in bundle.manifest.inputs}
    graphs = [runtime.engine.graph("det"), runtime.engine.graph("fused")]
    took = np.empty((rounds, 2))
    for number in range(-rounds // 10, rounds):
        for column in (0, 1) if number % 2 else (1, 0):
            start = time.perf_counter()
            graphs[column].run(frame)
            took[number, column] = time.perf_counter() - start
    det_s, fused_s = np.median(took, axis=0)
    return det_s * 1e3, fused_s / det_s


def _closeness(data: Path, folder: Path) -> None:
    print(
        "| random | members | frames | mean off, deviations | deviation ratio | Spearman |\n|---|---|---|---|---|---|"
    )
    frames = read_drive(data, use_every=_USE_EVERY)
    borders = [round(share * len(frames)) for share in (0.55, 0.62)]
    train, validation, rest = frames[: borders[0]], frames[borders[0] : borders[1]], frames[borders[1] :]
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    start = _small_cnn()
    imitate(start, train, validation, ImitationConfig(epochs=4, beta=1.0), generator=generator)
    ways: dict[str, Callable[[], Any]] = {
        "unit dropout": lambda: _with_unit_dropout(start, train, validation, generator),
        "channel dropout": lambda: _with_channel_dropout(start, train, validation, generator),
        "mean field": lambda: _with_mean_field(start, train, generator),
    }
    for name, build in ways.items():
        given: dict[str, Any] = {"task": "heteroscedastic", "calibration": rest.frames[::2], "form": "moments"}
        out = folder / f"small_{name.replace(' ', '_')}.ebdl"
        found = export(build(), rest.frames[:1], out, formats=("onnx",), accept_loss=True, **given).propagation
        assert isinstance(found, Propagation)
        print(
            f"| {name} | {found.reference_members} | {found.frames} | {found.mean_error:.3f} | "
            f"{found.deviation_ratio:.2f} | {found.epistemic_spearman:.3f} |",
            flush=True,
        )


def _small_cnn() -> SmallCnn:
    return SmallCnn(Preprocess((60, 96), crop_top=20), dropout=0.0)


def _with_unit_dropout(
    start: nn.Module, train: LabelledFrames, validation: LabelledFrames, generator: torch.Generator
) -> nn.Module:
    """Behind every activation."""
    network = _small_cnn()
    network.load_state_dict(start.state_dict())
    for part in (network.trunk, network.head):
        for index, module in enumerate(part):
            if isinstance(module, nn.ReLU):
                part[index] = nn.Sequential(module, nn.Dropout(_RATE))
    imitate(network, train, validation, ImitationConfig(epochs=2, beta=1.0), generator=generator)
    return network


def _with_channel_dropout(
    start: nn.Module, train: LabelledFrames, validation: LabelledFrames, generator: torch.Generator
) -> nn.Module:
    """Before every layer."""
    network = bayesianize(start, "dropout", rate=_RATE)
    imitate(network, train, validation, ImitationConfig(epochs=2, beta=1.0), generator=generator)
    return network


def _with_mean_field(start: nn.Module, train: LabelledFrames, generator: torch.Generator) -> Any:
    config = mean_field.Config(prior=Gaussian(0.3), sigma=_SIGMA)
    trainee = mean_field.build(start, HeteroscedasticGaussian(), config, n_data=len(train), generator=generator)
    data = (torch.from_numpy(train.frames), torch.from_numpy(train.labels)[:, None])
    return fit(trainee, data, epochs=2, batch_size=64, generator=generator)


if __name__ == "__main__":
    main()
