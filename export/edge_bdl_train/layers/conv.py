"""Variational convolutions in one, two and three dimensions."""

from __future__ import annotations

from torch import nn

from edge_bdl_train.layers.linear_map import LinearMapLayer


class VariationalConv(LinearMapLayer):
    """Twin of ``nn.Conv1d``, ``nn.Conv2d`` and ``nn.Conv3d``; keeps stride, padding, its mode, dilation and groups."""

    twins = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

    @property
    def example_axes(self) -> int:
        """Channels, and the places."""
        return 1 + len(self.kernel_size)
