"""Recipe mnist: what is compared with what, and a short run of all four methods."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edge_bdl.errors import InputError
from edge_bdl_train.data.mnist import MNIST_FOLDER
from edge_bdl_train.recipes.mnist import LABELS, MIXTURE, PUBLISHED, MnistConfig, MnistStudy, contenders


@pytest.mark.skipif(not MNIST_FOLDER.is_dir(), reason="no MNIST; python -m edge_bdl_train.data.mnist")
def test_a_short_run_learns_by_every_method_and_by_the_same_seed_the_same(tmp_path: Path) -> None:
    study = MnistStudy(MnistConfig(units=50, epochs=8, batch_size=25, members=5, kl_factor=0.01, train_images=1_000))
    figures = {figure.what: figure for figure in study.record(tmp_path, seed=0)}
    for label in LABELS:
        error = figures[f"{label}: test error, %"]
        assert error.published == PUBLISHED.get(label)
        assert 0.0 < error.mean < 35.0  # of ten digits chance gets 90 % wrong
    goal = figures[f"{MIXTURE}: test error, %, against our goal"]
    assert (goal.published, goal.values) == (1.5, figures[f"{MIXTURE}: test error, %"].values)
    assert not goal.reached
    sgd = MnistStudy(MnistConfig(methods=("SGD",), units=50, epochs=8, batch_size=25, train_images=1_000))
    assert [each.values for each in sgd.run(tmp_path, 0)] == [
        figures[name].values for name in ("SGD: test error, %", "SGD: test NLL, nats", "SGD: test ECE, %")
    ]


def test_a_point_estimate_predicts_once_and_the_networks_are_the_papers() -> None:
    study = MnistStudy()
    assert [tuple(layer.weight.shape) for layer in study.network(0.5) if isinstance(layer, torch.nn.Linear)] == [
        (400, 784),
        (400, 400),
        (10, 400),
    ]
    assert [each.dropout for each in contenders(study.config)] == [0.0, 0.5, 0.0, 0.0]


def test_only_the_named_methods_run() -> None:
    assert [each.label for each in contenders(MnistConfig(methods=("dropout",)))] == ["dropout"]


def test_settings_that_make_no_sense_are_refused() -> None:
    for settings, message in (
        ({"epochs": 0}, "at least 1"),
        ({"train_images": -1}, "at least 1"),
        ({"methods": ("magic",)}, "no method magic: expected of SGD"),
    ):
        with pytest.raises(InputError, match=message):
            MnistConfig(**settings)
