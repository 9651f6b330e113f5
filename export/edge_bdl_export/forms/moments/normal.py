"""What flows through a network in place of numbers: a mean and a variance for each of them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

# The least variance that a layer gives. The square root of 0 would be divided by; float32 goes down to 1e-38.
FLOOR = 1e-12
# The scale that layers give their variances: the square of the rectifier's slope, which then needs no product for it.
UNIT = 1.84479239**2


@dataclass(frozen=True)
class Normal:
    """Independent Gaussians (Postels et al. 2019, arXiv 1908.00598, section 3).

    The variance is ``scale * spread``: a factor waits for the next layer, whose squared weights take it in for nothing.

    Attributes:
        mean: Of any shape.
        spread: Of the same shape, not negative.
        scale: Positive.
        floored: Whether the spread is above zero everywhere.
    """

    mean: Tensor
    spread: Tensor
    scale: float = 1.0
    floored: bool = False

    @property
    def variance(self) -> Tensor:
        """Of the mean's shape."""
        return self.spread if self.scale == 1.0 else self.spread * self.scale

    def in_scale(self, scale: float) -> Tensor:
        """The spread, were this the scale."""
        return self.spread if self.scale == scale else self.spread * (self.scale / scale)

    def above_zero(self) -> Normal:
        """The same, and nothing of it certain."""
        return self if self.floored else Normal(self.mean, self.spread + FLOOR / self.scale, self.scale, True)


@dataclass(frozen=True)
class Weight:
    """A parameter that is Gaussian itself.

    Attributes:
        mean: Of any shape.
        variance: Of the same shape.
    """

    mean: Tensor
    variance: Tensor


Value = Tensor | Normal


def mean_of(value: Value) -> Tensor:
    """The mean; of what is certain, itself."""
    return value.mean if isinstance(value, Normal) else value
