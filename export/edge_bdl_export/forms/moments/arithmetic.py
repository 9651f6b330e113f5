"""Sums, multiples, and what only moves numbers around."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from edge_bdl.errors import UnsupportedModelError
from edge_bdl_export.forms.moments.normal import Normal, Value, mean_of

Operand = Value | float


def add(x: Operand, y: Operand, *, alpha: float = 1.0) -> Normal:
    """X + alpha y; of two Gaussians, as if they were independent."""
    if alpha != 1.0:
        y = multiply(y, alpha) if isinstance(y, Normal) else y * alpha
    if isinstance(x, Normal) and isinstance(y, Normal):
        return Normal(x.mean + y.mean, x.spread + y.in_scale(x.scale), x.scale, x.floored or y.floored)
    uncertain = y if isinstance(y, Normal) else x
    assert isinstance(uncertain, Normal)
    mean = _mean(x) + _mean(y)
    spread = uncertain.spread if uncertain.spread.shape == mean.shape else uncertain.spread.expand_as(mean)
    return Normal(mean, spread, uncertain.scale, uncertain.floored)


def subtract(x: Operand, y: Operand, *, alpha: float = 1.0) -> Normal:
    """X - alpha y."""
    return add(x, y, alpha=-alpha)


def reverse_subtract(x: Operand, y: Operand, alpha: float = 1.0) -> Normal:
    """Y - alpha x."""
    return add(y, x, alpha=-alpha)


def multiply(x: Operand, y: Operand) -> Normal:
    """A Gaussian times a number that is known."""
    if isinstance(x, Normal) and isinstance(y, Normal):
        raise UnsupportedModelError(
            "a product of two activations that are both uncertain has no rule in form='moments', which takes them for "
            "independent; export without form='moments'"
        )
    uncertain, known = (x, y) if isinstance(x, Normal) else (y, x)
    assert isinstance(uncertain, Normal)
    if isinstance(known, Tensor) or not known:
        return Normal(uncertain.mean * known, uncertain.spread * (known * known), uncertain.scale)
    factor = float(known)  # type: ignore[arg-type]
    return Normal(uncertain.mean * factor, uncertain.spread, uncertain.scale * factor**2, uncertain.floored)


def divide(x: Operand, y: Operand) -> Normal:
    """A Gaussian over a number that is known."""
    if isinstance(y, Normal):
        raise UnsupportedModelError(
            "division by an activation that is uncertain has no rule in form='moments'; export without it"
        )
    return multiply(x, 1.0 / y)


def negative(x: Normal) -> Normal:
    """-x."""
    return Normal(-x.mean, x.spread, x.scale, x.floored)


def batch_norm(
    x: Normal,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    momentum: float,
    eps: float,
) -> tuple[Normal]:
    """With its statistics held, a multiple and a shift of each channel."""
    gain = (variance + eps).rsqrt() * (1.0 if weight is None else weight)
    offset = (0.0 if bias is None else bias) - mean * gain
    own = (-1, *(1 for _ in x.mean.shape[2:]))
    return (add(multiply(x, gain.reshape(own)), offset.reshape(own)),)


def concatenate(parts: Sequence[Value], axis: int = 0) -> Normal:
    """Side by side, the known among them with no variance."""
    scale = next(part.scale for part in parts if isinstance(part, Normal))
    spreads = [part.in_scale(scale) if isinstance(part, Normal) else torch.zeros_like(part) for part in parts]
    floored = all(isinstance(part, Normal) and part.floored for part in parts)
    return Normal(torch.cat([mean_of(part) for part in parts], axis), torch.cat(spreads, axis), scale, floored)


def moved(operator: Callable[..., Any]) -> Callable[..., Any]:
    """A rule for an operator that only moves numbers around: it does with variances what it does with means."""

    def rule(x: Normal, *settings: Any, **named: Any) -> Any:
        means, spreads = (operator(values, *settings, **named) for values in (x.mean, x.spread))
        if isinstance(means, Tensor):
            return Normal(means, spreads, x.scale, x.floored)
        return tuple(Normal(*pair, x.scale, x.floored) for pair in zip(means, spreads, strict=True))

    return rule


def pad(x: Normal, amounts: Sequence[int], mode: str = "constant", value: float | None = None) -> Normal:
    """Constants around it, or copies of it."""
    if mode != "constant":
        means, spreads = (torch.ops.aten.pad.default(values, amounts, mode) for values in (x.mean, x.spread))
        return Normal(means, spreads, x.scale, x.floored)
    around = torch.ops.aten.pad.default(x.mean, amounts, mode, value)
    return Normal(around, torch.ops.aten.pad.default(x.spread, amounts, mode, 0.0), x.scale)


def same(x: Value, *settings: Any, **named: Any) -> Value:
    """A copy, or a change of float dtype: everything here is of one."""
    return x


def _mean(value: Operand) -> Tensor | float:
    return value.mean if isinstance(value, Normal) else value
