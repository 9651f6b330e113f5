"""A variational embedding: a word means the same everywhere in a draw, and padding means nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from edge_bdl_train.layers.embedding import VariationalEmbedding
from edge_bdl_train.priors.base import Prior
from edge_bdl_train.priors.gaussian import Gaussian
from edge_bdl_train.priors.mixture import ScaleMixture


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(prior: Prior, **options: int) -> VariationalEmbedding:
    layer = nn.Embedding(6, 4, **options).double()
    twin = VariationalEmbedding.from_deterministic(layer, prior, 0.3, generator=seeded(0))
    assert isinstance(twin, VariationalEmbedding)
    return twin


def test_a_word_is_the_same_wherever_it_stands_and_another_in_the_next_draw() -> None:
    twin = made(Gaussian())
    words = torch.tensor([[3, 1, 3], [2, 3, 0]])
    drawn = twin(words)
    assert torch.equal(drawn[0, 0], drawn[0, 2])
    assert torch.equal(drawn[0, 0], drawn[1, 1])
    assert not torch.equal(drawn, twin(words))


@pytest.mark.parametrize("padding", [0, 5, -1])
def test_padding_is_never_drawn_and_not_in_the_kl(padding: int) -> None:
    twin = made(Gaussian(0.8), padding_idx=padding)
    row = padding % 6
    assert torch.equal(twin(torch.tensor([row])), torch.zeros(1, 4, dtype=torch.float64))
    others = [index for index in range(6) if index != row]
    expected = kl_divergence(Normal(twin.weight.mean[others], 0.3), Normal(0.0, 0.8)).sum()
    torch.testing.assert_close(twin.kl(), expected)
    (twin(torch.arange(6)).sum() + twin.kl()).backward()
    assert not twin.weight.mean.grad[row].any()
    assert not twin.weight.rho.grad[row].any()
    assert twin.weight.rho.grad[others].all()


def test_padding_leaves_the_other_words_their_own_priors() -> None:
    means = torch.randn(6, 4, generator=seeded(1), dtype=torch.float64)
    twin = made(Gaussian(0.8, means), padding_idx=2)
    others = [0, 1, 3, 4, 5]
    expected = kl_divergence(Normal(twin.weight.mean[others], 0.3), Normal(means[others], 0.8)).sum()
    torch.testing.assert_close(twin.kl(), expected)


def test_a_prior_without_a_closed_form_draws_with_the_layers_generator() -> None:
    twin = made(ScaleMixture(), padding_idx=2)
    first, second = twin.kl(), twin.kl()
    assert first != second
    twin.generator = seeded(0)
    assert twin.kl() == first
