"""Saliency: closed forms where the model is linear, the runtime's own decomposition, finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.evaluation.scores import decompose_classes
from edge_bdl_train.methods.ensemble import EnsemblePosterior
from edge_bdl_train.methods.mean_field import MeanFieldPosterior
from edge_bdl_train.saliency import mutual_information, predictive_entropy, saliency, variance

SIGMAS = torch.tensor([0.1, 0.5, 2.0, 0.0], dtype=torch.float64)


def line() -> MeanFieldPosterior:
    """f(x) = w x with independent Gaussian weights."""
    network = nn.Linear(4, 1, bias=False).double()
    return MeanFieldPosterior(network, {"weights": ["weight"]}, {"weight": SIGMAS[None]})


def classifiers(count: int) -> EnsemblePosterior:
    generator = torch.Generator().manual_seed(5)
    members = [{"weight": torch.randn(3, 4, generator=generator, dtype=torch.float64)} for _ in range(count)]
    return EnsemblePosterior(nn.Linear(4, 3, bias=False).double(), {}, members)


def inputs(count: int) -> Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def test_on_a_linear_model_it_is_twice_the_members_covariance_times_the_input() -> None:
    members = line().sample(torch.Generator().manual_seed(0), 6)
    x = inputs(3)
    covariance = torch.cov(torch.cat([member["weight"] for member in members]).T)
    torch.testing.assert_close(saliency(line(), members, x, variance), 2.0 * x @ covariance)


def test_with_many_members_it_is_that_of_the_exact_posterior() -> None:
    # Var[w x] = sum_i sigma_i^2 x_i^2, whose gradient is 2 sigma_i^2 x_i.
    count, x = 4_000, inputs(3)
    found = saliency(line(), line().sample(torch.Generator().manual_seed(0), count), x, variance)
    # An entry (i, j) of a Gaussian sample covariance has the variance sigma_i^2 sigma_j^2 (1 + [i = j]) / (S - 1).
    spread = SIGMAS * ((1.0 + torch.eye(4)) * SIGMAS**2 @ (x**2).T).T.sqrt() * 2.0 / (count - 1) ** 0.5
    assert ((found - 2.0 * SIGMAS**2 * x).abs() <= 5.0 * spread + 1e-12).all()
    # A weight that is known causes no doubt, however large its input.
    assert (found[:, 3].abs() <= 1e-12).all()


def test_the_scores_are_those_of_the_runtime() -> None:
    logits = 2.0 * torch.randn(5, 8, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    parts = decompose_classes(torch.softmax(logits, -1), unbiased=False)
    torch.testing.assert_close(predictive_entropy(logits), torch.from_numpy(parts.total))
    torch.testing.assert_close(mutual_information(logits), torch.from_numpy(parts.epistemic))
    torch.testing.assert_close(variance(logits[..., :1]), logits[..., 0].var(0))


@pytest.mark.parametrize("score", [mutual_information, predictive_entropy, variance])
def test_it_is_the_slope_of_the_score(score) -> None:
    posterior = classifiers(4)
    members = posterior.sample(torch.Generator().manual_seed(0), 4)
    x, step = inputs(2), 1e-6

    def value(at: Tensor) -> Tensor:
        return score(torch.stack([posterior.run(at, member) for member in members]))

    slopes = [
        (value(x + step * direction) - value(x - step * direction)) / (2.0 * step)
        for direction in torch.eye(4, dtype=torch.float64)
    ]
    torch.testing.assert_close(saliency(posterior, members, x, score), torch.stack(slopes, 1), atol=1e-8, rtol=1e-6)


def test_members_that_agree_leave_no_doubt_to_point_at() -> None:
    member = {"weight": torch.ones(3, 4, dtype=torch.float64)}
    posterior = EnsemblePosterior(nn.Linear(4, 3, bias=False).double(), {}, [member, member])
    found = saliency(posterior, posterior.sample(torch.Generator().manual_seed(0), 2), inputs(3), mutual_information)
    torch.testing.assert_close(found, torch.zeros(3, 4, dtype=torch.float64), atol=1e-15, rtol=0.0)


def test_saturated_members_give_finite_doubt_and_slopes() -> None:
    posterior = classifiers(2)
    members = [{"weight": 1e4 * member["weight"]} for member in posterior.sample(torch.Generator().manual_seed(0), 2)]
    found = saliency(posterior, members, inputs(3), mutual_information)
    assert torch.isfinite(found).all()


def test_a_single_member_is_refused() -> None:
    posterior = classifiers(1)
    with pytest.raises(InputError, match="at least 2 members, got 1"):
        saliency(posterior, posterior.sample(torch.Generator(), 1), inputs(1), mutual_information)
