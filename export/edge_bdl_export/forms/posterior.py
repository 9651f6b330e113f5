"""What every form makes of a captured model: the same thing, so that the exporter never asks which form it has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_bdl.manifest import Form, GaussianHead, StochasticInput
from edge_bdl_export.cut import Stochastic
from edge_bdl_train.methods.gaussian_head import GaussianHeadPosterior

# Torch's output for one frame under one member, by member input name.
Reference = Callable[[tuple[Tensor, ...], Mapping[str, Tensor]], Tensor]

# Torch's mean and covariance, or variance, for one frame, in float64.
MomentReference = Callable[[tuple[Tensor, ...]], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class ClosedForm:
    """A head that gives moments in place of members.

    Attributes:
        described: For the manifest.
        head: ``(features) -> (mean, covariance or variance)``, as it is written.
        reference: Torch's own moments, which the proof compares with.
        posterior: The posterior itself.
    """

    described: GaussianHead
    head: nn.Module
    reference: MomentReference
    posterior: GaussianHeadPosterior


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
