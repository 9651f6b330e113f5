"""Scale mixture of two Gaussians."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from edge_bdl.errors import InputError
from edge_bdl_train.priors.base import Prior


@dataclass(frozen=True)
class ScaleMixture(Prior):
    """share N(0, wide^2) + (1 - share) N(0, narrow^2) (Blundell et al. 2015, arXiv 1505.05424, equation 7).

    Most weights are drawn close to 0, and a few are free to be large. The KL divergence of a Gaussian to it has no
    closed form.

    Args:
        wide: standard deviation of the first Gaussian; the paper tried exp(0), exp(-1) and exp(-2).
        narrow: of the second; the paper tried exp(-6), exp(-7) and exp(-8).
        share: of the first; the paper tried 1/4, 1/2 and 3/4.

    Raises:
        InputError: not wide > narrow > 0, or the share is not between 0 and 1.
    """

    wide: float = 1.0
    narrow: float = math.exp(-6.0)
    share: float = 0.5

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if not (math.inf > self.wide > self.narrow > 0.0 and 0.0 < self.share < 1.0):
            raise InputError(
                "a scale mixture needs wide > narrow > 0 and a share between 0 and 1, "
                f"got {self.wide}, {self.narrow} and {self.share}"
            )

    def log_prob(self, weight: Tensor) -> Tensor:
        """The mixture's log-density."""
        square = weight.square()
        # log(a + b) = log a + softplus(log b - log a), with a the wide one, which is not 0 anywhere near.
        wide = -0.5 / self.wide**2 * square
        ratio = math.log1p(-self.share) - math.log(self.share) + math.log(self.wide / self.narrow)
        narrow_to_wide = ratio - 0.5 * (1.0 / self.narrow**2 - 1.0 / self.wide**2) * square
        constant = math.log(self.share) - math.log(self.wide) - 0.5 * math.log(2.0 * math.pi)
        return (wide + functional.softplus(narrow_to_wide)).sum() + constant * weight.numel()
