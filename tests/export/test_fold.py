"""Batch normalisation disappears into the layer before it where all of it is constant, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from edge_bdl_export.capture import capture
from edge_bdl_export.cut import cut
from edge_bdl_export.fold import fold_norms
from edge_bdl_export.forms import mask_bank, weight_bank

NORM = torch.ops.aten._native_batch_norm_legit_no_training.default


def trained(norm: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in (*norm.parameters(), *norm.buffers()):
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return norm


def norms(graph: torch.fx.Graph) -> int:
    return sum(node.target is NORM for node in graph.nodes)


@pytest.mark.parametrize(
    ("build", "x", "left"),
    [
        (lambda: [nn.Linear(4, 6), trained(nn.BatchNorm1d(6))], torch.rand(1, 4), 0),
        (lambda: [nn.Linear(4, 6, bias=False), trained(nn.BatchNorm1d(6, affine=False))], torch.rand(1, 4), 0),
        (lambda: [nn.Conv1d(4, 6, 2), trained(nn.BatchNorm1d(6))], torch.rand(1, 4, 5), 0),
        (lambda: [nn.Conv2d(4, 6, 2, groups=2), trained(nn.BatchNorm2d(6))], torch.rand(1, 4, 5, 5), 0),
        (lambda: [nn.Conv3d(2, 4, 2), trained(nn.BatchNorm3d(4))], torch.rand(1, 2, 3, 3, 3), 0),
        (lambda: [nn.Linear(4, 6), nn.ReLU(), trained(nn.BatchNorm1d(6))], torch.rand(1, 4), 1),
        (lambda: [trained(nn.BatchNorm1d(4)), nn.Linear(4, 6)], torch.rand(1, 4), 1),
        (lambda: [nn.ConvTranspose2d(4, 6, 2), trained(nn.BatchNorm2d(6))], torch.rand(1, 4, 3, 3), 1),
    ],
    ids=["linear", "without gains", "conv1d", "grouped conv2d", "conv3d", "behind ReLU", "before", "transposed"],
)
def test_folding_keeps_the_function(build: Callable[[], list[nn.Module]], x: Tensor, left: int):
    torch.manual_seed(0)
    model = nn.Sequential(*build(), nn.Dropout(0.3)).eval()
    captured = capture(model, (x,))
    parts = cut(captured, mask_bank.posterior(model, captured, ()).stochastic)
    assert norms(captured.graph) == left
    with torch.no_grad():
        torch.testing.assert_close(parts.deterministic(x), model(x), rtol=1e-5, atol=1e-6)


def test_a_layer_that_is_also_read_elsewhere_keeps_its_norm():
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.norm, self.drop = nn.Linear(4, 4), trained(nn.BatchNorm1d(4)), nn.Dropout(0.3)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.layer(x)
            return self.drop(hidden + self.norm(hidden))

    captured = capture(Both().eval(), (torch.rand(1, 4),))
    assert norms(fold_norms(captured, ()).graph) == 1


def test_dropout_between_layer_and_norm_keeps_them_apart():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.3), trained(nn.BatchNorm1d(4))).eval()
    captured = capture(model, (torch.rand(1, 4),))
    assert norms(fold_norms(captured, ()).graph) == 1


@pytest.mark.parametrize("name", ["0.weight", "1.running_mean"])
def test_a_weight_that_members_differ_in_is_not_folded(name: str):
    model = nn.Sequential(nn.Linear(4, 4), trained(nn.BatchNorm1d(4)), nn.Tanh()).eval()
    members = [{name: torch.rand_like(model.state_dict()[name])} for _ in range(3)]
    captured = capture(model, (torch.rand(1, 4),))
    posterior = weight_bank.posterior(model, captured, members)
    assert norms(fold_norms(captured, {item.node for item in posterior.stochastic}).graph) == 1


def test_a_layer_called_twice_before_one_norm_each_is_folded_for_each():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.drop = nn.Linear(4, 4), nn.Dropout(0.3)
            self.first, self.second = trained(nn.BatchNorm1d(4)), nn.BatchNorm1d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.layer(self.drop(self.first(self.layer(x)))))

    torch.manual_seed(0)
    model, x = Twice().eval(), torch.rand(1, 4)
    captured = capture(model, (x,))
    parts = cut(captured, mask_bank.posterior(model, captured, ()).stochastic)
    assert norms(captured.graph) == 0
    with torch.no_grad():
        torch.testing.assert_close(parts.deterministic(x), model(x), rtol=1e-5, atol=1e-6)
