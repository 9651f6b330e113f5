"""The attack study: what noise and answers are, on posteriors that are known, and a short run."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edge_bdl.errors import InputError
from edge_bdl_train.data.idx import LabelledImages
from edge_bdl_train.data.mnist import MNIST_FOLDER
from edge_bdl_train.evaluation.density import FeatureDensity, features_of
from edge_bdl_train.methods.ensemble import EnsemblePosterior
from edge_bdl_train.recipes import open_study
from edge_bdl_train.recipes.adversarial import (
    ATTACKS,
    AdversarialConfig,
    answer,
    draw_saliency,
    network,
    noisy,
    tensors,
)


def split() -> EnsemblePosterior:
    """Two members that are the surer of opposite classes, the brighter the first of two pixels is."""
    weights = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    return EnsemblePosterior(
        nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False)),
        {},
        [{"1.weight": 20.0 * weights}, {"1.weight": -20.0 * weights}],
    )


def test_noise_moves_every_pixel_by_the_radius_unless_it_would_leave_the_range() -> None:
    x = torch.tensor([0.0, 0.5, 1.0]).repeat(1000, 1)
    moved = noisy(x, 0.1, torch.Generator().manual_seed(0))
    torch.testing.assert_close((moved[:, 1] - 0.5).abs(), torch.full((1000,), 0.1))
    assert abs((moved[:, 1] > 0.5).double().mean() - 0.5) <= 5.0 * 0.5 / math.sqrt(1000)
    assert torch.equal(moved[:, 0] > 0.05, moved[:, 0] > 0.0)
    torch.testing.assert_close(moved[:, 0].max(), torch.tensor(0.1))
    assert moved.max() <= 1.0


def test_members_that_contradict_each_other_are_epistemic_doubt() -> None:
    posterior = split()
    members = posterior.sample(torch.Generator().manual_seed(0), 2)
    known = torch.rand(60, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    density = FeatureDensity(features_of(posterior.network, known))
    x = torch.tensor([[[[1.0, 0.5]]], [[[0.0, 0.5]]]])
    found = answer(posterior, members, density, x, torch.tensor([0, 1]))
    # Sure and opposed: log 2 in all, none of it noise. Both at a loss: log 2 as well, all of it noise.
    torch.testing.assert_close(found.scores["total"][1].item(), math.log(2.0))
    assert found.scores["epistemic"][0] > 0.69
    assert abs(found.scores["epistemic"][1]) < 1e-6
    assert found.scores["density"].shape == (2,)
    assert 0.0 <= found.accuracy <= 1.0


def test_a_network_maps_digits_to_ten_logits_and_has_dropout_where_it_is_asked_for() -> None:
    x, labels = tensors(LabelledImages(np.full((3, 28, 28), 255, np.uint8), np.arange(3)), np.array([2, 0]))
    assert (x.shape, labels.tolist()) == ((2, 1, 28, 28), [2, 0])
    assert (x == 1.0).all()
    for rate, modules in ((0.0, 0), (0.3, 2)):
        plain = network(rate)
        assert plain(x).shape == (2, 10)
        assert sum(isinstance(module, nn.Dropout) for module in plain) == modules


def test_the_picture_of_the_doubt_is_drawn(tmp_path: Path) -> None:
    posterior = split()
    members = posterior.sample(torch.Generator().manual_seed(0), 2)
    x = torch.rand(9, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    draw_saliency(tmp_path / "saliency.png", posterior, members, x, torch.zeros(9, dtype=torch.int64))
    assert (tmp_path / "saliency.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(not MNIST_FOLDER.is_dir(), reason="no MNIST; python -m edge_bdl_train.data.mnist")
def test_a_short_run_attacks_and_judges_every_score(tmp_path: Path) -> None:
    figures = {figure.what: figure.mean for figure in open_study("adversarial", quick=True).run(tmp_path, 0)}
    accuracy = {attack: figures[f"dropout, {attack} 0.1: accuracy"] for attack in ATTACKS}
    assert accuracy["PGD"] <= accuracy["FGSM"] < accuracy["noise"]
    for score in ("total", "epistemic", "max_probability", "energy", "density"):
        assert 0.0 <= figures[f"dropout, PGD 0.1: AUROC of {score}"] <= 1.0
    assert {path.name for path in tmp_path.iterdir()} == {"adversarial.png", "saliency-dropout.png"}


def test_configs_that_measure_nothing_are_refused() -> None:
    for radii in ((0.1, 0.2), (0.0,), (0.0, 0.2, 0.1)):
        with pytest.raises(InputError, match="radii must rise from 0"):
            AdversarialConfig(radii=radii)
    with pytest.raises(InputError, match="methods must be some of point, dropout, ensemble"):
        AdversarialConfig(methods=("prayer",))
    with pytest.raises(InputError, match="members at least 2"):
        AdversarialConfig(members=1)
