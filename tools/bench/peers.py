"""What one prediction costs here, and by what one would otherwise do, at equal members: Markdown.

    .venv/bin/python tools/bench/peers.py [--rounds 200] [--samples 16]

PilotNet 66 x 200 with a random head, one frame, 1 thread, onnxruntime. All ways take turns in one process; medians.
Every way's mean output is first held against the eager loop's: one that has lost its noise, or is another network, is
no peer. The variational layers are those of bayesian-torch and BLiTZ, run in the loop that their documentation gives
and exported by their adapters (`tools/setup --foreign` installs them).
"""

from __future__ import annotations

import argparse
import io
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_bdl import Runtime
from edge_bdl_export import export
from edge_bdl_train.models.pilotnet import PILOTNET_SIZE, PilotNet
from interleaved import interleaved

# One prediction: outputs of S members, [S, 2].
Predict = Callable[[], NDArray[Any]]
_REPEATED = 50
# Predictions in a row, as a robot makes them; then it is the next way's turn.
_IN_A_ROW = 9


@dataclass
class Setting:
    """One network, and the ways to predict with it.

    Attributes:
        title: What is random in it.
        model: The network, drawing whenever it is called.
        ways: The others' ways, by name; the first is what the rest is checked against.
    """

    title: str
    model: nn.Module
    ways: dict[str, Predict] = field(default_factory=dict)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="One prediction, here and elsewhere.")
    parser.add_argument("--rounds", type=int, default=200, help="predictions of each (default: 200)")
    parser.add_argument("--samples", type=int, default=16, help="members of each prediction (default: 16)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    frame = torch.rand(1, 3, *PILOTNET_SIZE)
    print("| random | how | n | p50 ms | ours is faster |\n|---|---|---|---|---|", flush=True)
    for make in (dropout, bayesian_torch, blitz):
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the others'
            setting = make(frame, options.samples)
            with tempfile.TemporaryDirectory() as folder:
                ours = runtime(setting.model, frame, options.samples, Path(folder) / "ours.ebdl")
                check(setting, ours)
                took = np.median(
                    interleaved([ours, *setting.ways.values()], options.rounds, in_a_row=_IN_A_ROW), axis=0
                )
        for name, seconds in zip(("edge-bdl", *setting.ways), took, strict=True):
            faster = f"{seconds / took[0]:.1f} x"
            print(f"| {setting.title} | {name} | {options.rounds} | {seconds * 1e3:.3f} | {faster} |", flush=True)


def runtime(model: nn.Module, frame: Tensor, samples: int, out: Path) -> Predict:
    """A bundle of the network, in the runtime: mean [1, 1] of the first output, with all that comes with it."""
    export(model, frame, out, task="heteroscedastic", samples=samples, formats=("onnx",))
    opened, array = Runtime.open(out, "onnxruntime", threads=1), frame.numpy()
    return lambda: opened.predict(array).mean


def check(setting: Setting, ours: Predict) -> None:
    """Raise if a way is not random, or its mean is not the first way's."""
    drawn = {name: np.concatenate([way() for _ in range(_REPEATED)])[:, 0] for name, way in setting.ways.items()}
    expected = next(iter(drawn.values()))
    for name, outputs in drawn.items():
        error = np.hypot(expected.std(), outputs.std()) / len(outputs) ** 0.5
        if outputs.std() == 0.0 or abs(outputs.mean() - expected.mean()) > 5.0 * error:
            raise SystemExit(f"{name} is not the network that it is compared with")
    members = len(expected) // _REPEATED
    if abs(float(ours().item()) - expected.mean()) > 5.0 * expected.std() / members**0.5:
        raise SystemExit("the bundle is not the network that it is compared with")


def loop(model: Callable[[Tensor], Tensor], frame: Tensor, samples: int) -> Predict:
    """One pass for each member."""
    return lambda: torch.cat([model(frame) for _ in range(samples)]).numpy()


def dropout(frame: Tensor, samples: int) -> Setting:
    """Dropout behind the three hidden layers."""
    model = PilotNet().train()
    batch = frame.expand(samples, -1, -1, -1)
    compiled = torch.compile(model)
    ways = {
        "torch, eager loop": loop(model, frame, samples),
        "torch, members as one batch": lambda: model(batch).numpy(),
        "torch.compile, loop": loop(compiled, frame, samples),
        "torch.compile, members as one batch": lambda: compiled(batch).numpy(),
        "onnxruntime S times, EliminateDropout off": stochastic_session(model, frame, samples),
        "torch, trunk once and head as one batch, written by hand": lambda: model.head(
            model.trunk(frame).expand(samples, -1)
        ).numpy(),
    }
    return Setting("dropout", model, ways)


def stochastic_session(model: nn.Module, frame: Tensor, samples: int) -> Predict:
    """Dropout left in the graph, and onnxruntime kept from deleting it."""
    buffer = io.BytesIO()
    torch.onnx.export(
        model, (frame,), buffer, dynamo=False, training=torch.onnx.TrainingMode.TRAINING, do_constant_folding=False,
        input_names=["frame"], opset_version=18,
    )  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        buffer.getvalue(), options, providers=["CPUExecutionProvider"], disabled_optimizers=["EliminateDropout"]
    )
    given = {"frame": frame.numpy()}
    return lambda: np.concatenate([session.run(None, given)[0] for _ in range(samples)])


def bayesian_torch(frame: Tensor, samples: int) -> Setting:
    """bayesian-torch's own conversion of the head."""
    from bayesian_torch.models.dnn_to_bnn import dnn_to_bnn

    model = PilotNet(dropout=0.0)
    dnn_to_bnn(
        model.head,
        {
            "prior_mu": 0.0, "prior_sigma": 1.0, "posterior_mu_init": 0.0, "posterior_rho_init": -3.0,
            "type": "Reparameterization", "moped_enable": False, "moped_delta": 0.5,
        },
    )  # fmt: skip
    return Setting("variational, bayesian-torch", model, {"its loop": loop(model, frame, samples)})


def blitz(frame: Tensor, samples: int) -> Setting:
    """BLiTZ's linear layers in the head."""
    from blitz.modules import BayesianLinear

    model = PilotNet(dropout=0.0)
    for name, layer in [*model.head.named_children()]:
        if isinstance(layer, nn.Linear):
            setattr(model.head, name, BayesianLinear(layer.in_features, layer.out_features))
    return Setting("variational, BLiTZ", model, {"its loop": loop(model, frame, samples)})


if __name__ == "__main__":
    main()
