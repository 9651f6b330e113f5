"""The training loop: order of the data, parts one after the other, and data that do not fit."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.fit import Batches, Data, Trainee, fit, steps_of
from edge_bdl_train.likelihoods.categorical import Categorical
from edge_bdl_train.likelihoods.gaussian import Gaussian
from edge_bdl_train.methods import ensemble, point
from edge_bdl_train.optimiser import Optimiser
from edge_bdl_train.posterior import Posterior
from edge_bdl_train.priors.gaussian import Gaussian as GaussianPrior

X = torch.arange(10.0)[:, None]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Recorder(Trainee):
    """Writes down what it is told."""

    def __init__(self, loss: float = 0.0, parts: Sequence[Trainee] | None = None) -> None:
        self.loss, self._parts = loss, parts
        self.told: list[Any] = []

    @property
    def parts(self) -> Sequence[Trainee]:
        return super().parts if self._parts is None else self._parts

    def step(self, x: Tensor, y: Tensor) -> float:
        assert torch.equal(x, y)
        self.told.append(x[:, 0].int().tolist())
        return self.loss

    def end_epoch(self, epoch: int) -> None:
        self.told.append(f"end {epoch}")

    def posterior(self, batches: Iterable[Data]) -> Posterior:
        self.told.append([x[:, 0].int().tolist() for x, _ in batches])
        self.told.append([x[:, 0].int().tolist() for x, _ in batches])
        return None  # type: ignore[return-value]


def test_each_epoch_sees_every_row_once_in_an_order_of_its_own_and_the_posterior_sees_them_in_theirs() -> None:
    trainee, steps = Recorder(), []
    fit(trainee, (X, X), epochs=2, batch_size=4, generator=seeded(0), advance=lambda: steps.append(1))
    epochs = [list(itertools.chain(*trainee.told[start : start + 3])) for start in (0, 4)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 2
    assert epochs[0] != epochs[1]
    assert [len(batch) for batch in trainee.told[0:3]] == [4, 4, 2]
    assert (trainee.told[3], trainee.told[7]) == ("end 0", "end 1")
    # As often as it is asked for.
    assert trainee.told[8] == trainee.told[9] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(steps) == steps_of(trainee, 10, epochs=2, batch_size=4) == 6


def test_parts_are_trained_one_after_the_other_each_with_its_own_order() -> None:
    parts = [Recorder(), Recorder(), Recorder()]
    whole = Recorder(parts=parts)
    fit(whole, (X, X), epochs=1, batch_size=10, generator=seeded(0))
    orders = [part.told[0] for part in parts]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert whole.told == [[[list(range(10))][0]]] * 2
    assert steps_of(whole, 10, epochs=1, batch_size=10) == 3


def test_the_same_seed_gives_the_same_order() -> None:
    first, second, third = (Recorder() for _ in range(3))
    for trainee, seed in ((first, 1), (second, 1), (third, 2)):
        fit(trainee, (X, X), epochs=3, batch_size=3, generator=seeded(seed))
    assert first.told == second.told != third.told


@pytest.mark.parametrize(
    ("data", "epochs", "batch_size", "message"),
    [
        ((X, X[:9]), 1, 2, "as many targets as inputs, at least one; got 10 and 9"),
        ((X[:0], X[:0]), 1, 2, "at least one; got 0 and 0"),
        ((X, X), -1, 2, "epochs must be at least 0, got -1"),
        ((X, X), 1, 0, "batch_size must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(data: Data, epochs: int, batch_size: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit(Recorder(), data, epochs=epochs, batch_size=batch_size, generator=seeded(0))


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_training(loss: float) -> None:
    with pytest.raises(InputError, match="diverged in epoch 0"):
        fit(Recorder(loss), (X, X), epochs=1, batch_size=2, generator=seeded(0))


def test_a_row_left_alone_is_refused_where_a_batch_norm_needs_several() -> None:
    normed = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1))
    with pytest.raises(InputError, match=r"a minibatch has one row.*leaves more than one of 10 rows"):
        fit(trainee_of(normed), (X, X), epochs=1, batch_size=3, generator=seeded(0))
    fit(trainee_of(nn.Linear(1, 1)), (X, X), epochs=1, batch_size=3, generator=seeded(0))


def test_ordered_batches_can_be_counted() -> None:
    assert len(Batches((X, X), 4)) == 3


# --- gradient steps ---------------------------------------------------------------------------------------------------


def trainee_of(network: nn.Module, **optimiser: Any) -> point.PointTrainee:
    config = point.Config(optimiser=Optimiser(kind="sgd", **optimiser))
    return point.build(network, Gaussian(noise=1.0), config, n_data=10, generator=seeded(0))


def test_the_learning_rate_falls_by_its_factor_every_epoch() -> None:
    trainee = trainee_of(nn.Linear(1, 1), learning_rate=0.1, decay=0.5)
    rates = []
    for epoch in range(3):
        trainee.step(X, X)
        rates.append(trainee._optimiser.param_groups[0]["lr"])
        trainee.end_epoch(epoch)
    assert rates == pytest.approx([0.1, 0.05, 0.025])


def test_a_gradient_is_clipped_to_its_norm() -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    trainee = trainee_of(network, learning_rate=1.0, clip_norm=0.25)
    trainee.step(X, X)
    assert float(trainee.network.weight.detach()) == pytest.approx(0.25)


def test_the_loss_of_a_step_is_the_mean_negative_log_likelihood_in_nats() -> None:
    network = nn.Linear(1, 1)
    expected = -torch.distributions.Normal(network(X), 1.0).log_prob(X).mean()
    assert trainee_of(network, learning_rate=0.1).step(X, X) == pytest.approx(float(expected.detach()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "rprop"}, "optimiser is 'adam' or 'sgd', got 'rprop'"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"decay": 1.5}, r"decay in \(0, 1\]"),
        ({"momentum": 0.9}, "adam has its own momentum"),
        ({"kind": "sgd", "momentum": 1.0}, r"momentum in \[0, 1\)"),
        ({"clip_norm": 0.0}, "clip_norm must be above 0"),
    ],
)
def test_an_optimiser_that_makes_no_sense_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Optimiser(**arguments)


def test_an_empty_data_set_is_refused_when_a_method_is_built() -> None:
    with pytest.raises(InputError, match="n_data, the training set's size, must be at least 1, got 0"):
        point.build(nn.Linear(1, 2), Categorical(2), point.Config(), n_data=0, generator=seeded(0))


def test_a_network_of_which_nothing_can_be_learned_is_refused() -> None:
    frozen = nn.Linear(1, 1).requires_grad_(False)
    with pytest.raises(InputError, match="none of its parameters takes gradients"):
        point.build(frozen, Gaussian(1.0), point.Config(), n_data=1, generator=seeded(0))


def test_the_prior_counts_once_for_as_many_examples_as_there_are_by_now() -> None:
    prior, likelihood = GaussianPrior(1.0), Gaussian(1.0)
    trainees = [
        point.build(nn.Linear(1, 1), likelihood, point.Config(prior=prior), n_data=1, generator=seeded(0)),
        ensemble.build(
            nn.Linear(1, 1), likelihood, ensemble.Config(prior=prior, members=3), n_data=1, generator=seeded(0)
        ),
    ]
    for trainee in trainees:
        assert trainee.n_data == 1
        trainee.n_data = 10
        for part in trainee.parts:
            assert isinstance(part, point.PointTrainee)
            data_term = likelihood.loss(part.network(X), X).mean()
            torch.testing.assert_close(part.loss(X, X), data_term + part.penalty() / 10.0)
