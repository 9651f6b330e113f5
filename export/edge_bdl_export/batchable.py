"""Make a head batchable: operators that ``torch.func.vmap`` has no rule for, written as operators that it has.

Without a rule vmap runs an operator once per member, and some of its rules do not survive the translation to ONNX. A
shape that was written down for one example takes any number of them. The trunk keeps its operators as they are, for
engines fuse them.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx


def batchable(head: fx.GraphModule) -> fx.GraphModule:
    """The same head, changed in place, without operators that cannot be batched well."""
    for node in head.graph.nodes:
        node.target = _RULES.get(node.target, node.target)
        if node.target is _RESHAPE and "val" in node.meta and node.meta["val"].shape[:1] == (1,):
            node.args = (node.args[0], [-1, *node.meta["val"].shape[1:]])
    head.recompile()
    return head


def _across(parameter: Tensor, x: Tensor) -> Tensor:
    """One value per channel of ``x``: its axis 1."""
    return parameter.reshape(-1, *(1 for _ in x.shape[2:]))


def _batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    momentum: float,
    eps: float,
) -> tuple[Tensor]:
    gain = (variance + eps).rsqrt()
    if weight is not None:
        gain = gain * weight
    normalised = (x - _across(mean, x)) * _across(gain, x)
    return (normalised if bias is None else normalised + _across(bias, x),)


def _prelu(x: Tensor, weight: Tensor) -> Tensor:
    return x.clamp_min(0.0) + _across(weight, x) * x.clamp_max(0.0)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if attn_mask is None and not is_causal and not enable_gqa:
        scores = (query @ key.transpose(-2, -1)) * (query.shape[-1] ** -0.5 if scale is None else scale)
        return scores.softmax(-1) @ value
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, -torch.inf)
    # Torch's own plain arithmetic in place of whichever fused kernel it would choose; it minds rows that are all
    # masked.
    plain = torch.ops.aten._scaled_dot_product_attention_math.default
    return plain(query, key, value, attn_mask, dropout_p, is_causal, None, scale=scale, enable_gqa=enable_gqa)[0]


_RESHAPE = torch.ops.aten.reshape.default
_RULES = {
    torch.ops.aten._native_batch_norm_legit_no_training.default: _batch_norm,
    torch.ops.aten.prelu.default: _prelu,
    # A view presumes strides, and what is batched or written anew may have others.
    torch.ops.aten.view.default: _RESHAPE,
    torch.ops.aten._unsafe_view.default: _RESHAPE,
    torch.ops.aten.scaled_dot_product_attention.default: _attention,
}
