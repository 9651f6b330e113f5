"""Variational recurrent layers, whose weights are drawn once per sequence.

A draw per time step would be another model, one whose weights change while it reads (Fortunato et al. 2017, arXiv
1704.02798, section 3).
"""

from __future__ import annotations

from typing import Any

from torch import nn

from edge_bdl.errors import InputError
from edge_bdl_train.layers.base import VariationalLayer


class VariationalRecurrent(VariationalLayer):
    """Twin of ``nn.LSTM``, ``nn.GRU`` and ``nn.RNN``; keeps layers, directions, projections and the batch's axis."""

    twins = (nn.LSTM, nn.GRU, nn.RNN)

    @classmethod
    def check(cls, layer: nn.Module) -> None:
        """Its own dropout would draw from torch's global generator."""
        if layer.dropout:
            raise InputError(
                f"{type(layer).__name__} has dropout={layer.dropout} of its own beside Gaussian weights: set it to 0"
            )

    def call(self, *arguments: Any, **options: Any) -> Any:
        """What the deterministic layer with these weights answers."""
        try:
            return super().call(*arguments, **options)
        finally:
            # torch's recurrent layers list their weights a second time; the draw would stay in that list.
            self._twin._init_flat_weights()
