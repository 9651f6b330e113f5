"""How close few sets of weights come to the full posterior: the first ones drawn, and chosen ones.

    apt-get install dataset-fashion-mnist
    .venv/bin/python tools/bench/few_weights.py [--uci FOLDER]

Small networks, all of their weights random (Laplace: the last layer's), fitted within minutes by mean field, SWAG,
last-layer Laplace, SGHMC and as an ensemble. KL in nats of the posterior's mean prediction from the bank's (regression:
of Gaussians with the same mean and variance) and Spearman's correlation of the epistemic score with the posterior's, on
frames that selection did not see. An infinite posterior is 256 members that nothing was chosen from; a finite one is
all that there are.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import fashion_mnist
from edge_bdl_export.candidates import pick
from edge_bdl_export.capture import capture
from edge_bdl_export.cut import cut
from edge_bdl_export.draws import POOL, Draws
from edge_bdl_export.fidelity import Reading, curve
from edge_bdl_export.forms import weight_bank
from edge_bdl_export.frames import FIGURES, CalibrationFrames
from edge_bdl_export.graphs import Network
from edge_bdl_export.seen import Seen
from edge_bdl_train.fit import fit
from edge_bdl_train.likelihoods.base import Likelihood
from edge_bdl_train.likelihoods.categorical import Categorical
from edge_bdl_train.likelihoods.gaussian import Gaussian
from edge_bdl_train.methods import open_method
from edge_bdl_train.optimiser import Optimiser
from edge_bdl_train.posterior import Posterior
from edge_bdl_train.priors.gaussian import Gaussian as GaussianPrior

COUNTS = (2, 4, 8, 16)
IID_BANKS, POOLS = 32, 3
_IMAGES, _CALIBRATION, _HELD_OUT = 20_000, 500, 1000
_KIN8NM_HELD_BACK = 1000
_SGD = Optimiser(kind="sgd", learning_rate=0.02, momentum=0.9)
# What each method is told, and for how many epochs it trains.
METHODS: Mapping[str, tuple[dict[str, object], int]] = {
    "mean_field": ({"sigma": 0.02}, 10),
    "swag": ({"start_epoch": 6, "learning_rate": 0.02, "optimiser": _SGD}, 16),
    "laplace": ({}, 6),
    "sgmcmc": (
        {"prior": GaussianPrior(), "learning_rate": 0.05, "burn_in": 1000, "every": 10, "most": 200}, 20,
    ),
    "ensemble": ({"members": 20}, 4),
}  # fmt: skip


@dataclass(frozen=True)
class Study:
    """Data and a network for it.

    Attributes:
        name: For the table.
        network: Not trained.
        likelihood: Of the targets.
        reading: How its output is read.
        data: To train on.
        seen: Frames to select on, [n, 1, *input].
        unseen: Frames to judge by.
    """

    name: str
    network: nn.Module
    likelihood: Likelihood
    reading: Reading
    data: tuple[Tensor, Tensor]
    seen: NDArray[np.float32]
    unseen: NDArray[np.float32]


def fitted(study: Study, method: str) -> Posterior:
    """The posterior that a method gives."""
    module, (arguments, epochs) = open_method(method), METHODS[method]
    trainee = module.build(
        study.network, study.likelihood, module.Config(**arguments),
        n_data=len(study.data[0]), generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    return fit(trainee, study.data, epochs=epochs, batch_size=100, generator=torch.Generator().manual_seed(2))


def judge(study: Study, method: str) -> None:
    """Print one method's rows."""
    posterior = fitted(study, method)
    size = posterior.size
    kl: dict[str, list[list[float]]] = {"first": [], "selected": []}
    rank: dict[str, list[list[float]]] = {"first": [], "selected": []}
    draws = Draws(posterior.sample, size, seed=3)
    pool = draws.pool(16, POOL)
    captured = capture(posterior.network, (torch.from_numpy(study.unseen[0]),))
    form = weight_bank.posterior(posterior.network, captured, pool)
    names = [node.name for node in captured.inputs]
    network = Network(cut(captured, form.stochastic), (torch.from_numpy(study.unseen[0]),), names, form.inputs)
    seen, unseen = (
        Seen(network, CalibrationFrames({network.input_names[0]: x}, np.full(len(x), FIGURES)), study.reading)
        for x in (study.seen, study.unseen)
    )

    def statistics(frames: Seen, members: list[Mapping[str, Tensor]]) -> Tensor:
        return torch.stack(list(frames.each(weight_bank.bank(form.inputs, members))), 1)

    judged = statistics(unseen, pool if size else [m for block in draws.others(pool) for m in block])
    reference, task = judged.mean(1), study.reading.task
    for number in range(1 if size else POOLS):
        if number:
            pool = draws.pool(16, POOL)
        candidates, answers = statistics(seen, pool), statistics(unseen, pool)
        rows = {"selected": [pick(candidates, candidates.mean(1), min(16, len(pool)), task)]}
        order = np.random.Generator(np.random.Philox(number))
        rows["first"] = [order.permutation(len(pool))[:16].tolist() for _ in range(IID_BANKS)]
        for how, banks in rows.items():
            for bank in banks:
                found = curve(answers[:, bank].unbind(1), reference, task)
                kl[how].append(list(found.kl))
                rank[how].append(list(found.spearman))
    for how in kl:
        cells = [
            f"{np.mean([row[s - 2] for row in kl[how]]):.5f} / {np.mean([row[s - 2] for row in rank[how]]):.3f}"
            for s in COUNTS
        ]
        print(f"| {method} ({size or 'no end'}) | {how} | {' | '.join(cells)} | {len(kl[how])} |", flush=True)


