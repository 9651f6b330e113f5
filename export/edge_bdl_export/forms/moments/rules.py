"""The rules by operator. What is not here is refused by name."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch

from edge_bdl_export.forms.moments import activations, arithmetic, pooling

_aten = torch.ops.aten

# Layers with weights: `affine.Affine` squares them once.
AFFINE = {
    _aten.linear.default,
    _aten.conv1d.default, _aten.conv2d.default, _aten.conv3d.default,
    _aten.conv1d.padding, _aten.conv2d.padding, _aten.conv3d.padding,
    _aten.conv_transpose1d.default, _aten.conv_transpose2d.input, _aten.conv_transpose3d.input,
}  # fmt: skip


def _named(namespace: Any, names: str) -> list[Any]:
    """Overloads such as ``relu.default``."""
    return [getattr(getattr(namespace, name), overload) for name, overload in (n.split(".") for n in names.split())]


_MOVED = _named(
    _aten,
    "reshape.default permute.default transpose.int t.default unsqueeze.default "
    "squeeze.dim squeeze.dims squeeze.default slice.Tensor select.int split.Tensor split_with_sizes.default "
    "chunk.default expand.default flatten.using_ints narrow.default unbind.int flip.default pixel_shuffle.default "
    "upsample_nearest1d.vec upsample_nearest2d.vec upsample_nearest3d.vec",
)
_SMOOTH = _named(
    _aten,
    "sigmoid.default tanh.default gelu.default silu.default elu.default softplus.default mish.default "
    "hardswish.default hardsigmoid.default log_sigmoid.default sin.default",
)
_SAME = _named(_aten, "clone.default contiguous.default _to_copy.default alias.default detach.default")

RULES: dict[Any, Callable[..., Any]] = {
    operator.getitem: operator.getitem,
    **{target: arithmetic.same for target in _SAME},
    **{target: arithmetic.moved(target) for target in _MOVED},
    # A view presumes strides, and what is computed anew may have others.
    **{target: arithmetic.moved(_aten.reshape.default) for target in (_aten.view.default, _aten._unsafe_view.default)},
    **{target: activations.smooth(target) for target in _SMOOTH},
    _aten.cat.default: arithmetic.concatenate,
    _aten.pad.default: arithmetic.pad,
    _aten.constant_pad_nd.default: lambda x, amounts, value=0.0: arithmetic.pad(x, amounts, "constant", value),
    _aten.add.Tensor: arithmetic.add,
    _aten.sub.Tensor: arithmetic.subtract,
    _aten.rsub.Scalar: arithmetic.reverse_subtract,
    _aten.mul.Tensor: arithmetic.multiply,
    _aten.div.Tensor: arithmetic.divide,
    _aten.neg.default: arithmetic.negative,
    _aten._native_batch_norm_legit_no_training.default: arithmetic.batch_norm,
    _aten.relu.default: activations.relu,
    _aten.leaky_relu.default: activations.leaky_relu,
    _aten.prelu.default: activations.leaky_relu,
    _aten.relu6.default: lambda x: activations.clamp(x, 0.0, 6.0),
    _aten.hardtanh.default: lambda x, low=-1.0, high=1.0: activations.clamp(x, low, high),
    _aten.clamp.default: activations.clamp,
    _aten.clamp_min.default: activations.clamp,
    _aten.maximum.default: activations.larger,
    _aten.mean.default: pooling.mean,
    _aten.mean.dim: pooling.mean,
    _aten.sum.default: pooling.total,
    _aten.sum.dim_IntList: pooling.total,
    _aten.avg_pool1d.default: pooling.average(_aten.avg_pool1d.default),
    _aten.avg_pool2d.default: pooling.average(_aten.avg_pool2d.default),
    _aten.avg_pool3d.default: pooling.average(_aten.avg_pool3d.default),
    _aten.adaptive_avg_pool1d.default: pooling.adaptive_average(_aten.adaptive_avg_pool1d.default),
    _aten.adaptive_avg_pool2d.default: pooling.adaptive_average(_aten.adaptive_avg_pool2d.default),
    _aten.adaptive_avg_pool3d.default: pooling.adaptive_average(_aten.adaptive_avg_pool3d.default),
    _aten.max_pool1d.default: pooling.maximum,
    _aten.max_pool2d.default: pooling.maximum,
    _aten.max_pool3d.default: pooling.maximum,
}
