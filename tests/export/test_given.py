"""What is handed over: a network stays one, and each kind of posterior becomes what its form takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from edge_bdl.errors import ExportError, InputError
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


def test_a_network_and_its_members_stay_what_they_are() -> None:
    model, members = network(), [network().state_dict()]
    given = take_apart(model, members, 16, 0)
    assert given.model is model
    assert given.members is members
    assert given.head is None


def test_a_dropout_posterior_is_its_network_and_a_gaussian_head_is_itself() -> None:
    dropout = DropoutPosterior(network(), {"masks": {"1#0": [1, 4]}})
    given = take_apart(dropout, None, 16, 0)
    assert given.model is dropout.network
    assert given.members is None
    head = LaplacePosterior(network(), {"layer": "2"}, torch.rand(2, 5, dtype=torch.float64))
    copied = take_apart(head, None, 16, 0).head
    assert copied is not None
    assert copied.settings == head.settings
    assert torch.equal(copied.covariance, head.covariance)
    assert torch.equal(copied.network[2].weight, head.network[2].weight)
    head.covariance = torch.full((2, 5), torch.nan, dtype=torch.float64)
    with pytest.raises(InputError, match="covariance is not finite"):
        take_apart(head, None, 16, 0)


@pytest.mark.parametrize(("size", "samples", "expected"), [(5, 16, 5), (5, 3, 3)])
def test_a_bank_gives_as_many_different_members_as_asked_for_and_there_are(
    size: int, samples: int, expected: int
) -> None:
    members = take_apart(ensemble(size), None, samples, 0).members
    assert members is not None
    assert len({float(member["2.weight"].sum()) for member in members}) == expected


def test_the_seed_draws_the_members_of_a_mean_field() -> None:
    plain = network()
    posterior = MeanFieldPosterior(plain, {}, {"2.weight": torch.full((2, 4), 0.1)})

    def drawn(seed: int) -> Any:
        members = take_apart(posterior, None, 4, seed).members
        assert members is not None
        return torch.stack([member["2.weight"] for member in members])

    assert len(drawn(1)) == 4
    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_members_beside_a_posterior_and_a_posterior_of_one_are_refused() -> None:
    with pytest.raises(ExportError, match="draws its own members"):
        take_apart(ensemble(3), [network().state_dict()], 16, 0)
    with pytest.raises(ExportError, match="of 1 member knows nothing"):
        take_apart(ensemble(1), None, 16, 0)
