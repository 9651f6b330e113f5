"""How much the KL divergence counts while training goes on.

The loss per example is the minibatch's mean negative log-likelihood + factor * KL / n_data; with a factor of 1 it is
the negative ELBO.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from edge_bdl.errors import InputError


class KlSchedule(ABC):
    """The factor of the KL divergence by the time in training."""

    @abstractmethod
    def factor(self, epoch: int, batch: int, batches: int) -> float:
        """The factor in one step.

        Args:
            epoch: counted from 0.
            batch: in this epoch, counted from 0.
            batches: in an epoch.
        """


@dataclass(frozen=True)
class Constant(KlSchedule):
    """The same all the time; 1 is Bayes' rule, less is a colder posterior (Wenzel et al. 2020, arXiv 2002.02405)."""

    value: float = 1.0

    def __post_init__(self) -> None:
        """Checks the range."""
        _check_factors(self.value)

    def factor(self, epoch: int, batch: int, batches: int) -> float:
        """The value."""
        return self.value


@dataclass(frozen=True)
class LinearWarmUp(KlSchedule):
    """Rises in a line from 0 to ``value`` over the first ``epochs`` (Sonderby et al. 2016, arXiv 1602.02282)."""

    epochs: float
    value: float = 1.0

    def __post_init__(self) -> None:
        """Checks the ranges."""
        _check_factors(self.value)
        _check_positive("epochs", self.epochs)

    def factor(self, epoch: int, batch: int, batches: int) -> float:
        """The share of the warm-up that is over, times the value."""
        return self.value * min(1.0, (epoch + batch / batches) / self.epochs)


@dataclass(frozen=True)
class Cyclical(KlSchedule):
    """Warms up again and again (Fu et al. 2019, arXiv 1903.10145, equation 6).

    Args:
        period: epochs in a cycle.
        rising: share of a cycle in which the factor rises in a line from 0; for the rest it is ``value``.
        value: the highest factor.
    """

    period: float
    rising: float = 0.5
    value: float = 1.0

    def __post_init__(self) -> None:
        """Checks the ranges."""
        _check_factors(self.value)
        _check_positive("period", self.period)
        if not 0.0 < self.rising <= 1.0:
            raise InputError(f"rising, a share of the cycle, must be in (0, 1], got {self.rising}")

    def factor(self, epoch: int, batch: int, batches: int) -> float:
        """The share of the present rise that is over, times the value."""
        into = math.fmod(epoch + batch / batches, self.period) / self.period
        return self.value * min(1.0, into / self.rising)


@dataclass(frozen=True)
class Switched(KlSchedule):
    """``before`` until ``epoch`` begins, ``after`` from then on."""

    epoch: int
    before: float = 0.0
    after: float = 1.0

    def __post_init__(self) -> None:
        """Checks the ranges."""
        _check_factors(self.before, self.after)
        if self.epoch < 0:
            raise InputError(f"epoch must be at least 0, got {self.epoch}")

    def factor(self, epoch: int, batch: int, batches: int) -> float:
        """One or the other."""
        return self.before if epoch < self.epoch else self.after


@dataclass(frozen=True)
class Minibatch(KlSchedule):
    """The first minibatches of an epoch heed the prior, the last ones the data (Blundell et al. 2015, equation 9).

    There minibatch i of M carries the share 2^(M - i) / (2^M - 1) of the KL divergence; the factor here is M times
    that, and 1 on average over an epoch.
    """

    def factor(self, epoch: int, batch: int, batches: int) -> float:
        """M times the minibatch's share."""
        return batches * math.ldexp(1.0, -(batch + 1)) / -math.expm1(-batches * math.log(2.0))


def _check_factors(*values: float) -> None:
    for value in values:
        if not 0.0 <= value < math.inf:
            raise InputError(f"the KL divergence's factor must be at least 0 and finite, got {value}")


def _check_positive(name: str, value: float) -> None:
    if not 0.0 < value < math.inf:
        raise InputError(f"{name} must be above 0, got {value}")
