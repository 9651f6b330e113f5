"""What each torch dropout module does, as a mask: its shape, the value of a kept unit, and the arithmetic around it.

One row per module class. ``Dropout`` draws a unit mask; the others drop whole channels; the alpha kinds (Klambauer et
al. 2017, arXiv 1706.02515) do not zero a unit but send it to the negative saturation value and correct mean and
variance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# Negative saturation of SELU, -scale * alpha; torch uses this very number in alpha_dropout.
SATURATION = 1.7580993408473766


@dataclass(frozen=True)
class DropoutKind:
    """How one dropout module class becomes data.

    Attributes:
        mask_shape: Shape of the mask for an input of a given shape.
        alpha: Whether dropped units saturate (alpha dropout) instead of becoming zero.
        fixed: Whether the module holds the only masks there are; kept units stay as they are.
    """

    mask_shape: Callable[[tuple[int, ...]], tuple[int, ...]]
    alpha: bool = False
    fixed: bool = False

    def scale(self, rate: float) -> float:
        """Value of a kept unit in the mask, rounded to float32 exactly as torch rounds it."""
        if self.alpha or self.fixed:
            return 1.0
        return float(torch.ones(()) / (1.0 - rate))

    def apply(self, x: Tensor, mask: Tensor, rate: float) -> Tensor:
        """The module's output for input ``x`` under ``mask`` (kept units ``scale(rate)``, dropped ones 0)."""
        if not self.alpha:
            return x * mask
        gain = 1.0 / math.sqrt((SATURATION**2 * rate + 1.0) * (1.0 - rate))
        offset = (mask - 1.0) * (SATURATION * gain) + SATURATION * gain * rate
        return x * (mask * gain) + offset


def _unit(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape


def _channel(shape: tuple[int, ...]) -> tuple[int, ...]:
    """One value per example and channel: torch's feature dropout takes axis 0 for examples, axis 1 for channels."""
    return (*shape[:2], *(1 for _ in shape[2:]))


def _channel_of(spatial: int) -> Callable[[tuple[int, ...]], tuple[int, ...]]:
    """As ``_channel``, but an input without the batch axis (``spatial + 1`` axes) has its channels first."""

    def mask_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(shape) == spatial + 1:
            return (shape[0], *(1 for _ in shape[1:]))
        return _channel(shape)

    return mask_shape


class FixedMask(nn.Module):
    """Multiplies by one of a few masks that never change (Durasov et al. 2021): the identity until a member is chosen.

    Args:
        masks: [members, *shape] of 0 and 1, where ``shape`` is broadcast over what the module takes.
    """

    def __init__(self, masks: Tensor) -> None:
        super().__init__()
        self.register_buffer("masks", masks.float())

    @property
    def p(self) -> float:
        """The share of units that a mask drops."""
        return float(1.0 - self.masks.mean())

    def forward(self, x: Tensor) -> Tensor:
        """What it was given."""
        return x


KINDS: dict[type[nn.Module], DropoutKind] = {
    nn.Dropout: DropoutKind(_unit),
    nn.Dropout1d: DropoutKind(_channel_of(1)),
    # torch reads three axes here as [batch, channel, length], not as an image without a batch axis.
    nn.Dropout2d: DropoutKind(_channel),
    nn.Dropout3d: DropoutKind(_channel_of(3)),
    nn.AlphaDropout: DropoutKind(_unit, alpha=True),
    nn.FeatureAlphaDropout: DropoutKind(_channel, alpha=True),
    FixedMask: DropoutKind(_unit, fixed=True),
}


def mask_shape(module: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the mask of a recognised module that takes an input of this shape."""
    if isinstance(module, FixedMask):
        return tuple(module.masks.shape[1:])
    kind = recognise(module)
    assert kind is not None
    return KINDS[kind].mask_shape(shape)


def recognise(module: nn.Module) -> type[nn.Module] | None:
    """The class in the table that ``module`` behaves as, or None.

    A subclass counts only while it keeps torch's own ``forward``: one that overrides it may do anything.
    """
    for kind in KINDS:
        if isinstance(module, kind) and type(module).forward is kind.forward:
            return kind
    return None
