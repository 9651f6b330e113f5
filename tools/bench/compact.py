"""Bundles in fp32, fp16 and int8: size, latency, and what fewer bits cost a trained network. Markdown.

    apt-get install dataset-fashion-mnist
    .venv/bin/python tools/bench/compact.py --rc-car FOLDER [--rounds 600]

PilotNet 66 x 200 learns to steer a real car (two thirds of its drive; dropout in the head), and a CNN to tell clothes
apart. Eight more sets of PilotNet's weights, an eighth of an epoch apart, are a posterior over its head, and over all
of it. Calibration frames, labelled, are later ones than it learned from; the last fifth of them judges. What is
compared runs interleaved in one process, 1 thread; networks and bundles are kept in --runs, and made where they are
not there.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import fashion_mnist
from edge_bdl.bundle import Bundle
from edge_bdl.manifest import Manifest
from edge_bdl_export import export
from edge_bdl_train.models.pilotnet import PILOTNET_SIZE, PilotNet
from edge_bdl_train.preprocess import Preprocess
from edge_bdl_train.recipes.rc_car import read_drive
from interleaved import interleaved, passes

PRECISIONS = ("fp32", "fp16", "int8")
MEMBERS = 8
_USE_EVERY, _TRAINED_ON, _EPOCHS, _BATCH = 4, 0.67, 3, 32
_LEARNED, _CLOTHES = 12_000, 2000
_ENGINES = ("onnxruntime", "tflite")


@dataclass(frozen=True)
class Study:
    """A trained network and frames for it.

    Attributes:
        name: For the table.
        model: Trained, at eval.
        task: Of the manifest.
        frames: Labelled calibration frames.
        members: Posterior samples, where there are some.
    """

    name: str
    model: nn.Module
    task: Any
    frames: Mapping[str, NDArray[Any]]
    members: list[dict[str, Tensor]] = field(default_factory=list)


def pilotnet(folder: Path, runs: Path) -> Study:
    """PilotNet on the car's frames, resized beforehand, with its snapshots."""
    drive = read_drive(folder, use_every=_USE_EVERY)
    images = torch.from_numpy(drive.frames[:, 20:]).permute(0, 3, 1, 2).float()
    images = nn.functional.interpolate(images, PILOTNET_SIZE, mode="bilinear").round().byte().permute(0, 2, 3, 1)
    labels = torch.from_numpy(drive.labels)[:, None]
    learned = round(_TRAINED_ON * len(images))
    torch.manual_seed(0)
    model = PilotNet(preprocess=Preprocess(PILOTNET_SIZE))
    cache = runs / "pilotnet.safetensors"
    if not cache.exists():
        states = [_fit(model, images[:learned], labels[:learned], _EPOCHS)]
        eighth = learned // MEMBERS
        for i in range(MEMBERS):
            rows = slice(i * eighth, (i + 1) * eighth)
            states.append(_fit(model, images[rows], labels[rows], 1))
        save_file({f"{i}/{name}": value for i, state in enumerate(states) for name, value in state.items()}, cache)
    stored = load_file(cache)
    states = [
        {name.partition("/")[2]: value for name, value in stored.items() if name.startswith(f"{i}/")}
        for i in range(1 + MEMBERS)
    ]
    model.load_state_dict(states[0])
    frames = {"inputs": images[learned:].contiguous().numpy(), "labels": labels[learned:].numpy()}
    return Study("PilotNet", model.eval(), "heteroscedastic", frames, states[1:])


def _fit(model: nn.Module, x: Tensor, y: Tensor, epochs: int) -> dict[str, Tensor]:
    def loss_of(output: Tensor, target: Tensor) -> Tensor:
        mean, log_variance = output.chunk(2, dim=-1)
        return nn.functional.gaussian_nll_loss(mean, target, log_variance.exp())

    fashion_mnist.fit(model, x, y, loss_of, epochs=epochs, batch=_BATCH)
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def clothes(folder: Path, runs: Path) -> Study:
    """The CNN of the study of few samples, trained for a minute."""
    torch.manual_seed(0)
    model, cache = fashion_mnist.network(), runs / "clothes.safetensors"
    if not cache.exists():
        images = torch.from_numpy(
            fashion_mnist.frames(fashion_mnist.read(folder, "train", "images-idx3"))[:_LEARNED, 0]
        )
        labels = torch.from_numpy(fashion_mnist.read(folder, "train", "labels-idx1")[:_LEARNED].astype(np.int64))
        fashion_mnist.fit(model, images, labels, nn.functional.cross_entropy, epochs=2, batch=64)
        save_file(model.state_dict(), cache)
    model.load_state_dict(load_file(cache))
    images = fashion_mnist.frames(fashion_mnist.read(folder, "t10k", "images-idx3")[:_CLOTHES])
    labels = fashion_mnist.read(folder, "t10k", "labels-idx1")[:_CLOTHES].astype(np.int64)
    return Study("Fashion-MNIST CNN", model.eval(), "classification", {"inputs": images, "labels": labels})


