"""The first convolution at a few places: where they are, and of which convolutions it can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edge_bdl_export.capture import capture
from edge_bdl_export.cut import cut
from edge_bdl_export.forms import mask_bank
from edge_bdl_export.picture import Picture


def picture_of(model: nn.Module, x: Tensor) -> Picture | None:
    captured = capture(model.eval(), (x,))
    return cut(captured, mask_bank.posterior(model, captured, ()).stochastic).picture


def headed(*body: nn.Module, features: int) -> nn.Module:
    return nn.Sequential(*body, nn.Flatten(), nn.Dropout(0.3), nn.Linear(features, 2))


CONVOLUTIONS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "small": (lambda: nn.Conv2d(3, 4, 3), (1, 3, 6, 6), 1),
    "image": (lambda: nn.Conv2d(3, 4, 5, stride=2), (1, 3, 40, 40), 3),
    "wide": (lambda: nn.Conv2d(3, 4, 3, stride=(1, 2), padding=(1, 0), dilation=2), (1, 3, 20, 90), 4),
    "grouped": (lambda: nn.Conv2d(4, 8, 3, groups=2, bias=False), (1, 4, 18, 18), 2),
    "same": (lambda: nn.Conv2d(3, 4, 3, padding="same"), (1, 3, 16, 16), 2),
    "valid": (lambda: nn.Conv2d(3, 4, 3, padding="valid"), (1, 3, 18, 18), 2),
    "signal": (lambda: nn.Conv1d(2, 5, 7, stride=2, padding=3), (1, 2, 256), 2),
    "volume": (lambda: nn.Conv3d(1, 3, 3), (1, 1, 10, 10, 10), 2),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_it_is_the_mean_of_every_so_manieth_response(name: str):
    build, shape, every = CONVOLUTIONS[name]
    torch.manual_seed(0)
    layer, x = build(), torch.randn(shape)
    with torch.no_grad():
        whole = layer(x).relu()
    picture = picture_of(headed(layer, nn.Tanh(), features=whole.numel()), x)
    assert picture is not None
    places = whole[(slice(None), slice(None), *(slice(None, None, every) for _ in shape[2:]))]
    assert places[0, 0].numel() <= 64
    with torch.no_grad():
        seen = picture(x)
    torch.testing.assert_close(seen, places.mean(tuple(range(2, x.ndim))), rtol=1e-5, atol=1e-6)


def test_a_batch_norm_behind_it_is_in_it():
    torch.manual_seed(0)
    norm, x = nn.BatchNorm2d(4), torch.randn(1, 3, 8, 8)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2.0)
    layer = nn.Conv2d(3, 4, 3)
    picture = picture_of(headed(layer, norm, nn.ReLU(), features=144), x)
    assert picture is not None
    with torch.no_grad():
        torch.testing.assert_close(picture(x), norm.eval()(layer(x)).relu().mean((2, 3)), rtol=1e-5, atol=1e-6)


def test_several_examples_in_the_batch_are_averaged():
    layer, x = nn.Conv2d(3, 4, 3), torch.randn(2, 3, 8, 8)
    picture = picture_of(headed(layer, features=144), x)
    assert picture is not None
    with torch.no_grad():
        torch.testing.assert_close(picture(x), layer(x).relu().mean((2, 3)).mean(0, keepdim=True), rtol=1e-5, atol=1e-6)


class Unbatched(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.drop, self.last = nn.Conv2d(3, 4, 3), nn.Dropout(0.3), nn.Linear(144, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(self.convolution(x).reshape(1, -1)))


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2)), (1, 4)),
        (nn.Sequential(nn.Dropout2d(0.3), nn.Conv2d(3, 4, 3)), (1, 3, 8, 8)),
        (Unbatched(), (3, 8, 8)),
    ],
    ids=["no convolution", "none before the first dropout", "no batch axis"],
)
def test_elsewhere_there_is_none(model: Any, shape: tuple[int, ...]):
    assert picture_of(model, torch.randn(shape)) is None
