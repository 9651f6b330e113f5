"""Variational attention: every projection is drawn, and a transformer's layer works around it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edge_bdl_train.layers.attention import VariationalMultiheadAttention
from edge_bdl_train.layers.linear import VariationalLinear
from edge_bdl_train.priors.gaussian import Gaussian


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_all_projections_are_drawn() -> None:
    layer = nn.MultiheadAttention(8, 2)
    twin = VariationalMultiheadAttention.from_deterministic(layer, Gaussian(), 0.5, generator=seeded(0))
    drawn = twin.draw(seeded(1))
    assert drawn.keys() == {"in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"}
    assert all((drawn[name] != parameter).all() for name, parameter in layer.named_parameters())


def test_masks_and_attention_weights_go_through() -> None:
    layer = nn.MultiheadAttention(8, 2, batch_first=True)
    twin = VariationalMultiheadAttention.from_deterministic(layer, Gaussian(), 0.5, generator=seeded(0))
    x = torch.randn(2, 5, 8, generator=seeded(1))
    causal = torch.ones(5, 5, dtype=torch.bool).triu(1)
    output, shares = twin(x, x, x, attn_mask=causal, average_attn_weights=False)
    assert shares.shape == (2, 2, 5, 5)
    assert not shares[..., causal].any()
    layer.load_state_dict(twin.draw(seeded(0)))
    torch.testing.assert_close(output, layer(x, x, x, attn_mask=causal)[0])


@pytest.mark.parametrize("name", ["self_attn", "linear1"])
def test_a_transformer_layer_works_around_it_in_both_modes(name: str) -> None:
    block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    x = torch.randn(2, 5, 8, generator=seeded(1))
    expected = block.eval()(x)
    kind = VariationalMultiheadAttention if name == "self_attn" else VariationalLinear
    setattr(block, name, kind.from_deterministic(getattr(block, name), Gaussian(), 0.5, generator=seeded(0)))
    with torch.no_grad():
        torch.testing.assert_close(block.eval()(x), expected)
        assert not torch.allclose(block.train()(x), expected)
