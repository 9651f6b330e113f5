"""Variational linear layer."""

from __future__ import annotations

from torch import nn

from edge_bdl_train.layers.linear_map import LinearMapLayer


class VariationalLinear(LinearMapLayer):
    """Twin of ``nn.Linear``: [..., in_features] -> [..., out_features].

    Flipout's examples are the rows of the first axis.
    """

    twins = (nn.Linear,)

    @property
    def example_axes(self) -> int:
        """Features."""
        return 1
