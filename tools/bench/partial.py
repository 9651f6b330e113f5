"""What it costs, and what it saves, to have only the end of a network random.

    apt-get install dataset-fashion-mnist
    .venv/bin/python tools/bench/partial.py

A CNN of six layers on a quarter of Fashion-MNIST, with dropout behind every hidden layer, and with a Gaussian over each
weight (mean field). Both are exported whole and from several layers on, with 8 iid members. Prints a Markdown table:
the share of the multiply-accumulates that members do not share, R(8) = time of the fused graph / time of one
deterministic pass (onnxruntime, 1 thread, medians of turns taken in one process), and what the manifest records:
Spearman's correlation of the epistemic score with the whole posterior's, KL, the mean's error, and the epistemic
score's size as a share of the whole posterior's; at last the share of wrong classes.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import fashion_mnist
from edge_bdl.bundle import Bundle
from edge_bdl.findings import Partial
from edge_bdl.manifest import Manifest
from edge_bdl_export import export
from edge_bdl_train.fit import fit
from edge_bdl_train.likelihoods.categorical import Categorical
from edge_bdl_train.methods import open_method
from edge_bdl_train.posterior import Posterior
from interleaved import interleaved, passes

SAMPLES = 8
_IMAGES, _EPOCHS, _BATCH, _RATE = 15_000, 4, 100, 0.1
# Calibration frames: for selection, thresholds and the comparison.
_SPLIT = (50, 50, 500)
# The first layers to be random, of six: the last, the last two (a third of them), the last three and four.
LAYERS = ("last", "first_linear", "conv4", "conv3")


class Cnn(nn.Module):
    """[n, 1, 28, 28] to logits [n, 10]: four convolutions and two linear layers, dropout behind all but the last."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.conv1, self.drop1 = nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.Dropout(rate)
        self.conv2, self.drop2 = nn.Conv2d(16, 32, 3, padding=1), nn.Dropout(rate)
        self.conv3, self.drop3 = nn.Conv2d(32, 32, 3, stride=2, padding=1), nn.Dropout(rate)
        self.conv4, self.drop4 = nn.Conv2d(32, 64, 3, padding=1), nn.Dropout(rate)
        self.pool, self.first_linear, self.drop5 = nn.MaxPool2d(2), nn.Linear(576, 64), nn.Dropout(rate)
        self.last = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        for convolution, drop in (
            (self.conv1, self.drop1), (self.conv2, self.drop2), (self.conv3, self.drop3), (self.conv4, self.drop4),
        ):  # fmt: skip
            x = drop(torch.relu(convolution(x)))
        return self.last(self.drop5(torch.relu(self.first_linear(self.pool(x).flatten(1)))))


def fitted(method: str, folder: Path) -> Posterior:
    """The trained posterior."""
    torch.manual_seed(0)
    module = open_method(method)
    images = torch.from_numpy(fashion_mnist.frames(fashion_mnist.read(folder, "train", "images-idx3")[:_IMAGES])[:, 0])
    labels = torch.from_numpy(fashion_mnist.read(folder, "train", "labels-idx1")[:_IMAGES].astype(np.int64))
    config = module.Config(sigma=0.02) if method == "mean_field" else module.Config()
    trainee = module.build(
        Cnn(_RATE if method == "dropout" else 0.0), Categorical(10), config,
        n_data=len(images), generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    return fit(trainee, (images, labels), epochs=_EPOCHS, batch_size=_BATCH, generator=torch.Generator().manual_seed(2))


def exported(
    posterior: Posterior, layer: str | None, frames: NDArray[np.float32], labels: NDArray[np.int64], out: Path
) -> Manifest:
    """A bundle whose members are random from a layer on; None for all of it."""
    split = np.repeat([0, 1, 2], _SPLIT)
    return export(
        posterior, frames[0], out, task="classification", samples=SAMPLES, selection="iid", formats=("onnx",),
        calibration={"inputs": frames, "labels": labels, "split": split}, stochastic_from=layer,
    )  # fmt: skip


def ratio(out: Path, rounds: int) -> float:
    """R(8): time of all members / time of one deterministic pass, each in its own graph."""
    once, together = np.median(interleaved(passes(Bundle.open(out), "onnxruntime"), rounds), axis=0)
    return float(together / once)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--methods", nargs="*", default=["dropout", "mean_field"])
    parser.add_argument("--layers", nargs="*", default=list(LAYERS))
    parser.add_argument("--rounds", type=int, default=400, help="turns of the timing")
    given = parser.parse_args()
    count = sum(_SPLIT)
    frames = fashion_mnist.frames(fashion_mnist.read(given.fashion, "t10k", "images-idx3")[:count])
    labels = fashion_mnist.read(given.fashion, "t10k", "labels-idx1")[:count].astype(np.int64)
    print("| posterior | random from | stochastic | R(8) | Spearman | KL | mean error | epistemic | wrong |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for method in given.methods:
        posterior = fitted(method, given.fashion)
        for layer in (None, *given.layers):
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "partial.ebdl"
                manifest = exported(posterior, layer, frames, labels, out)
                times = ratio(out, given.rounds)
            cost = manifest.partial
            told = (
                f"{cost.epistemic_spearman:.3f} | {cost.kl:.4f} | {cost.mean_error:.4f} | {cost.epistemic_ratio:.2f}"
                if isinstance(cost, Partial)
                else "| | |"
            )
            assert manifest.figures is not None
            random = 1.0 - manifest.flops.deterministic_share
            print(f"| {method} | {layer or 'the first layer'} | {random:.1%} | {times:.2f} | ", end="")
            print(f"{told} | {manifest.figures.error[SAMPLES]:.1%} |", flush=True)


if __name__ == "__main__":
    main()
