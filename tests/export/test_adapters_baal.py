"""baal's models: their dropout becomes masks, their DropConnect members."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edge_bdl_export import export
from edge_bdl_export.adapters import adapt, members_of
from edge_bdl_export.forms.mask_bank import own_dropout

N = 3000


@torch.no_grad()
def answers(model: nn.Module, x: Tensor, n: int) -> Tensor:
    """What the model itself samples."""
    outputs = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        for _ in range(n):
            for module in model.modules():
                if hasattr(module, "reset"):  # consistent dropout keeps its mask
                    module.reset()
            outputs.append(model(x))
    return torch.stack(outputs)


def plain() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.Dropout2d(0.3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 8), nn.Dropout(0.4),
            nn.ReLU(), nn.Linear(8, 2),
        ).eval()  # fmt: skip


@pytest.fixture
def x() -> Tensor:
    return torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("module", ["dropout", "consistent_dropout"])
def test_patched_dropout_is_torch_s_own(
    module: str, x: Tensor, foreign: Callable[[str], Any], same_moments: Callable[[Tensor, Tensor], None]
):
    model = foreign(f"baal.bayesian.{module}").patch_module(plain(), inplace=False).eval()
    adapter = adapt(model)
    assert adapter.size == 0
    assert members_of(adapter, 4, seed=0) is None
    assert [type(layer) for layer in adapter.network] == [type(layer) for layer in plain()]
    torch.testing.assert_close(adapter.network(x), plain()(x))
    ours = answers(own_dropout(adapter.network, []), x, N)
    same_moments(ours, answers(model, x, N))


def test_a_wrapped_model_is_exported_with_masks(x: Tensor, foreign: Callable[[str], Any], tmp_path: Path):
    model = foreign("baal.bayesian.dropout").MCDropoutModule(plain()).eval()
    manifest = export(model, x, tmp_path / "baal.ebdl", samples=4, formats=("onnx",))
    assert (manifest.form, manifest.bank.selection) == ("mask_bank", "balanced")
    assert [(item.source, item.kind, item.rate) for item in manifest.bank.inputs] == [
        ("parent_module.1", "Dropout2d", 0.3),
        ("parent_module.5", "Dropout", 0.4),
    ]
    assert manifest.provenance.versions["baal"] == "2.1.0"


def test_dropped_weights_have_the_library_s_moments(
    x: Tensor,
    foreign: Callable[[str], Any],
    member_outputs: Callable[..., Tensor],
    same_moments: Callable[[Tensor, Tensor], None],
):
    patch = foreign("baal.bayesian.weight_drop").patch_module
    model = patch(plain(), ["Linear", "Conv2d"], weight_dropout=0.3, inplace=False).eval()
    adapter = adapt(model)
    members = members_of(adapter, N, seed=3)
    assert set(members[0]) == {"0.weight", "4.weight", "7.weight"}
    same_moments(member_outputs(adapter.network, members, x), answers(model, x, N))
    # Patching sets the rates of nn.Dropout to 0 and leaves the channels' as they were.
    assert adapter.notes == ("1 held at eval: the members are draws of the weights alone",)
