"""Masksembles: the masks' shares and overlap, and that a member's weights are a mask on its inputs."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.fit import fit
from edge_bdl_train.likelihoods.gaussian import Gaussian
from edge_bdl_train.methods import masksembles
from edge_bdl_train.optimiser import Optimiser


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("features", "members", "scale"), [(64, 4, 2.0), (100, 8, 3.0), (10, 2, 1.5), (7, 3, 1.0)])
def test_masks_have_as_many_ones_each_and_together_use_every_feature(features: int, members: int, scale: float) -> None:
    masks = masksembles.draw_masks(features, members, scale, seeded(0))
    assert masks.shape == (members, features)
    assert set(masks.unique().tolist()) <= {0.0, 1.0}
    assert len(masks.sum(1).unique()) == 1
    assert masks.any(0).all()


def test_the_scale_sets_how_much_two_masks_overlap() -> None:
    # Two masks of m ones among m s places share m / s of them: their overlap is 1 / s.
    for scale in (1.0, 2.0, 4.0):
        masks = masksembles.draw_masks(400, 4, scale, seeded(0))
        ones = float(masks[0].sum())
        shared = [float((first * second).sum()) / ones for first, second in itertools.combinations(masks, 2)]
        assert sum(shared) / len(shared) == pytest.approx(1.0 / scale, abs=0.06)


def test_masks_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="take fewer members, or a wider layer"):
        masksembles.draw_masks(1, 4, 4.0, seeded(0))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 8, 3)
        self.grouped = nn.Conv2d(8, 6, 3, padding=1, groups=2)
        self.last = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.grouped(torch.relu(self.first(x)))).mean((2, 3)))


X = torch.randn(24, 2, 6, 6, generator=seeded(1))
Y = X.mean((1, 2, 3))[:, None]
CONFIG = masksembles.Config(layers=["grouped", "last"], members=3, optimiser=Optimiser(learning_rate=1e-2))


def build(config: masksembles.Config = CONFIG) -> masksembles.MasksemblesTrainee:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Net()
    return masksembles.build(network, Gaussian(noise=1.0), config, n_data=24, generator=seeded(2))


def under_mask(network: nn.Module, masks: dict[str, Tensor], number: int, x: Tensor) -> Tensor:
    """The network with its layers' inputs, not their weights, masked."""
    handles = []
    for name, mask in masks.items():
        own = mask[number]

        def hook(module: nn.Module, inputs: tuple[Tensor, ...], own: Tensor = own) -> tuple[Tensor]:
            return (inputs[0] * own.reshape(1, -1, *(1 for _ in inputs[0].shape[2:])),)

        handles.append(network.get_submodule(name).register_forward_pre_hook(hook))
    output = network(x)
    for handle in handles:
        handle.remove()
    return output


def test_a_members_weights_are_a_mask_on_what_its_layers_read() -> None:
    posterior = fit(build(), (X, Y), epochs=2, batch_size=12, generator=seeded(3))
    expected = [under_mask(posterior.network, posterior.masks, i, X) for i in range(3)]
    outputs = posterior.predict(X, 3, seeded(4))
    order = torch.randperm(3, generator=seeded(4)).tolist()
    for output, number in zip(outputs, order, strict=True):
        assert torch.allclose(output, expected[number], atol=1e-6)
    assert not torch.allclose(expected[0], expected[1], atol=1e-3)


@pytest.mark.parametrize("rows", [24, 7, 2])
def test_the_loss_shows_each_row_to_one_member(rows: int) -> None:
    trainee = build()
    losses = [
        -Gaussian(1.0).log_prob(under_mask(trainee.network, trainee._masks, i % 3, X[i : i + 1]), Y[i : i + 1])
        for i in range(rows)
    ]
    loss = trainee.loss(X[:rows], Y[:rows])
    assert float(loss.detach()) == pytest.approx(float(torch.cat(losses).mean().detach()), rel=1e-5)


def test_training_lowers_the_loss() -> None:
    trainee = build()
    before = float(trainee.loss(X, Y).detach())
    fit(trainee, (X, Y), epochs=30, batch_size=12, generator=seeded(3))
    assert float(trainee.loss(X, Y).detach()) < before - 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": "last"}, "names of one or more layers, got 'last'"),
        ({"layers": []}, "names of one or more layers"),
        ({"members": 1}, "members must be at least 2"),
        ({"scale": 0.5}, "scale at least 1"),
        ({"layers": ["nothing"]}, "layer 'nothing' is no linear or convolutional layer of Net"),
    ],
)
def test_what_makes_no_sense_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(masksembles.Config(**{"layers": ["last"], **change}))
