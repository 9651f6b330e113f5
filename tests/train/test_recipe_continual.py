"""Continual learning: the tasks, a posterior that becomes a prior, what coresets keep, a short run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edge_bdl.errors import InputError
from edge_bdl_train.data.idx import LabelledImages
from edge_bdl_train.data.mnist import MNIST_FOLDER, load_mnist
from edge_bdl_train.fit import Data
from edge_bdl_train.layers.base import variational_layers
from edge_bdl_train.optimiser import Optimiser
from edge_bdl_train.progress import silent
from edge_bdl_train.recipes import open_study
from edge_bdl_train.recipes.continual import (
    HEAD,
    PIXELS,
    Belief,
    ContinualConfig,
    ContinualStudy,
    Task,
    new_network,
    posterior_of,
    set_sigmas,
    split_tasks,
    variational,
)


def belief() -> Belief:
    """About all weights, sigmas of very different sizes."""
    generator = torch.Generator().manual_seed(0)
    means = new_network(0, 0)
    sigmas = {name: 10.0 ** (2.0 * torch.rand(mean.shape, generator=generator) - 2.0) for name, mean in means.items()}
    return Belief(means, sigmas)


def two_tasks(rows: int) -> list[Task]:
    """Which half of the picture is brighter: left or right, top or bottom."""
    generator = torch.Generator().manual_seed(1)

    def task(axis: int) -> Data:
        x = torch.rand(rows, 28, 28, generator=generator)
        y = torch.arange(rows) % 2
        halves = torch.stack([torch.arange(28) < 14, torch.arange(28) >= 14])[y]
        lit = halves[:, None, :] if axis == 1 else halves[:, :, None]
        return (0.5 * x + 0.5 * lit).flatten(1), y

    return [Task(task(axis), task(axis)) for axis in (0, 1)]


def test_tasks_are_pairs_of_digits_in_random_order() -> None:
    labels = np.repeat(np.arange(10), 30)
    images = np.zeros((300, 28, 28), np.uint8)
    images[:, 0, 0] = labels
    part = LabelledImages(images, labels)
    tasks = split_tasks(part, part, 5, 40, np.random.default_rng(0))
    assert len(tasks) == 5
    for number, (train, test) in enumerate(tasks):
        assert (train[0].shape, test[0].shape) == ((40, PIXELS), (60, PIXELS))
        for x, y in (train, test):
            torch.testing.assert_close(255.0 * x[:, 0], (2 * number + y).float())
    assert not torch.equal(tasks[0].test[1], tasks[0].test[1].sort().values)
    other = split_tasks(part, part, 1, 40, np.random.default_rng(1))
    assert not torch.equal(tasks[0].train[1], other[0].train[1])


def test_a_task_begins_at_its_prior_and_only_its_new_head_has_anything_to_pay() -> None:
    trunk = belief().part(head=False)
    start = new_network(0, 1)
    trainee = variational(trunk, start, 100, Optimiser(), torch.Generator().manual_seed(0))
    kls = {name: layer.kl().item() for name, layer in variational_layers(trainee.network).items()}
    head = kls.pop(HEAD)
    # What is left is the rounding of softplus and its inverse, per weight.
    assert all(abs(kl) <= 1e-4 * PIXELS for kl in kls.values())
    # Against N(0, 1): log(1/s) + (s^2 + m^2)/2 - 1/2 per weight, with s as the search begins.
    sigma = 0.01
    means = torch.cat([start[f"{HEAD}.weight"].flatten(), start[f"{HEAD}.bias"]])
    expected = (-math.log(sigma) + 0.5 * (sigma**2 + means.double() ** 2) - 0.5).sum()
    assert head == pytest.approx(float(expected), rel=1e-4)


def test_leaving_the_prior_costs_what_the_closed_form_says() -> None:
    trunk = belief().part(head=False)
    trainee = variational(trunk, new_network(0, 1), 100, Optimiser(), torch.Generator().manual_seed(0))
    layer = variational_layers(trainee.network)["2"]
    before = layer.kl().item()
    with torch.no_grad():
        layer.get_submodule("bias").mean += 0.5
    expected = 0.5 * (0.5 / trunk.sigmas["2.bias"].double()).square().sum()
    assert layer.kl().item() - before == pytest.approx(float(expected), rel=1e-3)


def test_sigmas_are_set_by_name_and_the_others_stay() -> None:
    trainee = variational(Belief({}, {}), new_network(0, 0), 100, Optimiser(), torch.Generator())
    wanted = belief().sigmas["2.weight"]
    set_sigmas(trainee.network, {"2.weight": wanted})
    weights = variational_layers(trainee.network)["2"].weights()
    torch.testing.assert_close(weights["weight"].sigma.detach(), wanted, rtol=1e-4, atol=0.0)
    torch.testing.assert_close(weights["bias"].sigma.detach(), torch.full((256,), 0.01))
    with pytest.raises(InputError, match=r"no weights 9\.weight\.rho"):
        set_sigmas(trainee.network, {"9.weight": wanted})


def test_a_belief_is_asked_with_its_own_means_and_sigmas() -> None:
    whole = belief()
    assert whole.part(head=True).means.keys() == {f"{HEAD}.weight", f"{HEAD}.bias"}
    again = whole.part(head=False) | whole.part(head=True)
    posterior = posterior_of(again)
    for name, mean in posterior.mean().items():
        assert torch.equal(mean, whole.means[name])
    draws = torch.stack([each["2.bias"] for each in posterior.sample(torch.Generator().manual_seed(0), 400)])
    ratio = draws.std(0) / whole.sigmas["2.bias"]
    assert (ratio - 1.0).abs().max() <= 5.0 / math.sqrt(2.0 * 400)


class Watched(ContinualStudy):
    """Notes what each update is given."""

    def __init__(self, config: ContinualConfig) -> None:
        super().__init__(config)
        self.seen: list[tuple[int, set[str]]] = []

    def _update(self, prior: Belief, start: Mapping[str, Tensor], data: Data, *others: Any) -> Belief:
        self.seen.append((len(data[0]), set(prior.means)))
        return super()._update(prior, start, data, *others)

    def _tune(self, belief: Belief, memory: Data, generator: torch.Generator) -> Belief:
        self.seen.append((len(memory[0]), set(belief.means)))
        return super()._tune(belief, memory, generator)


def test_coresets_are_kept_out_of_training_and_tune_a_copy_for_each_question() -> None:
    study = Watched(ContinualConfig(tasks=2, images=20, epochs=1, coreset=4, members=2))
    study.learn(two_tasks(20), 4, 0, silent)
    trunk, whole = set(belief().part(head=False).means), set(belief().means)
    assert study.seen == [(16, set()), (4, whole), (16, trunk), (4, whole), (4, whole)]


def test_tuning_on_a_coreset_makes_its_images_likelier_and_hardly_leaves_what_is_known_well() -> None:
    study = ContinualStudy(ContinualConfig(coreset_steps=60))
    known = Belief(new_network(0, 0), {n: torch.full_like(t, 0.02) for n, t in new_network(0, 0).items()})
    known.sigmas["0.weight"][:, : PIXELS // 2] = 1e-4
    memory = two_tasks(40)[0].train
    tuned = study._tune(known, memory, torch.Generator().manual_seed(0))

    def nll(belief: Belief) -> float:
        logits = posterior_of(belief).predict(memory[0], 20, torch.Generator().manual_seed(1))
        return torch.nn.functional.cross_entropy(torch.log_softmax(logits, -1).exp().mean(0).log(), memory[1]).item()

    assert nll(tuned) < nll(known)
    moved = (tuned.means["0.weight"] - known.means["0.weight"]).abs()
    assert moved[:, : PIXELS // 2].mean() < 0.2 * moved[:, PIXELS // 2 :].mean()


def test_without_coresets_all_is_trained_on_once() -> None:
    study = Watched(ContinualConfig(tasks=2, images=20, epochs=1, coreset=4, members=2))
    study.learn(two_tasks(20), 0, 0, silent)
    assert study.seen == [(20, set()), (20, set(belief().part(head=False).means))]


@pytest.mark.skipif(not MNIST_FOLDER.is_dir(), reason="no MNIST; python -m edge_bdl_train.data.mnist")
def test_a_short_run_gives_two_figures_per_way_of_learning(tmp_path: Path) -> None:
    figures = open_study("continual", quick=True).run(tmp_path, 0)
    assert [figure.what.split(":")[0] for figure in figures[::2]] == ["fine-tuning", "VCL", "VCL, random coreset"]
    assert [figure.published for figure in figures[::2]] == [None, 97.0, 98.4]
    assert all(50.0 < figure.mean <= 100.0 for figure in figures)
    assert (tmp_path / "continual.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(not MNIST_FOLDER.is_dir(), reason="no MNIST; python -m edge_bdl_train.data.mnist")
def test_something_of_the_second_task_is_learned_and_the_first_is_still_known() -> None:
    study = ContinualStudy(ContinualConfig(tasks=2, images=1_500, epochs=3, batch_size=64, members=4))
    tasks = split_tasks(*load_mnist(), 2, 1_500, np.random.default_rng(0))
    accuracies = study.learn(tasks, 0, 0, silent)
    assert [len(row) for row in accuracies] == [1, 2]
    assert accuracies[-1][0] > 0.97
    # Few images move a trunk that is sure of itself but little; it is no coin that decides, though.
    assert accuracies[-1][1] > 0.5 + 5.0 * 0.5 / math.sqrt(len(tasks[1].test[1]))


def test_configs_that_leave_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="tasks must be 1 to 5"):
        ContinualConfig(tasks=6)
    with pytest.raises(InputError, match="leaves nothing of 40"):
        ContinualConfig(images=40)
    with pytest.raises(InputError, match="at least 1"):
        ContinualConfig(epochs=0)
