"""Variational multi-head attention."""

from __future__ import annotations

from torch import nn

from edge_bdl.errors import InputError
from edge_bdl_train.layers.base import VariationalLayer


class VariationalMultiheadAttention(VariationalLayer):
    """Twin of ``nn.MultiheadAttention``: all its projections are drawn, once for all rows and places."""

    twins = (nn.MultiheadAttention,)

    @classmethod
    def check(cls, layer: nn.Module) -> None:
        """Its own dropout would draw from torch's global generator."""
        if layer.dropout:
            raise InputError(
                f"MultiheadAttention has dropout={layer.dropout} of its own beside Gaussian weights: set it to 0"
            )
