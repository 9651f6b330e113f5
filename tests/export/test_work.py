"""Multiply-accumulates are counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edge_bdl_export.work import work


@pytest.mark.parametrize(
    ("module", "x", "expected"),
    [
        (nn.Linear(6, 4), torch.zeros(1, 6), 24),
        (nn.Conv2d(2, 3, 3, padding=1), torch.zeros(1, 2, 5, 5), 2 * 3 * 9 * 25),
        (nn.LSTM(6, 8, batch_first=True), torch.zeros(1, 10, 6), 10 * 4 * 8 * (6 + 8)),
        (nn.GRU(6, 8, batch_first=True), torch.zeros(1, 10, 6), 10 * 3 * 8 * (6 + 8)),
    ],
)
def test_every_kind_of_layer_counts(module: nn.Module, x: Tensor, expected: int):
    assert work(module.eval(), (x,)) == expected
