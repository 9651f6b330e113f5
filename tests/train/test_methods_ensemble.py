"""Ensembles: members that share neither weights nor order of the data."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from edge_bdl.errors import InputError
from edge_bdl_train.fit import fit
from edge_bdl_train.initialise import reinitialised
from edge_bdl_train.likelihoods.gaussian import Gaussian
from edge_bdl_train.methods import ensemble, point
from edge_bdl_train.optimiser import Optimiser

X = torch.randn(32, 3, generator=torch.Generator().manual_seed(7))
Y = X.sum(1, keepdim=True)
CONFIG = ensemble.Config(members=3, optimiser=Optimiser(learning_rate=1e-2))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))


def build(config: ensemble.Config = CONFIG, likelihood: Gaussian | None = None) -> ensemble.EnsembleTrainee:
    return ensemble.build(network(), likelihood or Gaussian(noise=1.0), config, n_data=32, generator=seeded(0))


def test_members_start_apart_and_share_no_memory() -> None:
    networks = [part.network for part in build().parts]  # type: ignore[attr-defined]
    for first, second in itertools.combinations(networks, 2):
        assert not torch.equal(first[0].weight, second[0].weight)
    pointers = [parameter.data_ptr() for network in networks for parameter in network.parameters()]
    assert len(set(pointers)) == len(pointers)


@pytest.mark.parametrize("learned", [False, True])
def test_a_member_is_what_it_would_be_alone(learned: bool) -> None:
    # The last part, trained by itself with its own share of the generator, comes out the same to the bit.
    trainee = build(likelihood=Gaussian(1.0, learned=learned))
    generator = seeded(1)
    posterior = fit(trainee, (X, Y), epochs=2, batch_size=8, generator=generator)
    again, generator = build(likelihood=Gaussian(1.0, learned=learned)), seeded(1)
    for _ in range(4):  # the orders of the first two parts' epochs
        torch.randperm(32, generator=generator)
    for part in again.parts[:2]:
        for _ in range(8):  # what each of their steps draws
            torch.randint(2**62, (), generator=part._generator)  # type: ignore[attr-defined]
    alone = fit(again.parts[2], (X, Y), epochs=2, batch_size=8, generator=generator)
    members = posterior.state_dict()
    for name, tensor in alone.network.state_dict().items():
        assert torch.equal(members[f"members.{name}"][2], tensor)


def test_noises_that_members_learned_apart_are_kept_as_the_mean_of_their_variances() -> None:
    likelihood = Gaussian(1.0, learned=True)
    trainee = build(likelihood=likelihood)
    posterior = fit(trainee, (X, Y), epochs=2, batch_size=8, generator=seeded(1))
    noises = [float(part.likelihood.noise.detach()) for part in trainee.parts]
    assert len({1.0, *noises}) == 4
    expected = (sum(noise**2 for noise in noises) / 3) ** 0.5
    assert float(likelihood.noise.detach()) == pytest.approx(expected)
    assert posterior.settings["likelihood"] == {"class": "Gaussian", "noise": pytest.approx(expected)}
    # One that was given stays to the bit.
    given = Gaussian(0.1)
    before = given.log_noise.clone()
    fit(build(likelihood=given), (X, Y), epochs=1, batch_size=8, generator=seeded(1))
    assert torch.equal(given.log_noise, before)


def test_a_step_trains_every_member_for_who_has_a_loop_of_their_own() -> None:
    trainee = build()
    before = [part.network[0].weight.detach().clone() for part in trainee.parts]  # type: ignore[attr-defined]
    loss = trainee.step(X, Y)
    trainee.end_epoch(0)
    singles = [part.step(X, Y) for part in build().parts]
    assert loss == pytest.approx(sum(singles) / 3)
    for part, weight in zip(trainee.parts, before, strict=True):
        assert not torch.equal(part.network[0].weight, weight)  # type: ignore[attr-defined]


def test_all_members_are_drawn_before_any_is_drawn_twice() -> None:
    posterior = fit(build(), (X, Y), epochs=1, batch_size=8, generator=seeded(1))
    drawn = posterior.sample(seeded(2), 3)
    assert len({float(member["0.weight"][0, 0]) for member in drawn}) == 3
    # And so are their batch statistics.
    assert len({float(member["1.running_mean"][0]) for member in drawn}) == 3
    assert posterior.size == 3


def test_the_first_member_is_the_mean_and_the_network() -> None:
    posterior = fit(build(), (X, Y), epochs=1, batch_size=8, generator=seeded(1))
    assert torch.equal(posterior.mean()["0.weight"], posterior.state_dict()["members.0.weight"][0])
    assert torch.equal(posterior.answer(X, posterior.mean()), posterior.network(X))


def test_one_network_is_no_ensemble() -> None:
    with pytest.raises(InputError, match="at least 2 members, got 1"):
        ensemble.Config(members=1)


class Raw(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(3))


def test_a_module_whose_parameters_cannot_be_drawn_anew_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"the parameters of 1 \(Raw\) cannot be drawn anew"):
        reinitialised(nn.Sequential(nn.Linear(2, 3), Raw()), seeded(0))


def test_drawing_anew_is_torchs_own_initialisation_and_leaves_the_given_network() -> None:
    given = nn.Sequential(nn.Linear(200, 100), nn.MultiheadAttention(100, 2))
    before = given[0].weight.detach().clone()
    drawn = reinitialised(given, seeded(0))
    assert torch.equal(given[0].weight, before)
    assert not torch.equal(drawn[0].weight, before)
    assert not torch.equal(drawn[1].in_proj_weight, given[1].in_proj_weight)
    # Uniform within 1 / sqrt(inputs).
    bound = 200**-0.5
    assert float(drawn[0].weight.detach().abs().max()) <= bound
    assert float(drawn[0].weight.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.02)
    assert torch.equal(reinitialised(given, seeded(0))[0].weight, drawn[0].weight)


def test_members_are_as_in_a_point_estimate() -> None:
    single = point.build(
        reinitialised(network(), seeded(0)), Gaussian(noise=1.0), point.Config(), n_data=32, generator=seeded(0)
    )
    assert type(build().parts[0]) is type(single)
