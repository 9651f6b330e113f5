"""Make a head batchable: operators that ``torch.func.vmap`` has no rule for, written as operators that it has.

Without a rule vmap runs an operator once per member, and some of its rules do not survive the translation to ONNX. The
trunk keeps its operators as they are, for engines fuse them.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx


def batchable(head: fx.GraphModule) -> fx.GraphModule:
    """The same head without operators that cannot be batched well."""
    return _Rewriter(head).transform()


class _Rewriter(fx.Transformer):
    def run_node(self, n: fx.Node) -> Any:
        """Write one node, or what stands for it."""
        arguments, named = self.fetch_args_kwargs_from_env(n)
        if n.target is operator.getitem and isinstance(arguments[0], tuple):
            return arguments[0][arguments[1]]  # of something rewritten
        if n.target in _RULES:
            example = n.meta["val"]
            axes = (example if isinstance(example, Tensor) else example[0]).ndim
            return _RULES[n.target](axes, *arguments, **named)
        return super().run_node(n)


def _across(parameter: Tensor, axes: int) -> Tensor:
    """One value per channel, for a tensor of so many axes: its channels are axis 1."""
    return parameter.reshape(-1, *(1 for _ in range(axes - 2)))


def _batch_norm(
    axes: int,
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
    normalised = (x - _across(mean, axes)) * _across(gain, axes)
    return (normalised if bias is None else normalised + _across(bias, axes),)


def _prelu(axes: int, x: Tensor, weight: Tensor) -> Tensor:
    return x.clamp_min(0.0) + _across(weight, axes) * x.clamp_max(0.0)


def _attention(
    axes: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    rate: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if mask is None and not is_causal and not enable_gqa:
        scores = (query @ key.transpose(-2, -1)) * (query.shape[-1] ** -0.5 if scale is None else scale)
        return scores.softmax(-1) @ value
    # Torch's own plain arithmetic in place of whichever fused kernel it would choose; it minds rows that are all masked.
    plain = torch.ops.aten._scaled_dot_product_attention_math.default
    return plain(query, key, value, mask, rate, is_causal, None, scale=scale, enable_gqa=enable_gqa)[0]


def _view(axes: int, x: Tensor, shape: list[int]) -> Tensor:
    # A view presumes strides, and what is batched or written anew may have others.
    return x.reshape(shape)


_RULES = {
    torch.ops.aten._native_batch_norm_legit_no_training.default: _batch_norm,
    torch.ops.aten.prelu.default: _prelu,
    torch.ops.aten.view.default: _view,
    torch.ops.aten.scaled_dot_product_attention.default: _attention,
}
