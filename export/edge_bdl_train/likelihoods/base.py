"""What every likelihood is."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from edge_bdl.errors import InputError


class Likelihood(ABC):
    """A distribution of the targets, given a network's outputs.

    Outputs may carry leading axes, as [S, N, ...] of S members; the targets [N, ...] are the same for all of them.
    """

    @property
    @abstractmethod
    def outputs(self) -> int:
        """How many of a network's outputs speak of one target; for classification, of all classes."""

    @abstractmethod
    def log_prob(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The log-density of each example's targets, in nats.

        Args:
            outputs: [..., N, outputs].
            targets: [N, ...].

        Returns:
            [..., N].

        Raises:
            InputError: outputs and targets do not fit each other.
        """

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What training lowers, [..., N], in nats: the negative log-density, where a likelihood says nothing else."""
        return -self.log_prob(outputs, targets)


class RegressionLikelihood(Likelihood):
    """A density of D real targets that are independent of each other, given the outputs.

    Outputs are [..., N, outputs * D]: what belongs to the same parameter of the density lies together, as in means,
    then log-variances. Targets are [N, D], or [N] for one target.
    """

    @abstractmethod
    def predictive_mean(self, outputs: Tensor) -> Tensor:
        """Each member's mean of the targets, [..., N, D]."""

    @abstractmethod
    def predictive_variance(self, outputs: Tensor) -> Tensor:
        """Each member's variance of the targets, [..., N, D], in squared units of the target."""

    def parameters_of(self, outputs: Tensor) -> Tensor:
        """The density's parameters [outputs, ..., N, D].

        Raises:
            InputError: the last axis does not hold them.
        """
        if outputs.ndim < 2 or not outputs.shape[-1] or outputs.shape[-1] % self.outputs:
            raise InputError(
                f"{type(self).__name__} reads outputs [..., N, {self.outputs} x targets], got {list(outputs.shape)}"
            )
        return outputs.unflatten(-1, (self.outputs, -1)).movedim(-2, 0)

    def columns(self, targets: Tensor, outputs: Tensor) -> Tensor:
        """The targets [N, D] that go with these outputs.

        Raises:
            InputError: they are of another number or another dtype.
        """
        columns = targets[:, None] if targets.ndim == 1 else targets
        expected = (outputs.shape[-2], outputs.shape[-1] // self.outputs)
        if columns.shape != expected or not columns.is_floating_point():
            raise InputError(
                f"outputs {list(outputs.shape)} go with real targets {list(expected)}, "
                f"got {targets.dtype} {list(targets.shape)}"
            )
        return columns


class MeanVarianceLikelihood(RegressionLikelihood):
    """A density with a mean and a variance of its own for each input: outputs are means, then log-variances."""

    @property
    def outputs(self) -> int:
        """Mean and log-variance."""
        return 2

    def predictive_mean(self, outputs: Tensor) -> Tensor:
        """The first half of the outputs."""
        mean, _ = self.parameters_of(outputs)
        return mean

    def predictive_variance(self, outputs: Tensor) -> Tensor:
        """The exponential of the second half."""
        _, log_variance = self.parameters_of(outputs)
        return log_variance.exp()
