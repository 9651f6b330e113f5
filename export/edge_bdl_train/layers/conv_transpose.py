"""Variational transposed convolutions in one, two and three dimensions."""

from __future__ import annotations

from torch import nn

from edge_bdl_train.layers.linear_map import LinearMapLayer


class VariationalConvTranspose(LinearMapLayer):
    """Twin of ``nn.ConvTranspose1d``, ``nn.ConvTranspose2d`` and ``nn.ConvTranspose3d``; keeps all their options."""

    twins = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

    @property
    def example_axes(self) -> int:
        """Channels, and the places."""
        return 1 + len(self.kernel_size)
