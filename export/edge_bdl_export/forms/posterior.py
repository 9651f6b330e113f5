"""What every form makes of a captured model: the same thing, so that the exporter never asks which form it has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_bdl.manifest import Form, StochasticInput
from edge_bdl_export.cut import Stochastic

# Torch's output for one frame under one member, by member input name.
Reference = Callable[[tuple[Tensor, ...], Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class Posterior:
    """A posterior in one form.

    Attributes:
        form: Its name.
        inputs: The member inputs, for the manifest.
        stochastic: Each stochastic node of the captured graph, as data.
        reference: Torch's own answer for a given member, which the proof compares with.
        sampler: The model drawing its own members, None where they are given.
        weights: The given members, [members, *shape] by input name; None where members are drawn.
    """

    form: Form
    inputs: tuple[StochasticInput, ...]
    stochastic: tuple[Stochastic, ...]
    reference: Reference
    sampler: nn.Module | None
    weights: Mapping[str, NDArray[np.float32]] | None
