"""What is handed over: a network stays one, and each kind of posterior becomes what its form takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from edge_bdl.errors import ExportError, InputError
from edge_bdl_export.adapters import Adapter, members_of
from edge_bdl_export.given import take_apart
from edge_bdl_train.methods.dropout import DropoutPosterior
from edge_bdl_train.methods.ensemble import EnsemblePosterior
from edge_bdl_train.methods.laplace import LaplacePosterior
from edge_bdl_train.methods.mean_field import MeanFieldPosterior
from edge_bdl_train.posterior import Posterior


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.2), nn.Linear(4, 2))


def ensemble(size: int) -> Posterior:
    return EnsemblePosterior(network(), {}, [network().state_dict() for _ in range(size)])


def mean_field() -> Posterior:
    return MeanFieldPosterior(network(), {}, {"2.weight": torch.full((2, 4), 0.1)})


def test_a_network_and_its_members_stay_what_they_are() -> None:
    model, members = network(), [network().state_dict() for _ in range(3)]
    given = take_apart(model, members, (), 0)
    assert given.model is model
    assert (given.head, given.adapter) == (None, None)
    assert given.draws is not None
    assert given.draws.size == 3
    pool = given.draws.pool(2, 2)
    assert all(torch.equal(pool[i]["2.weight"], members[i]["2.weight"]) for i in range(3))
    assert take_apart(model, None, (), 0).draws is None


def test_a_dropout_posterior_is_its_network_and_a_gaussian_head_is_itself() -> None:
    dropout = DropoutPosterior(network(), {"masks": {"1#0": [1, 4]}})
    given = take_apart(dropout, None, (), 0)
    assert given.model is dropout.network
    assert given.draws is None
    head = LaplacePosterior(network(), {"layer": "2"}, torch.rand(2, 5, dtype=torch.float64))
    copied = take_apart(head, None, (), 0).head
    assert copied is not None
    assert copied.settings == head.settings
    assert torch.equal(copied.covariance, head.covariance)
    assert torch.equal(copied.network[2].weight, head.network[2].weight)
    head.covariance = torch.full((2, 5), torch.nan, dtype=torch.float64)
    with pytest.raises(InputError, match="covariance is not finite"):
        take_apart(head, None, (), 0)


def test_all_members_of_a_bank_can_be_chosen_from_and_the_first_are_those_that_it_draws() -> None:
    posterior = ensemble(5)
    draws = take_apart(posterior, None, (), 0).draws
    assert draws is not None
    pool = draws.pool(3, 3)
    assert len({float(member["2.weight"].sum()) for member in pool}) == draws.size == 5
    first = posterior.sample(torch.Generator().manual_seed(0), 3)
    assert all(torch.equal(pool[i]["2.weight"], first[i]["2.weight"]) for i in range(3))


def test_the_seed_draws_the_members_of_a_mean_field_whose_mean_is_known() -> None:
    posterior = mean_field()

    def drawn(seed: int) -> Any:
        draws = take_apart(posterior, None, (), seed).draws
        assert draws is not None
        assert draws.size is None
        assert draws.mean is not None
        assert torch.equal(draws.mean["2.weight"], posterior.network[2].weight)
        return torch.stack([member["2.weight"] for member in draws.pool(4, 4)])

    assert len(drawn(1)) == 4
    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_the_mean_of_a_bank_is_not_the_one_member_that_stands_for_it() -> None:
    draws = take_apart(ensemble(3), None, (), 0).draws
    assert draws is not None
    assert draws.mean is None


class Jittered(Adapter):
    """Half of its randomness from the generator given, half from the global one."""

    def __init__(self) -> None:
        self.network = network()
        self.notes = ("jittered",)

    def sample(self, generator: torch.Generator, n: int) -> list[dict[str, torch.Tensor]]:
        return [{"2.bias": torch.randn(2, generator=generator) + torch.randn(2)} for _ in range(n)]


def test_an_adapter_draws_as_it_does_by_itself_and_leaves_the_global_generator_alone() -> None:
    adapter = Jittered()
    before = torch.get_rng_state()
    given = take_apart(adapter, None, (), 5)
    assert given.adapter is not None
    assert given.draws is not None
    pool = given.draws.pool(3, 6)
    assert torch.equal(torch.get_rng_state(), before)
    alone = members_of(adapter, 3, seed=5)
    assert all(torch.equal(pool[i]["2.bias"], alone[i]["2.bias"]) for i in range(3))
    assert len({float(member["2.bias"][0]) for member in pool}) == 6


def test_members_beside_a_posterior_and_a_posterior_of_one_are_refused() -> None:
    with pytest.raises(ExportError, match="draws its own members"):
        take_apart(ensemble(3), [network().state_dict()], (), 0)
    with pytest.raises(ExportError, match="of 1 member knows nothing"):
        take_apart(ensemble(1), None, (), 0)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([1, 2], "members is a list of int; give a list of state dicts, or a function"),
        ([{"2.bias": 1.0}], "members is a list of dict; give a list"),
        ({"2.bias": torch.zeros(2)}, "members is a dict of nothing known; give a list"),
        ("weights", "members is a str of str; give a list"),
    ],
)
def test_members_that_are_no_state_dicts_are_refused(members: Any, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        take_apart(network(), members, (), 0)
