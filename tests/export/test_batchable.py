"""What a head is rewritten to computes the same, and is batched by vmap without falling back to a loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_bdl_export.batchable import batchable
from edge_bdl_export.capture import capture
from edge_bdl_export.cut import cut
from edge_bdl_export.forms import mask_bank


class Attention(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(x, x, x, **self.options)


def norm(build: Callable[..., nn.Module], **options: Any) -> nn.Module:
    made = build(4, **options)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in (*made.parameters(), *made.buffers()):
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return made


CASES = {
    "BatchNorm1d": (norm(nn.BatchNorm1d), (2, 4)),
    "BatchNorm1d over a sequence": (norm(nn.BatchNorm1d), (2, 4, 3)),
    "BatchNorm2d": (norm(nn.BatchNorm2d), (2, 4, 3, 3)),
    "BatchNorm3d without gains": (norm(nn.BatchNorm3d, affine=False), (2, 4, 2, 2, 2)),
    "PReLU": (nn.PReLU(), (2, 4)),
    "PReLU per channel": (norm(nn.PReLU), (2, 4, 3, 3)),
    "attention": (Attention(), (2, 3, 5, 8)),
    "attention with a scale": (Attention(scale=0.7), (2, 3, 5, 8)),
    "causal attention": (Attention(is_causal=True), (2, 3, 5, 8)),
    "attention with a mask": (Attention(attn_mask=torch.linspace(-1.0, 1.0, 25).reshape(5, 5)), (2, 3, 5, 8)),
    "attention with a row all masked": (Attention(attn_mask=torch.eye(5, 5) > torch.eye(5)[0]), (2, 3, 5, 8)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_rewritten_operator_is_the_operator_and_can_be_batched(name: str):
    module, shape = CASES[name]
    model = nn.Sequential(nn.Dropout(0.5), module).eval()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    captured = capture(model, (x,))
    head = cut(captured, mask_bank.posterior(model, captured, ()).stochastic).head
    masks = (torch.rand(3, *shape, generator=torch.Generator().manual_seed(2)) > 0.5) * 2.0
    with torch.no_grad():
        expected = torch.stack([module(x * mask) for mask in masks])
        # Without a rule vmap would fall back to a loop, which this forbids.
        torch._C._functorch._set_vmap_fallback_enabled(False)
        try:
            actual = torch.func.vmap(lambda mask: head(x, mask))(masks)
        finally:
            torch._C._functorch._set_vmap_fallback_enabled(True)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_a_head_without_such_operators_stays_as_it_is():
    graph = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    before = [(node.op, node.target) for node in graph.graph.nodes]
    assert [(node.op, node.target) for node in batchable(graph).graph.nodes] == before
