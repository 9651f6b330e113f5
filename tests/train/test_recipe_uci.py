"""Recipe uci: the scores against closed forms, networks side by side, the choice by the rows left out, a short run."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from edge_bdl.errors import InputError
from edge_bdl_train.bayesianize import Layers
from edge_bdl_train.data.uci import RegressionSet
from edge_bdl_train.layers import linear_map
from edge_bdl_train.likelihoods.base import Likelihood
from edge_bdl_train.likelihoods.gaussian import Gaussian, HeteroscedasticGaussian
from edge_bdl_train.methods import mean_field
from edge_bdl_train.optimiser import Optimiser
from edge_bdl_train.recipes import open_study
from edge_bdl_train.recipes.side_by_side import NetworksSideBySide, NoisyNetworksSideBySide
from edge_bdl_train.recipes.uci import (
    CHOICES,
    PUBLISHED,
    TRAINING,
    Rows,
    UciConfig,
    UciStudy,
    best_precision,
    log_likelihood,
    normalised,
    score_of,
)


def a_set(splits: int = 2, rows: int = 100) -> RegressionSet:
    """Targets 10 + 5 x0 + noise of 0.5; the second feature never changes."""
    rng = np.random.default_rng(0)
    x = np.stack([rng.uniform(-1.0, 3.0, rows), np.full(rows, 7.0)], axis=1)
    y = 10.0 + 5.0 * x[:, 0] + rng.normal(0.0, 0.5, rows)
    orders = [rng.permutation(rows) for _ in range(splits)]
    return RegressionSet("yacht", x, y, tuple((order[rows // 10 :], order[: rows // 10]) for order in orders))


def write_set(folder: Path, data: RegressionSet) -> Path:
    place = folder / "yacht"
    place.mkdir()
    np.savetxt(place / "data.txt", np.column_stack([data.features, data.targets]))
    np.savetxt(place / "index_features.txt", [0, 1])
    np.savetxt(place / "index_target.txt", [2])
    for number, (train, test) in enumerate(data.splits):
        np.savetxt(place / f"index_train_{number}.txt", train)
        np.savetxt(place / f"index_test_{number}.txt", test)
    return folder


def test_normalised_rows_have_the_training_rows_mean_and_spread_and_constant_features_are_zero() -> None:
    data = a_set()
    learn, check = normalised(data, data.splits)
    assert learn.x.shape == (90, 2, 2)
    assert check.y.shape == (10, 2)
    assert learn.y.mean(0) == pytest.approx(0.0, abs=1e-6)
    assert learn.y.std(0, correction=0) == pytest.approx(1.0, abs=1e-5)
    assert torch.equal(learn.x[..., 1], torch.zeros(90, 2))
    test = data.splits[1][1]
    again = check.y[:, 1] * learn.scale[1] + data.targets[data.splits[1][0]].mean()
    assert again.numpy() == pytest.approx(data.targets[test], rel=1e-5)


def test_splits_of_different_sizes_are_refused() -> None:
    data = a_set()
    with pytest.raises(InputError, match="equally large"):
        normalised(data, [data.splits[0], (data.splits[1][0][:-1], data.splits[1][1])])


def test_the_log_likelihood_is_that_of_a_mixture_of_gaussians_in_the_targets_own_units() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(7, 5, 3, generator=generator)
    check = Rows(torch.zeros(5, 3, 1), torch.randn(5, 3, generator=generator), torch.tensor([1.0, 2.0, 30.0]))
    precision = torch.tensor([0.5, 1.0, 4.0])
    found = log_likelihood(outputs, check, precision)
    for split in range(3):
        scale = float(check.scale[split])
        density = stats.norm(scale * outputs[..., split], scale / precision[split].sqrt()).pdf(
            scale * check.y[:, split]
        )
        assert float(found[split]) == pytest.approx(np.log(density.mean(0)).mean(), abs=1e-5)


def test_the_best_precision_is_near_that_of_the_residuals() -> None:
    generator = torch.Generator().manual_seed(1)
    truth = torch.tensor([0.1, 0.5])
    check = Rows(torch.zeros(4000, 2, 1), truth * torch.randn(4000, 2, generator=generator), torch.ones(2))
    precision, value = best_precision(torch.zeros(1, 4000, 2), check)
    # The grid's steps are of 22 %, and 4,000 residuals know their variance to 2 %.
    assert precision.tolist() == pytest.approx([100.0, 4.0], rel=0.2)
    assert torch.equal(value, log_likelihood(torch.zeros(1, 4000, 2), check, precision))


def test_the_error_is_that_of_the_members_mean_in_own_units() -> None:
    outputs = torch.tensor([[[1.0], [0.0]], [[3.0], [0.0]]])
    check = Rows(torch.zeros(2, 1, 1), torch.tensor([[0.0], [1.0]]), torch.tensor([10.0]))
    assert score_of(outputs, check, torch.ones(1)).rmse.tolist() == pytest.approx([10.0 * np.sqrt(2.5)])


def test_networks_side_by_side_learn_what_each_would_learn_alone() -> None:
    torch.manual_seed(0)
    together = NetworksSideBySide(3, 4, 5)
    alone = [together.alone(number) for number in range(3)]
    x, y = torch.randn(16, 3, 4), torch.randn(16, 3)
    for number, network in enumerate(alone):
        assert torch.allclose(together(x)[:, number], network(x[:, number])[:, 0], atol=1e-6)

    def learn(network: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
        optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
        for _ in range(20):
            optimiser.zero_grad()
            (network(x) - y).square().sum(-1).mean().backward()
            optimiser.step()

    before = copy.deepcopy(together)
    learn(together, x, y)
    for number, network in enumerate(alone):
        learn(network, x[:, number], y[:, number, None])
        learned = together(x)[:, number]
        assert torch.allclose(learned, network(x[:, number])[:, 0], atol=1e-5)
        assert (learned - before(x)[:, number]).abs().max() > 0.05


def test_networks_with_their_noise_are_as_many_linear_networks_and_say_one_noise_each() -> None:
    torch.manual_seed(0)
    together = NoisyNetworksSideBySide(3, 4, 5)
    with torch.no_grad():
        together.log_noise.copy_(torch.tensor([-0.5, 0.0, 1.0]))
    x = torch.randn(16, 3, 4)
    answers = together(x)
    assert torch.equal(answers[:, 3:], torch.tensor([-1.0, 0.0, 2.0]).expand(16, 3))
    for number in range(3):
        hidden, output = (layer.weight[..., 0].chunk(3)[number] for layer in (together.hidden, together.output))
        bias, last = together.hidden.bias.chunk(3)[number], together.output.bias[number]
        own = torch.relu(x[:, number] @ hidden.T + bias) @ output.T + last
        torch.testing.assert_close(answers[:, number], own[:, 0])
    answers[:, 1].sum().backward()
    assert together.hidden.weight.grad.chunk(3)[1].abs().sum() > 0.0
    assert together.hidden.weight.grad.chunk(3)[0].abs().sum() == 0.0


def test_mean_field_side_by_side_learns_step_for_step_what_each_split_would_learn_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Weights, their standard deviations and the noise of the targets, when both draw the same."""
    monkeypatch.setattr(linear_map, "standard_normal", lambda shape, like, generator: torch.ones(shape))
    torch.manual_seed(0)
    splits = NoisyNetworksSideBySide(3, 4, 5)
    optimiser = Optimiser(learning_rate=1e-2, decay=0.99)

    def trainee(network: torch.nn.Module, likelihood: Likelihood, layers: Layers) -> mean_field.MeanFieldTrainee:
        config = mean_field.Config(layers=layers, optimiser=optimiser)
        return mean_field.build(network, likelihood, config, n_data=32, generator=torch.Generator())

    def alone(number: int) -> torch.nn.Module:
        own = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 1))
        for plain, layer in ((own[0], splits.hidden), (own[2], splits.output)):
            plain.weight = torch.nn.Parameter(layer.weight[..., 0].detach().chunk(3)[number].clone())
            plain.bias = torch.nn.Parameter(layer.bias.detach().chunk(3)[number].clone())
        return own

    together = trainee(splits, HeteroscedasticGaussian(), NoisyNetworksSideBySide.LAYERS)
    apart = [trainee(alone(number), Gaussian(1.0, learned=True), "all") for number in range(3)]
    x = torch.randn(32, 3, 4)
    y = x[..., 0] + torch.tensor([0.01, 0.1, 1.0]) * torch.randn(32, 3)
    for step in range(150):
        rows = slice(16 * (step % 2), 16 * (step % 2) + 16)
        losses = [own.step(x[rows, number], y[rows, number, None]) for number, own in enumerate(apart)]
        assert together.step(x[rows], y[rows]) == pytest.approx(sum(losses), rel=1e-3, abs=1e-3)
        if step % 2:
            for each in (together, *apart):
                each.end_epoch(step // 2)
    learned = together.posterior([]).network.log_noise.detach()
    assert learned.tolist() == pytest.approx([own.likelihood.log_noise.item() for own in apart], abs=2e-3)
    assert (learned < -0.3).any()
    sigma = together.posterior([]).sigmas["hidden.weight"][..., 0].chunk(3)
    for number, own in enumerate(apart):
        torch.testing.assert_close(sigma[number], own.posterior([]).sigmas["0.weight"], rtol=1e-2, atol=1e-3)


def test_a_short_run_beats_the_constant_and_names_every_set_and_method(tmp_path: Path) -> None:
    data = a_set()
    config = UciConfig(sets=("yacht",), splits=2, shorten=20, members=20)
    figures = UciStudy(config, write_set(tmp_path, data)).record(tmp_path / "out")
    assert [figure.what for figure in figures] == [
        f"yacht, {method}, {what}" for method in CHOICES for what in ("RMSE", "log-likelihood")
    ]
    assert all(len(figure.values) == 2 and figure.published is not None for figure in figures)
    # The best possible error is that of the noise, 0.5; always giving the mean has 5.8.
    assert all(0.3 < figure.mean < 2.0 for figure in figures if figure.what.endswith("RMSE"))
    assert (tmp_path / "out" / "uci.png").stat().st_size > 1_000


def test_the_same_seed_gives_the_same_scores() -> None:
    config = UciConfig(sets=("yacht",), methods=("dropout",), splits=2, shorten=100, members=5)
    study = UciStudy(config)
    first, again, other = (study.score(a_set(), "dropout", seed) for seed in (3, 3, 4))
    assert torch.equal(first.rmse, again.rmse)
    assert not torch.equal(first.rmse, other.rmse)


def test_the_tables_speak_of_all_sets_and_wrong_names_and_missing_splits_are_refused(tmp_path: Path) -> None:
    for published in PUBLISHED.values():
        assert TRAINING.keys() == published.rmse.keys() == published.log_likelihood.keys()
    assert PUBLISHED.keys() == CHOICES.keys()
    with pytest.raises(InputError, match="there is no naval"):
        UciConfig(sets=("naval",))
    with pytest.raises(InputError, match="at least 1"):
        UciConfig(splits=0)
    study = open_study("uci", quick=True, data=write_set(tmp_path, a_set(splits=1)))
    with pytest.raises(InputError, match="has 1 splits of yacht, expected 2"):
        study.record(tmp_path / "out")
