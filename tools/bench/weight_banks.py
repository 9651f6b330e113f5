"""What a bank of weights costs, as Markdown: R(S) of PilotNet with everything or only its last layer random.

    .venv/bin/python tools/bench/weight_banks.py [--rounds 300] [--bundles FOLDER]

Members are untrained: time does not depend on what they have learned. The bundle's own graphs are measured, exported
and proved, in turn in one process, 1 thread: one deterministic pass, the fused graph, trunk and heads. Beside them,
under onnxruntime, what else the bank could have been written as: one grouped operator for all members, its weights
inputs or constants. Every graph's members are compared with the goldens before anything is measured.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_bdl import Bundle
from edge_bdl.engines import Engine, open_engine
from edge_bdl.verification import TOLERANCE
from edge_bdl_export import export
from edge_bdl_export.capture import capture
from edge_bdl_export.cut import cut
from edge_bdl_export.forms import weight_bank
from edge_bdl_export.graphs import Graph, Network
from edge_bdl_export.member_axis import Holding, MemberAxis
from edge_bdl_export.write_onnx import write_onnx
from edge_bdl_train.models.pilotnet import PILOTNET_SIZE, PilotNet
from interleaved import interleaved

# By name: the parameters that differ, and how many members.
BANKS = {"everything": ("", 8), "last layer": ("head.9.", 16)}

Call = Callable[[], NDArray[Any]]


def network(seed: int) -> nn.Module:
    """PilotNet, untrained."""
    torch.manual_seed(seed)
    return PilotNet().eval()


def members_of(name: str) -> list[dict[str, Tensor]]:
    """State dicts of what differs."""
    prefix, count = BANKS[name]
    states = [network(seed).state_dict() for seed in range(1, count + 1)]
    return [{key: value for key, value in state.items() if key.startswith(prefix)} for state in states]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="What a bank of weights costs.")
    parser.add_argument("--rounds", type=int, default=300, help="runs of each graph (default: 300)")
    parser.add_argument("--bundles", type=Path, help="where bundles are kept; those that are there are measured again")
    options = parser.parse_args()
    print("| random | S | engine | n | T_det ms | R, fused | R, trunk and heads | R, grouped constants | R, inputs |")
    print("|---" * 9 + "|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in BANKS:
            bundle = _bundle(options.bundles or Path(folder), name)
            for engine in bundle.manifest.engines:
                print(f"| {name} | {BANKS[name][1]} | {_row(bundle, engine, name, options.rounds)} |", flush=True)


def _bundle(folder: Path, name: str) -> Bundle:
    out = folder / f"{name.replace(' ', '_')}.ebdl"
    if not out.is_dir():
        frame = torch.rand(1, 3, *PILOTNET_SIZE)
        export(network(0), frame, out, task="heteroscedastic", members=members_of(name), samples=BANKS[name][1])
    return Bundle.open(out)


def _row(bundle: Bundle, engine: str, name: str, rounds: int) -> str:
    calls = _calls(bundle, open_engine(engine, bundle.folder, bundle.manifest))
    with tempfile.TemporaryDirectory() as folder:
        if engine == "onnxruntime":
            calls |= _others(bundle, name, Path(folder))
        expected = bundle.golden()["fused.members"][0]
        for what, call in calls.items():
            if what != "det" and not np.abs(call() - expected).max() <= TOLERANCE * np.ptp(expected):
                raise SystemExit(f"{name} under {engine}: {what} does not give the members that were proved")
        took = np.median(interleaved(list(calls.values()), rounds), axis=0)
    ratios = dict(zip(calls, took / took[0], strict=True))
    shown = (f"{ratios[what]:.2f}" if what in ratios else "" for what in ("fused", "split", "constants", "inputs"))
    return f"{engine} | {rounds} | {took[0] * 1e3:.3f} | {' | '.join(shown)}"


def _calls(bundle: Bundle, engine: Engine) -> dict[str, Call]:
    """The bundle's graphs on the first golden frame."""
    manifest, golden = bundle.manifest, bundle.golden()
    frame = {spec.name: golden[f"input.{spec.name}"][0] for spec in manifest.inputs}
    det, trunk, fused = (engine.graph(name) for name in ("det", "trunk", "fused"))
    heads = [engine.graph(name) for name in manifest.bank.heads]

    def split() -> NDArray[Any]:
        outputs = trunk.run(frame)
        boundary = {spec.name: outputs[spec.name] for spec in manifest.boundary}
        return np.concatenate([head.run(boundary)["members"] for head in heads])

    return {"det": lambda: det.run(frame)["output"], "fused": lambda: fused.run(frame)["members"], "split": split}


def _others(bundle: Bundle, name: str, folder: Path) -> dict[str, Call]:
    """The same members by one operator for all, their weights constants or inputs."""
    frame = torch.from_numpy(bundle.golden()[f"input.{bundle.manifest.inputs[0].name}"][0])
    captured = capture(network(0), (frame,))
    posterior = weight_bank.posterior(network(0), captured, members_of(name))
    assert posterior.weights is not None
    parts = cut(captured, posterior.stochastic)
    together = Network(parts, (frame,), ["frame"], posterior.inputs, apart=True)
    together.head = MemberAxis(parts.head, len(together.boundary))
    weights = {key: torch.from_numpy(values) for key, values in posterior.weights.items()}
    graphs = {
        "inputs": together.graphs(weights, 1, None)["fused"],
        "constants": Graph(_Whole(together, list(weights.values())), {"frame": frame}, ("members",)),
    }
    write_onnx(graphs, folder)
    engine: Any = open_engine("onnxruntime", folder, bundle.manifest)
    calls: dict[str, Call] = {}
    for what in graphs:
        graph = engine.graph(what)
        held = graph.hold({key: values.numpy() for key, values in weights.items()} if what == "inputs" else {})
        calls[what] = lambda graph=graph, held=held: graph.run({"frame": frame.numpy()}, held)["members"]
    return calls


class _Whole(nn.Module):
    """Trunk and head with all members inside."""

    def __init__(self, network: Network, members: list[Tensor]) -> None:
        super().__init__()
        self.trunk, self.head = network.parts.trunk, Holding(network.axis, members)
        self.crossing = len(network.boundary)

    def forward(self, frame: Tensor) -> dict[str, Tensor]:
        return {"members": self.head(*self.trunk(frame)[: self.crossing])}


if __name__ == "__main__":
    main()
