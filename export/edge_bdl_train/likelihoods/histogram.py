"""Histogram likelihood: regression as classification into bins, for densities of any shape."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from edge_bdl.errors import InputError
from edge_bdl_train.likelihoods.base import RegressionLikelihood


@dataclass(frozen=True)
class Histogram(RegressionLikelihood):
    """A density that is constant within each bin and 0 outside; the network gives the logits of the bins' shares.

    The logarithm is that of a density, not of a bin's share, and so can be compared with other likelihoods'. The
    network's last axis holds the logits [bins, targets].

    Args:
        edges: of the bins, rising, in units of the target. A bin holds its lower edge; the last one both.

    Raises:
        InputError: there are fewer than two bins, or the edges do not rise.
    """

    edges: tuple[float, ...]

    def __post_init__(self) -> None:
        """Checks the edges."""
        rising = all(low < high for low, high in pairwise(self.edges))
        if len(self.edges) < 3 or not rising or not all(math.isfinite(edge) for edge in self.edges):
            raise InputError(f"a histogram needs at least 3 finite edges, each above the one before, got {self.edges}")

    @property
    def outputs(self) -> int:
        """One logit per bin."""
        return len(self.edges) - 1

    def log_prob(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The log-density, summed over the targets.

        Raises:
            InputError: a target lies outside all bins, where the density is 0.
        """
        logits = self.parameters_of(outputs)
        columns = self.columns(targets, outputs)
        bins = self._bins(columns).expand(logits.shape[1:])
        log_shares = torch.log_softmax(logits, dim=0).gather(0, bins[None])[0]
        return (log_shares - torch.log(self._widths(outputs))[bins]).sum(-1)

    def predictive_mean(self, outputs: Tensor) -> Tensor:
        """The bins' centres, by their shares."""
        return torch.einsum("b...,b->...", self._shares(outputs), self._centres(outputs))

    def predictive_variance(self, outputs: Tensor) -> Tensor:
        """That of the bins' centres, by their shares, and of a uniform density in each bin."""
        shares, widths = self._shares(outputs), self._widths(outputs)
        apart = torch.einsum("b,...->b...", self._centres(outputs), torch.ones_like(shares[0]))
        apart = (apart - self.predictive_mean(outputs)).square()
        return (shares * apart).sum(0) + torch.einsum("b...,b->...", shares, widths.square() / 12.0)

    def _bins(self, columns: Tensor) -> Tensor:
        low, high = self.edges[0], self.edges[-1]
        if not ((columns >= low) & (columns <= high)).all():
            raise InputError(
                f"targets from {float(columns.min()):g} to {float(columns.max()):g} do not lie in the histogram's "
                f"bins, {low:g} to {high:g}: give it wider edges"
            )
        inner = torch.tensor(self.edges[1:-1], dtype=columns.dtype, device=columns.device)
        return torch.bucketize(columns.contiguous(), inner, right=True)

    def _shares(self, outputs: Tensor) -> Tensor:
        return torch.softmax(self.parameters_of(outputs), dim=0)

    def _widths(self, outputs: Tensor) -> Tensor:
        return torch.tensor(self.edges, dtype=torch.float64).diff().to(outputs)

    def _centres(self, outputs: Tensor) -> Tensor:
        edges = torch.tensor(self.edges, dtype=torch.float64)
        return (0.5 * (edges[1:] + edges[:-1])).to(outputs)
