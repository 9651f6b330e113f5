"""Dropout as masks: what the manifest says of each call site, and torch's own answer for given masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from edge_bdl_export.forms import mask_bank


class Mixed(nn.Module):
    """Three kinds of dropout, one called twice, one of rate 0, one in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.channels = nn.Dropout2d(0.25)
        self.alpha = nn.AlphaDropout(0.1)
        self.off = nn.Dropout(0.0)
        self.last = nn.Sequential(nn.Dropout(0.5, inplace=True), nn.Linear(16, 2))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.channels(torch.selu(self.channels(self.conv(x))))
        return self.last(self.off(self.alpha(hidden.flatten(1))))


def test_each_call_site_is_one_described_input(networks: Callable[..., Any]):
    _, posterior = networks(Mixed().eval(), (torch.rand(1, 1, 4, 4),))
    told = [(i.name, i.source, i.call, i.kind, i.shape, i.rate) for i in posterior.inputs]
    assert told == [
        ("mask_0", "channels", 0, "Dropout2d", (1, 4, 1, 1), 0.25),
        ("mask_1", "channels", 1, "Dropout2d", (1, 4, 1, 1), 0.25),
        ("mask_2", "alpha", 0, "AlphaDropout", (1, 16), 0.1),
        ("mask_3", "last.0", 0, "Dropout", (1, 16), 0.5),
    ]
    scales = [item.scale for item in posterior.inputs]
    assert scales[2:] == [1.0, 2.0]
    assert abs(scales[0] - 4.0 / 3.0) < 1e-7
    assert posterior.form == "mask_bank"
    assert posterior.weights is None


def test_each_call_gets_its_own_mask_in_order(networks: Callable[..., Any]):
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 3, bias=False)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(3))
    model.add_module("2", model[0])
    x = torch.ones(1, 3)
    _, posterior = networks(model, (x,))
    first, second = torch.tensor([[2.0, 0.0, 2.0]]), torch.tensor([[2.0, 2.0, 0.0]])
    answer = posterior.reference((x,), {"mask_0": first, "mask_1": second})
    assert torch.equal(answer, first * second)


def test_all_kept_without_scale_is_the_deterministic_model(networks: Callable[..., Any]):
    torch.manual_seed(0)
    model, x = Mixed().eval(), torch.rand(1, 1, 4, 4)
    network, _ = networks(model, (x,))
    # Alpha dropout that keeps everything still applies its gain, which belongs to the draw.
    torch.testing.assert_close(network.parts.deterministic(x), model(x), rtol=1e-5, atol=1e-6)


def test_the_sampler_draws_only_what_is_not_held(networks: Callable[..., Any]):
    model = Mixed().eval()
    sampler = mask_bank.own_dropout(model, ["channels", "last"])
    training = {name for name, module in sampler.named_modules() if module.training}
    assert training == {"alpha"}
    assert not any(module.training for module in model.modules())


def test_the_sampler_s_moments_are_those_of_the_masked_network(networks: Callable[..., Any]):
    torch.manual_seed(1)
    model, x, draws = Mixed().eval(), torch.rand(1, 1, 4, 4), 4000
    network, posterior = networks(model, (x,))
    masks = [(torch.rand(draws, *i.shape) >= i.rate) * torch.tensor(i.scale) for i in posterior.inputs]
    ours = network.members(network.boundary, masks).double()
    with torch.no_grad():
        theirs = torch.stack([posterior.sampler(x) for _ in range(draws)]).double()
    error = ((ours.var(0) + theirs.var(0)) / draws).sqrt()
    assert ((ours.mean(0) - theirs.mean(0)).abs() / error).max() < 5.0
    assert (ours.std(0) / theirs.std(0) - 1.0).abs().max() < 0.1
