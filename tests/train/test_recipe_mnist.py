"""Recipe mnist: what is compared with what, and a short run of all four methods."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edge_bdl.errors import InputError
from edge_bdl_train.data.mnist import MNIST_FOLDER
from edge_bdl_train.fit import Data
from edge_bdl_train.posterior import Posterior
from edge_bdl_train.progress import Stage
from edge_bdl_train.recipes.fitting import Contender
from edge_bdl_train.recipes.mnist import (
    GAUSSIAN,
    LABELS,
    MIXTURE,
    PRIORS,
    PUBLISHED,
    MnistConfig,
    MnistStudy,
    contender,
)


@pytest.mark.skipif(not MNIST_FOLDER.is_dir(), reason="no MNIST; python -m edge_bdl_train.data.mnist")
def test_a_short_run_learns_by_every_method_and_by_the_same_seed_the_same(tmp_path: Path) -> None:
    study = MnistStudy(
        MnistConfig(units=50, epochs=8, batch_size=25, members=5, kl_factors=(0.01,), train_images=1_000)
    )
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
    assert [contender(label, 40, 1.0).dropout for label in LABELS] == [0.0, 0.5, 0.0, 0.0]


@pytest.mark.skipif(not MNIST_FOLDER.is_dir(), reason="no MNIST; python -m edge_bdl_train.data.mnist")
def test_held_out_rows_alone_choose_the_kl_factor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[tuple[float, int, int]] = []
    whole = MnistStudy._fit

    def fit(self: MnistStudy, own: Contender, data: Data, seed: int, stage: Stage) -> Posterior:
        fitted.append((own.config.kl_factor.value, own.epochs, len(data[0])))
        return whole(self, own, data, seed, stage)

    monkeypatch.setattr(MnistStudy, "_fit", fit)
    study = MnistStudy(
        MnistConfig(
            methods=(GAUSSIAN,),
            units=20,
            epochs=1,
            kl_factors=(100.0, 0.01),
            choice_epochs=2,
            batch_size=25,
            members=4,
            train_images=600,
        )
    )
    figures = {figure.what: figure for figure in study.run(tmp_path, 0)}
    # So strong a prior leaves nothing of the digits; the final training has the sixth back.
    assert fitted == [(100.0, 2, 500), (0.01, 2, 500), (0.01, 1, 600)]
    losses = [
        figures[f"{GAUSSIAN}: held-out NLL of KL factor {factor} after 2 epochs, nats"].mean
        for factor in ("100", "0.01")
    ]
    assert losses[1] < losses[0]
    assert "KL factor 0.01, best of 2 on held-out rows" in figures[f"{GAUSSIAN}: test error, %"].differs


def test_both_priors_are_published() -> None:
    assert PRIORS.keys() == PUBLISHED.keys()


def test_settings_that_make_no_sense_are_refused() -> None:
    for settings, message in (
        ({"epochs": 0}, "at least 1"),
        ({"train_images": 5}, "at least 6"),
        ({"kl_factors": ()}, "a KL factor"),
        ({"methods": ("magic",)}, "no method magic: expected of SGD"),
    ):
        with pytest.raises(InputError, match=message):
            MnistConfig(**settings)
