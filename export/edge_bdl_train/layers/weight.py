"""A weight tensor that is not known but has a Gaussian distribution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_bdl.errors import InputError
from edge_bdl_train.priors.base import Prior

# softplus of it is 0 in float64 too, and unlike -inf it may be written to a file and read back.
_RHO_OF_ZERO = -1000.0
# Of the mean size of a tensor's weights: one that happens to be 0 must be able to move.
_SMALLEST_SHARE = 0.01


@dataclass(frozen=True)
class Proportional:
    """Initial standard deviations delta |w| (MOPED, Krishnan et al. 2020, arXiv 1906.05323), for a trained network.

    Of a tensor's entries, those close to 0 are taken for a hundredth of its entries' mean size.

    Raises:
        InputError: delta is not above 0.
    """

    delta: float

    def __post_init__(self) -> None:
        """Checks the range."""
        if not 0.0 < self.delta < math.inf:
            raise InputError(f"delta, a share of each weight's size, must be above 0, got {self.delta}")

    def of(self, weight: Tensor) -> Tensor:
        """Standard deviations, of the weight's shape.

        Raises:
            InputError: all entries are 0.
        """
        size = weight.abs()
        if not size.any():
            raise InputError(
                "the standard deviations cannot be proportional to weights that are all 0: train them first"
            )
        return self.delta * size.clamp_min(_SMALLEST_SHARE * float(size.mean()))


class GaussianWeight(nn.Module):
    """Independent N(mean, sigma^2) with sigma = softplus(rho) (Blundell et al. 2015, arXiv 1505.05424, section 3.2).

    Args:
        mean: initial mean; is copied.
        prior: of this weight.
        sigma: initial standard deviation of every entry, 0 for a weight that is known; or how it follows from the mean.

    Raises:
        InputError: sigma is negative or not finite, or the mean is not real.
    """

    def __init__(self, mean: Tensor, prior: Prior, sigma: float | Proportional) -> None:
        super().__init__()
        if not mean.is_floating_point():
            raise InputError(f"a Gaussian weight is real, got a mean of {mean.dtype}")
        self.mean = nn.Parameter(mean.detach().clone())
        if isinstance(sigma, Proportional):
            rho = rho_of(sigma.of(self.mean.detach().double())).to(self.mean)
        else:
            rho = torch.full_like(self.mean, inverse_softplus(sigma), requires_grad=False)
        self.rho = nn.Parameter(rho)
        self.prior = prior

    @property
    def sigma(self) -> Tensor:
        """Standard deviation, of the mean's shape."""
        # log(1 + exp(rho)) overflows; torch's softplus does not.
        return functional.softplus(self.rho)

    def deviation(self, generator: torch.Generator) -> Tensor:
        """One draw, less the mean; gradients reach sigma (Kingma and Welling 2014, arXiv 1312.6114, section 2.4)."""
        return self.sigma * standard_normal(self.mean.shape, self.mean, generator)

    def sample(self, generator: torch.Generator) -> Tensor:
        """One draw, of the mean's shape; gradients reach mean and sigma."""
        return self.mean + self.deviation(generator)

    def kl(self, generator: torch.Generator | None = None) -> Tensor:
        """KL(this || prior) in nats, summed over the entries.

        Args:
            generator: for a prior without a closed form: the entropy is exact, and the prior's log-density is that of
                one draw, so that the expectation is right.

        Raises:
            InputError: such a prior, and no generator.
        """
        return gaussian_kl(self.mean, self.sigma, self.prior, generator)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        # A network that uses layer.weight by itself lands here; torch's transformer layers look for this and then keep
        # to the way through their layers' forward.
        raise InputError(
            f"{getattr(function, '__name__', function)} got a Gaussian weight, which is no tensor: "
            "call its layer, or leave the layer deterministic"
        )

    def extra_repr(self) -> str:
        """The shape."""
        return str(tuple(self.mean.shape))


def gaussian_kl(mean: Tensor, sigma: Tensor, prior: Prior, generator: torch.Generator | None) -> Tensor:
    """KL(N(mean, sigma^2) || prior) in nats, summed; see ``GaussianWeight.kl``."""
    closed = prior.kl(mean, sigma)
    if closed is not None:
        return closed
    if generator is None:
        raise InputError(f"the KL divergence to {prior} has no closed form: give a generator, to draw weights")
    entropy = (torch.log(sigma) + 0.5 * math.log(2.0 * math.pi * math.e)).sum()
    return -entropy - prior.log_prob(mean + sigma * standard_normal(mean.shape, mean, generator))


def standard_normal(shape: torch.Size, like: Tensor, generator: torch.Generator) -> Tensor:
    """Draws from N(0, 1), of the dtype and on the device of ``like``; the same draws on every device."""
    return torch.randn(shape, generator=generator, device=generator.device, dtype=like.dtype).to(like.device)


def inverse_softplus(sigma: float) -> float:
    """The rho whose softplus is sigma.

    Raises:
        InputError: sigma is negative or not finite.
    """
    if not 0.0 <= sigma < math.inf:
        raise InputError(f"a standard deviation is at least 0 and finite, got sigma={sigma}")
    return float(rho_of(torch.tensor(sigma, dtype=torch.float64)))


def rho_of(sigma: Tensor) -> Tensor:
    """The rho whose softplus is sigma, entry by entry, for standard deviations of at least 0."""
    return (sigma + torch.log(-torch.expm1(-sigma))).clamp_min(_RHO_OF_ZERO)
