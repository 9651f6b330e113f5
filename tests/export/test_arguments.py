"""What may be asked of an export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edge_bdl.errors import ExportError
from edge_bdl_export import export


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": "lots"}, "samples is a whole number of at least 2, or 'auto', got 'lots'"),
        ({"seed": 1.5}, "seed must be at least 0 and fit 64 bits, a whole number"),
        ({"fidelity": "x"}, "fidelity is a rank correlation above 0"),
    ],
)
def test_arguments_of_the_wrong_kind_are_one_sentence(arguments: Any, message: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Dropout(0.2), nn.Linear(4, 2)).eval()
    with pytest.raises(ExportError, match=message):
        export(model, torch.rand(1, 4), tmp_path / "x.ebdl", formats=("onnx",), **arguments)
    assert not list(tmp_path.iterdir())