def exported(study: Study, out: Path, **options: Any) -> Manifest:
    """A bundle, whatever it costs; the one that is there from before."""
    if out.exists():
        return Bundle.open(out).manifest
    frame = study.frames["inputs"][0]
    given = frame if study.task == "classification" else frame[None]
    return export(study.model, given, out, task=study.task, calibration=study.frames, accept_loss=True, **options)


def size(manifest: Manifest, engine: str) -> int:
    """Bytes of the graphs that an engine runs, their weights included."""
    suffix = (".onnx", "weights.bin") if engine == "onnxruntime" else (".tflite",)
    return sum(entry.bytes for name, entry in manifest.files.items() if name.endswith(suffix))


def cost(manifest: Manifest, engine: str) -> str:
    """What the proof measured of an engine on held-out frames."""
    found = [check for check in manifest.parity if check.engine == engine and check.check.startswith("precision_")]
    return ", ".join(f"{check.check.removeprefix('precision_')} {check.value:.2g}" for check in found) or "-"


def weights(study: Study, folder: Path, rounds: int) -> None:
    """Precisions of the network's own weights."""
    made = {name: exported(study, folder / f"{name}.ebdl", weights=name) for name in PRECISIONS}
    print(f"\n### {study.name}: weights, dropout bank of 16, n = {rounds}\n")
    print("| engine | weights | graphs, bytes | T_det ms | times faster | R(16) | lost on held-out frames |")
    print("|---|---|---|---|---|---|---|")
    for engine in _ENGINES:
        pairs = [passes(Bundle.open(folder / f"{name}.ebdl"), engine) for name in PRECISIONS]
        took = np.median(interleaved([call for pair in pairs for call in pair], rounds), axis=0) * 1e3
        det, fused = took[::2], took[1::2]
        for i, (name, manifest) in enumerate(made.items()):
            print(
                f"| {engine} | {name} | {size(manifest, engine):,} | {det[i]:.3f} | {det[0] / det[i]:.2f} "
                f"| {fused[i] / det[i]:.3f} | {cost(manifest, engine)} |",
                flush=True,
            )


def banks(study: Study, folder: Path, rounds: int, part: str, engines: tuple[str, ...]) -> None:
    """Precisions of a bank of weights: of the head, or of everything."""
    chosen = [{name: value for name, value in member.items() if name.startswith(part)} for member in study.members]
    formats = tuple({"onnxruntime": "onnx", "tflite": "tflite"}[engine] for engine in engines)
    made = {
        name: exported(study, folder / f"bank_{name}.ebdl", members=chosen, bank=name, formats=formats)
        for name in PRECISIONS
    }
    what = part.rstrip(".") or "everything"
    print(f"\n### {study.name}: bank of {MEMBERS} sets of weights, {what}, n = {rounds}\n")
    print("| engine | bank | bank, bytes | graphs, bytes | fused ms | over fp32 T_det | lost on held-out frames |")
    print("|---|---|---|---|---|---|---|")
    for engine in engines:
        pairs = [passes(Bundle.open(folder / f"bank_{name}.ebdl"), engine) for name in PRECISIONS]
        every = [pairs[0][0], *(fused for _, fused in pairs)]
        det, *fused = np.median(interleaved(every, rounds), axis=0) * 1e3
        for took, (name, manifest) in zip(fused, made.items(), strict=True):
            print(
                f"| {engine} | {name} | {manifest.files['bank.safetensors'].bytes:,} | {size(manifest, engine):,} "
                f"| {took:.3f} | {took / det:.2f} | {cost(manifest, engine)} |",
                flush=True,
            )


def main() -> None:
    """Train what is not trained yet, export, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rc-car", type=Path, required=True, help="folder with frames.tar and labels.csv")
    parser.add_argument("--fashion", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--runs", type=Path, default=Path("runs/compact"), help="keeps networks and bundles")
    parser.add_argument("--rounds", type=int, default=600)
    given = parser.parse_args()
    given.runs.mkdir(parents=True, exist_ok=True)
    print(time.strftime("%Y-%m-%d"))
    steering = pilotnet(given.rc_car, given.runs)
    for folder in ("pilotnet", "pilotnet_all", "clothes"):
        (given.runs / folder).mkdir(exist_ok=True)
    weights(steering, given.runs / "pilotnet", given.rounds)
    banks(steering, given.runs / "pilotnet", given.rounds, "head.", _ENGINES)
    banks(steering, given.runs / "pilotnet_all", given.rounds // 4, "", ("onnxruntime",))
    weights(clothes(given.fashion, given.runs), given.runs / "clothes", given.rounds)


if __name__ == "__main__":
    main()
