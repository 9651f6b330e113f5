"""The feature density: an exact Gaussian, the bundle's own score, and where in a network the features are taken."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.evaluation.density import FeatureDensity, features_of


def known(count: int = 500, width: int = 6, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=generator) @ torch.randn(width, width, generator=generator) + 3.0


def test_with_all_directions_it_is_the_mahalanobis_distance() -> None:
    features = known()
    others = known(20, seed=1) * 2.0
    centred = (others - features.mean(0)).double().numpy()
    precision = np.linalg.inv(np.cov(features.double().numpy(), rowvar=False))
    expected = np.einsum("ni,ij,nj->n", centred, precision, centred) / 6
    np.testing.assert_allclose(FeatureDensity(features)(others).numpy(), expected, rtol=1e-4)


def test_known_examples_score_one_on_average() -> None:
    features = known()
    # Over the very examples it was fitted to: (n - 1) / n.
    assert float(FeatureDensity(features)(features).mean()) == pytest.approx(499 / 500, rel=1e-4)


@pytest.mark.parametrize("width", [6, 60])
def test_it_is_the_score_that_a_bundle_ships_with(width: int) -> None:
    shipped = pytest.importorskip("edge_bdl_export.density")
    features, others = known(width=width), known(15, width, seed=2) * 1.5
    bundle = shipped.FeatureDensity(features)
    theirs = torch.cat([bundle(row[None]) for row in others])
    np.testing.assert_allclose(FeatureDensity(features)(others).numpy(), theirs.numpy(), rtol=1e-4)


def test_a_direction_without_variance_is_not_infinitely_strict() -> None:
    features = known()
    features[:, 2] = 1.0
    moved = features[:1].clone()
    moved[0, 2] = 2.0
    assert torch.isfinite(FeatureDensity(features)(moved)).all()


class Net(nn.Module):
    def __init__(self, dropout: bool) -> None:
        super().__init__()
        self.convolve = nn.Conv2d(1, 3, 2)
        self.dropout = nn.Dropout2d(0.5) if dropout else nn.Identity()
        self.hidden, self.out = nn.Linear(3 * 9, 5), nn.Linear(5, 2)
        self.late = nn.Dropout(0.5) if dropout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.late(self.hidden(self.dropout(self.convolve(x)).flatten(1)).relu()))


def test_features_are_what_enters_the_first_dropout_pooled_over_places() -> None:
    net, inputs = Net(dropout=True), torch.randn(1003, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    features = features_of(net.train(), inputs)
    assert features is not None
    torch.testing.assert_close(features, net.convolve(inputs).mean((2, 3)).detach())
    assert net.training
    assert not net.dropout._forward_pre_hooks


def test_without_dropout_they_are_what_enters_the_last_layer() -> None:
    net, inputs = Net(dropout=False).eval(), torch.randn(7, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    features = features_of(net, inputs)
    assert features is not None
    torch.testing.assert_close(features, net.hidden(net.convolve(inputs).flatten(1)).relu().detach())
    assert features_of(nn.Conv2d(1, 3, 2), inputs) is None


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.zeros(49, 2), "at least 50 known examples, got 49"),
        (torch.ones(60, 2), "the same"),
        (torch.full((60, 2), math.nan), "features are not finite"),
        (torch.zeros(60), r"must be \[N, F\]"),
    ],
)
def test_features_that_tell_nothing_are_refused(features: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        FeatureDensity(features)


def test_features_of_another_network_are_refused() -> None:
    with pytest.raises(InputError, match="5 features, the known examples have 6"):
        FeatureDensity(known())(torch.zeros(3, 5))
