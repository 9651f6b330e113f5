"""What every form makes of a captured model: the same thing, so that the exporter never asks which form it has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_bdl.manifest import Form, GaussianHead, Propagation, StochasticInput
from edge_bdl_export.cut import Stochastic
from edge_bdl_train.methods.gaussian_head import GaussianHeadPosterior

# Torch's output for one frame under one member, by member input name.
Reference = Callable[[tuple[Tensor, ...], Mapping[str, Tensor]], Tensor]

# Torch's mean and covariance, or variance, for one frame, in float64.
MomentReference = Callable[[tuple[Tensor, ...]], tuple[Tensor, Tensor]]

# Member inputs [members, *shape] by name.
Members = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class ClosedForm:
    """A head that gives moments in place of members.

    Attributes:
        described: For the manifest.
        head: ``(features) -> (mean, covariance or variance)``, as it is written.
        reference: Torch's own moments, which the proof compares with.
        posterior: The posterior itself, where these are its moments; None where they only come close.
        whole: The posterior that they come close to.
    """

    described: GaussianHead | Propagation
    head: nn.Module
    reference: MomentReference
    posterior: GaussianHeadPosterior | None
    whole: Whole | None = None

    def sample_outputs(self, frame: tuple[Tensor, ...], n: int, generator: torch.Generator) -> Tensor:
        """Outputs [n, *output], float64, as torch draws them from their Gaussian for one frame."""
        if self.posterior is not None:
            return self.posterior.sample_outputs(*frame, n, generator)
        mean, variance = self.reference(frame)
        return mean + variance.sqrt() * torch.randn((n, *mean.shape), generator=generator, dtype=mean.dtype)


@dataclass(frozen=True)
class Whole:
    """A posterior that moments come close to.

    Attributes:
        posterior: As members.
        members: Independent ones, a block at a time.
    """

    posterior: Posterior
    members: Callable[[], Iterable[Members]]


@dataclass(frozen=True)
class Posterior:
    """A posterior in one form.

    Attributes:
        form: Its name.
        inputs: The member inputs, for the manifest.
        stochastic: Each stochastic node of the captured graph, as data.
        reference: Torch's own answer for a given member, which the proof compares with; None in closed form.
        sampler: The model drawing its own members, None where they are given.
        weights: The given members, [members, *shape] by input name; None where members are drawn.
        closed: The head of a form that gives moments in place of members.
    """

    form: Form
    inputs: tuple[StochasticInput, ...]
    stochastic: tuple[Stochastic, ...]
    reference: Reference | None
    sampler: nn.Module | None
    weights: Mapping[str, NDArray[np.float32]] | None
    closed: ClosedForm | None = None
