"""Trunk and head together are the network: for every layout, residual and layer, member by member."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

from edge_bdl_export.capture import capture
from edge_bdl_export.cut import cut
from edge_bdl_export.forms import mask_bank

MEMBERS = 5
pytestmark = pytest.mark.filterwarnings("ignore:dropout2d:UserWarning")


class Net(nn.Module):
    """Modules by name, and what is computed with them."""

    def __init__(self, compute: Callable[..., Tensor], **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.compute = compute

    def forward(self, x: Tensor, *more: Tensor) -> Tensor:
        return self.compute(self, x, *more)


def lin(a: int, b: int) -> nn.Linear:
    return nn.Linear(a, b)


def trained_norm(norm: nn.Module) -> nn.Module:
    """Statistics and gains unlike those of a new layer."""
    with torch.no_grad():
        for value in (*norm.parameters(), *norm.buffers()):
            if value.is_floating_point():
                value.uniform_(0.5, 1.5)
    return norm


def seq(*modules: nn.Module) -> nn.Module:
    return nn.Sequential(*modules)


def residual(m: Any, x: Tensor) -> Tensor:
    hidden = torch.relu(m.a(x))
    return m.b(hidden + torch.tanh(m.d(hidden)))


def through_a_view(m: Any, x: Tensor) -> Tensor:
    hidden = m.a(x)
    m.d(hidden[:, :4])
    return m.b(hidden)


def attention(m: Any, x: Tensor, need_weights: bool) -> Tensor:
    hidden = m.d(m.a(x))
    return m.b(m.attend(hidden, hidden, hidden, need_weights=need_weights)[0].mean(1))


def causal(m: Any, x: Tensor) -> Tensor:
    heads = m.d(m.a(x)).view(1, 5, 2, 4).transpose(1, 2)
    return m.b(
        functional.scaled_dot_product_attention(heads, heads, heads, is_causal=True).transpose(1, 2).reshape(1, 5, 8)
    )


def under_no_grad(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        hidden = m.a(x)
    return m.b(m.d(hidden))


BATCHED: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...]]] = {
    "plain": (lambda: seq(lin(4, 8), nn.ReLU(), nn.Dropout(0.3), lin(8, 2)), (torch.rand(1, 4),)),
    "nested Sequential": (lambda: seq(seq(seq(lin(4, 8), nn.Dropout(0.3)), nn.Tanh()), lin(8, 2)), (torch.rand(1, 4),)),
    "nothing but dropout": (lambda: nn.Dropout(0.5), (torch.rand(1, 4),)),
    "dropout on the raw input": (lambda: seq(nn.Dropout(0.3), lin(4, 2)), (torch.rand(1, 4),)),
    "in-place dropout on the raw input": (lambda: seq(nn.Dropout(0.3, inplace=True), lin(4, 2)), (torch.rand(1, 4),)),
    "residual across the cut": (
        lambda: Net(residual, a=lin(4, 8), d=nn.Dropout(0.3), b=lin(8, 2)),
        (torch.rand(1, 4),),
    ),
    "residual that sees an in-place dropout": (
        lambda: Net(residual, a=lin(4, 8), d=nn.Dropout(0.3, inplace=True), b=lin(8, 2)),
        (torch.rand(1, 4),),
    ),
    "in-place dropout of a view": (
        lambda: Net(through_a_view, a=lin(4, 8), d=nn.Dropout(0.3, inplace=True), b=lin(8, 2)),
        (torch.rand(1, 4),),
    ),
    "unbatched Dropout1d": (lambda: seq(lin(4, 4), nn.Dropout1d(0.3), nn.Flatten(0), lin(12, 2)), (torch.rand(3, 4),)),
    "Dropout2d on three axes": (
        lambda: seq(nn.Conv1d(2, 4, 1), nn.Dropout2d(0.3), nn.Flatten()),
        (torch.rand(1, 2, 5),),
    ),
    "Dropout3d": (
        lambda: seq(nn.Conv3d(2, 3, 1), nn.Dropout3d(0.3), nn.Flatten(), lin(24, 2)),
        (torch.rand(1, 2, 2, 2, 2),),
    ),
    "alpha dropout": (lambda: seq(lin(4, 8), nn.SELU(), nn.AlphaDropout(0.3), lin(8, 2)), (torch.rand(1, 4),)),
    "feature alpha dropout": (
        lambda: seq(nn.Conv2d(2, 4, 1), nn.FeatureAlphaDropout(0.3), nn.Flatten(), lin(16, 2)),
        (torch.rand(1, 2, 2, 2),),
    ),
    "BatchNorm1d in the head": (
        lambda: seq(lin(4, 8), nn.Dropout(0.3), trained_norm(nn.BatchNorm1d(8)), nn.ReLU(), lin(8, 2)),
        (torch.rand(1, 4),),
    ),
    "BatchNorm2d in trunk and head": (
        lambda: seq(
            nn.Conv2d(2, 4, 3), trained_norm(nn.BatchNorm2d(4)), nn.Dropout2d(0.3), nn.Conv2d(4, 4, 3),
            trained_norm(nn.BatchNorm2d(4)), nn.ReLU(), nn.Dropout2d(0.2), nn.Conv2d(4, 3, 1),
        ),
        (torch.rand(1, 2, 8, 8),),
    ),
    "BatchNorm without gains": (
        lambda: seq(lin(4, 8), nn.Dropout(0.3), trained_norm(nn.BatchNorm1d(8, affine=False)), lin(8, 2)),
        (torch.rand(1, 4),),
    ),
    "instance, group and layer norm": (
        lambda: seq(
            nn.Conv2d(2, 4, 3), nn.Dropout2d(0.3), trained_norm(nn.InstanceNorm2d(4, affine=True,
            track_running_stats=True)), nn.GroupNorm(2, 4), nn.LayerNorm(6), nn.Conv2d(4, 3, 1),
        ),
        (torch.rand(1, 2, 8, 8),),
    ),
    "PReLU per channel": (
        lambda: seq(nn.Conv2d(2, 4, 3), nn.Dropout2d(0.3), trained_norm(nn.PReLU(4)), nn.Conv2d(4, 3, 1)),
        (torch.randn(1, 2, 6, 6),),
    ),
    "depthwise convolution and pooling": (
        lambda: seq(
            nn.Conv2d(2, 4, 3), nn.Dropout2d(0.3), nn.Conv2d(4, 4, 3, groups=4), nn.Hardswish(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), lin(4, 2),
        ),
        (torch.rand(1, 2, 8, 8),),
    ),
    "up and down again": (
        lambda: seq(
            nn.Conv2d(2, 4, 3, padding=1), nn.Dropout2d(0.3), nn.MaxPool2d(2), nn.Upsample(scale_factor=2,
            mode="bilinear"), nn.ConvTranspose2d(4, 3, 2, 2),
        ),
        (torch.rand(1, 2, 8, 8),),
    ),
    "view(1, -1)": (
        lambda: Net(lambda m, x: m.b(m.d(m.a(x)).view(1, -1)), a=nn.Conv2d(1, 2, 3), d=nn.Dropout(0.3), b=lin(8, 2)),
        (torch.rand(1, 1, 4, 4),),
    ),
    "sequence-first layout": (
        lambda: Net(lambda m, x: m.b(m.d(m.a(x))[-1]), a=lin(4, 8), d=nn.Dropout(0.3), b=lin(8, 2)),
        (torch.rand(5, 1, 4),),
    ),
    "attention with weights": (
        lambda: Net(
            lambda m, x: attention(m, x, True), a=lin(4, 8), d=nn.Dropout(0.3), b=lin(8, 2),
            attend=nn.MultiheadAttention(8, 2, batch_first=True),
        ),
        (torch.rand(1, 5, 4),),
    ),
    "attention without weights": (
        lambda: Net(
            lambda m, x: attention(m, x, False), a=lin(4, 8), d=nn.Dropout(0.3), b=lin(8, 2),
            attend=nn.MultiheadAttention(8, 2, batch_first=True),
        ),
        (torch.rand(1, 5, 4),),
    ),
    "causal attention": (lambda: Net(causal, a=lin(4, 8), d=nn.Dropout(0.3), b=lin(8, 2)), (torch.rand(1, 5, 4),)),
    "embedding of integers": (
        lambda: Net(lambda m, x: m.b(m.d(m.a(x)).mean(1)), a=nn.Embedding(10, 8), d=nn.Dropout(0.3), b=lin(8, 2)),
        (torch.tensor([[1, 4, 9, 4, 0]]),),
    ),
    "uint8 camera": (
        lambda: Net(
            lambda m, x: m.b(m.d(m.a(x.permute(0, 3, 1, 2).float() / 255.0).mean((2, 3)))),
            a=nn.Conv2d(3, 4, 3), d=nn.Dropout(0.3), b=lin(4, 2),
        ),
        (torch.arange(192, dtype=torch.uint8).reshape(1, 8, 8, 3),),
    ),
    "two inputs, the second behind the cut": (
        lambda: Net(lambda m, x, y: m.b(m.d(m.a(x)) + m.c(y)), a=lin(4, 8), c=lin(3, 8), d=nn.Dropout(0.3), b=lin(8,
        2)), (torch.rand(1, 4), torch.rand(1, 3)),
    ),
    "an input that is not used": (
        lambda: Net(lambda m, x, y: m.b(m.d(m.a(x))), a=lin(4, 8), d=nn.Dropout(0.3), b=lin(8, 2)),
        (torch.rand(1, 4), torch.rand(1, 3)),
    ),
    "a model that writes to its input": (
        lambda: Net(lambda m, x: m.b(m.d(m.a(x.mul_(0.5)))), a=lin(4, 8), d=nn.Dropout(0.3), b=lin(8, 2)),
        (torch.rand(1, 4),),
    ),
    "no_grad inside": (lambda: Net(under_no_grad, a=lin(4, 8), d=nn.Dropout(0.3), b=lin(8, 2)), (torch.rand(1, 4),)),
    "a scalar output": (
        lambda: Net(lambda m, x: m.b(m.d(m.a(x))).sum(), a=lin(4, 8), d=nn.Dropout(0.3), b=lin(8, 2)),
        (torch.rand(1, 4),),
    ),
    "two examples at once": (lambda: seq(lin(4, 8), nn.Dropout(0.3), lin(8, 2)), (torch.rand(2, 4),)),
    "weight and spectral norm": (
        lambda: seq(
            nn.utils.parametrizations.weight_norm(lin(4, 8)), nn.Dropout(0.3),
            nn.utils.parametrizations.spectral_norm(lin(8, 2))
        ),
        (torch.rand(1, 4),),
    ),
}  # fmt: skip

LOOPED: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...]]] = {
    "GRU behind dropout": (
        lambda: Net(
            lambda m, x: m.b(m.a(m.d(x))[0][:, -1]), a=nn.GRU(4, 6, batch_first=True), d=nn.Dropout(0.3), b=lin(6, 2)
        ),
        (torch.rand(1, 5, 4),),
    ),
    "sequence-first LSTM behind dropout": (
        lambda: Net(lambda m, x: m.b(m.a(m.d(x))[0][-1]), a=nn.LSTM(4, 6), d=nn.Dropout(0.3), b=lin(6, 2)),
        (torch.rand(5, 1, 4),),
    ),
}


def drawn(posterior: Any, generator: torch.Generator) -> list[Tensor]:
    return [
        (torch.rand(MEMBERS, *item.shape, generator=generator) >= item.rate) * torch.tensor(item.scale)
        for item in posterior.inputs
    ]


@pytest.mark.parametrize("name", [*BATCHED, *LOOPED])
def test_trunk_and_head_equal_torch_with_the_same_masks(name: str, networks: Callable[..., Any]):
    build, example = {**BATCHED, **LOOPED}[name]
    torch.manual_seed(0)
    model = build().eval()
    given = tuple(tensor.clone() for tensor in example)
    network, posterior = networks(model, given)
    members = drawn(posterior, torch.Generator().manual_seed(1))
    expected = torch.stack(
        [
            posterior.reference(
                tuple(tensor.clone() for tensor in example),
                {item.name: member[i] for item, member in zip(posterior.inputs, members, strict=True)},
            )
            for i in range(MEMBERS)
        ]
    )
    actual = network.members(network.boundary, members)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert expected.std(0).max() > 0.0
    with torch.no_grad():
        alone = model(*(tensor.clone() for tensor in example))
        torch.testing.assert_close(network.parts.deterministic(*example), alone, rtol=1e-5, atol=1e-6)
    assert network.axis.batched is (name in BATCHED)


@pytest.mark.parametrize("name", ["attention without weights", "BatchNorm2d in trunk and head", "PReLU per channel"])
def test_a_batched_head_computes_all_members_at_once(name: str, networks: Callable[..., Any]):
    # An operator that vmap has no rule for would be there once per member.
    build, example = BATCHED[name]
    network, posterior = networks(build().eval(), example)
    counts = []
    for members in (2, 5):
        masks = tuple(torch.ones(members, *item.shape) for item in posterior.inputs)
        counts.append(len(make_fx(network.axis)(*network.boundary, *masks).graph.nodes))
    assert counts[0] == counts[1]


def test_reference_runs_a_transformer_layer_s_own_dropout(networks: Callable[..., Any]):
    # At eval torch takes a fast path that passes by the dropout modules in the layer.
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True)
    torch.manual_seed(0)
    model = Net(lambda m, x: m.b(m.t(x).mean(1)), t=layer, b=lin(8, 2)).eval()
    x = torch.rand(1, 5, 8)
    network, posterior = networks(model, (x,), ["t.self_attn"])
    members = drawn(posterior, torch.Generator().manual_seed(1))
    expected = [
        posterior.reference((x,), {f"mask_{k}": member[i] for k, member in enumerate(members)}) for i in range(MEMBERS)
    ]
    assert torch.stack(expected).std(0).min() > 1e-3
    torch.testing.assert_close(network.members(network.boundary, members), torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_a_residual_crosses_the_cut_once():
    model = Net(residual, a=lin(4, 8), d=nn.Dropout(0.3), b=lin(8, 2)).eval()
    captured = capture(model, (torch.rand(1, 4),))
    parts = cut(captured, mask_bank.posterior(model, captured, ()).stochastic)
    assert len(parts.boundary) == 1
    # The head holds what is behind the cut, and nothing of the trunk.
    assert sum(value.numel() for value in parts.trunk.buffers()) == 4 * 8 + 8
    assert sum(value.numel() for value in parts.head.buffers()) == 8 * 2 + 2


def test_parameters_with_similar_names_stay_apart(networks: Callable[..., Any]):
    class Similar(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a_b, self.a, self.drop = lin(4, 4), nn.ModuleDict({"b": lin(4, 4)}), nn.Dropout(0.3)

        def forward(self, x: Tensor) -> Tensor:
            return self.drop(self.a["b"](torch.tanh(self.a_b(x))))

    model, x = Similar().eval(), torch.rand(1, 4)
    network, _ = networks(model, (x,))
    with torch.no_grad():
        torch.testing.assert_close(network.parts.deterministic(x), model(x))


def test_features_are_what_the_first_convolution_reads_and_what_the_boundary_was_flattened_from():
    model = seq(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), lin(12, 1)).eval()
    captured = capture(model, (torch.rand(1, 1, 4, 4),))
    parts = cut(captured, mask_bank.posterior(model, captured, ()).stochastic)
    image = torch.rand(1, 1, 4, 4)
    boundary, read, features = parts.trunk(image)
    assert boundary.shape == (1, 12)
    assert torch.equal(read, image)
    assert features.shape == (1, 3, 2, 2)
    assert parts.picture is not None
