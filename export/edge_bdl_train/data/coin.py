"""A coin and a ruler: the two cases in which the posterior can be written down.

Bishop 2006, Pattern Recognition and Machine Learning, sections 2.1.1 and 2.3.6.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_bdl.errors import InputError


@dataclass(frozen=True, kw_only=True)
class BetaBernoulli:
    """What is known of a coin's probability of heads.

    Attributes:
        heads, tails: parameters of the Beta distribution; (1, 1) knows nothing.
    """

    heads: float = 1.0
    tails: float = 1.0

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if not (self.heads > 0.0 and self.tails > 0.0):
            raise InputError(f"heads and tails of a Beta distribution must be above 0, got {self.heads}, {self.tails}")

    def given(self, tosses: NDArray[np.bool_]) -> BetaBernoulli:
        """What is known after these tosses, heads being true (Bishop, equation 2.18)."""
        heads = int(np.count_nonzero(tosses))
        return BetaBernoulli(heads=self.heads + heads, tails=self.tails + tosses.size - heads)

    @property
    def mean(self) -> float:
        """Probability that the next toss gives heads (equation 2.20)."""
        return self.heads / (self.heads + self.tails)

    @property
    def variance(self) -> float:
        """Of the probability of heads."""
        return self.mean * (1.0 - self.mean) / (self.heads + self.tails + 1.0)


@dataclass(frozen=True, kw_only=True)
class GaussianMean:
    """What is known of a length that a ruler with known noise measures.

    Attributes:
        mean: in the length's units.
        variance: in squared units.
        noise_variance: of one measurement.
    """

    mean: float = 0.0
    variance: float = 1.0
    noise_variance: float = 1.0

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if not (self.variance > 0.0 and self.noise_variance > 0.0):
            raise InputError(f"variances must be above 0, got {self.variance} and {self.noise_variance}")

    def given(self, measured: NDArray[np.float64]) -> GaussianMean:
        """What is known after these measurements (Bishop, equations 2.141 and 2.142)."""
        precision = 1.0 / self.variance + measured.size / self.noise_variance
        mean = (self.mean / self.variance + float(measured.sum()) / self.noise_variance) / precision
        return GaussianMean(mean=mean, variance=1.0 / precision, noise_variance=self.noise_variance)
