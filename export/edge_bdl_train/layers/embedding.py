"""Variational embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.layers.base import VariationalLayer
from edge_bdl_train.layers.weight import gaussian_kl


class VariationalEmbedding(VariationalLayer):
    """Twin of ``nn.Embedding``: the whole table is drawn once for all rows, so that a word means the same everywhere.

    The row at ``padding_idx`` stays what it is: it is never drawn, and is not in the KL divergence.
    """

    twins = (nn.Embedding,)

    @classmethod
    def check(cls, layer: nn.Module) -> None:
        """What changes the table in passing, or its gradient, has no meaning for a draw."""
        options = {"max_norm": layer.max_norm, "scale_grad_by_freq": layer.scale_grad_by_freq, "sparse": layer.sparse}
        kept = [f"{name}={value}" for name, value in options.items() if value]
        if kept:
            raise InputError(f"Embedding cannot become variational with {', '.join(kept)}: make it without")

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """One draw of the table."""
        weight = self.weight.mean + self.weight.deviation(generator) * self._drawn()[:, None]
        return {"weight": weight}

    def kl(self) -> Tensor:
        """KL(table || prior) in nats, summed over what is drawn."""
        weight, rows = self.weight, self._drawn()
        entries = rows[:, None].expand_as(weight.mean)
        return gaussian_kl(weight.mean[entries], weight.sigma[entries], weight.prior.at(entries), self.generator)

    def _drawn(self) -> Tensor:
        """Which rows are drawn, bool [rows]."""
        rows = torch.ones(self.num_embeddings, dtype=torch.bool, device=self.weight.mean.device)
        if self.padding_idx is not None:
            rows[self.padding_idx] = False
        return rows