def fashion(folder: Path) -> Study:
    """A CNN of 27,000 weights on a third of Fashion-MNIST."""
    images = torch.from_numpy(fashion_mnist.frames(fashion_mnist.read(folder, "train", "images-idx3"))[:, 0])
    labels = torch.from_numpy(fashion_mnist.read(folder, "train", "labels-idx1").astype(np.int64))
    test = fashion_mnist.frames(fashion_mnist.read(folder, "t10k", "images-idx3"))
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip
    return Study(
        name="Fashion-MNIST CNN", network=network, likelihood=Categorical(10), reading=Reading("classification", 1),
        data=(images[:_IMAGES], labels[:_IMAGES]),
        seen=images[fashion_mnist.TRAINED_ON :][:_CALIBRATION, None].numpy(), unseen=test[:_HELD_OUT],
    )  # fmt: skip


def kin8nm(folder: Path) -> Study:
    """An MLP on UCI kin8nm, split 0."""
    data = np.loadtxt(folder / "data.txt", dtype=np.float32)
    features, target = (np.loadtxt(folder / f"index_{what}.txt", dtype=int) for what in ("features", "target"))
    train, test = (np.loadtxt(folder / f"index_{what}_0.txt", dtype=int) for what in ("train", "test"))
    data = (data - data[train].mean(0)) / data[train].std(0)
    fitted_on, held_back = train[:-_KIN8NM_HELD_BACK], train[-_KIN8NM_HELD_BACK:]
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(len(features), 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)
    )  # fmt: skip
    return Study(
        name="UCI kin8nm MLP (regression)", network=network, likelihood=Gaussian(), reading=Reading("regression", None),
        data=(torch.from_numpy(data[fitted_on][:, features]), torch.from_numpy(data[fitted_on][:, target])[:, None]),
        seen=data[held_back[:_CALIBRATION]][:, None, features], unseen=data[test][:, None, features],
    )  # fmt: skip


def main() -> None:
    """Judge what there is data for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--uci", type=Path, help="folder with kin8nm/ in it")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    given = parser.parse_args()
    studies = [fashion(given.fashion)] if given.fashion.is_dir() else []
    studies += [kin8nm(given.uci / "kin8nm")] if given.uci is not None else []
    for study in studies:
        print(f"\n### {study.name}\n")
        print(f"KL / Spearman, {len(study.seen)} frames to select on, {len(study.unseen)} held out\n")
        print(f"| method (members) | bank | {' | '.join(f'S={s}' for s in COUNTS)} | banks |")
        print("|---|---|---|---|---|---|---|", flush=True)
        for method in given.methods:
            judge(study, method)


if __name__ == "__main__":
    main()
