"""The networks: sizes, where the dropout is, and that the trunk is deterministic."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edge_bdl_train.models import PilotNet, SmallCnn
from edge_bdl_train.preprocess import Preprocess


def small_cnn() -> SmallCnn:
    return SmallCnn(Preprocess((84, 96), crop_bottom=12))


def camera_frames(count: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=generator)


def test_pilotnet_has_the_layers_of_the_paper() -> None:
    shapes = [tuple(p.shape) for n, p in PilotNet(outputs=1).named_parameters() if n.endswith("weight")]
    assert shapes == [
        (24, 3, 5, 5),
        (36, 24, 5, 5),
        (48, 36, 5, 5),
        (64, 48, 3, 3),
        (64, 64, 3, 3),
        (100, 1152),
        (50, 100),
        (10, 50),
        (1, 10),
    ]


@pytest.mark.parametrize("outputs", [1, 2])
def test_pilotnet_maps_images_or_preprocessed_frames_to_its_outputs(outputs: int) -> None:
    assert PilotNet(outputs)(torch.zeros(3, 3, 66, 200)).shape == (3, outputs)
    camera = PilotNet(outputs, preprocess=Preprocess((66, 200), crop_top=40))
    assert camera(camera_frames(2, 120, 160)).shape == (2, outputs)


@pytest.mark.parametrize(("size", "height", "width"), [((84, 96), 96, 96), ((60, 120), 120, 160)])
def test_small_cnn_reads_camera_frames_of_any_size(size: tuple[int, int], height: int, width: int) -> None:
    model = SmallCnn(Preprocess(size, crop_bottom=12))
    assert model(camera_frames(2, height, width)).shape == (2, 2)


@pytest.mark.parametrize("model", [PilotNet(dropout=0.3), small_cnn()], ids=["pilotnet", "small_cnn"])
def test_dropout_stands_behind_each_hidden_layer_of_the_head_and_nowhere_else(model: nn.Module) -> None:
    dropouts = [name for name, module in model.named_modules() if isinstance(module, nn.Dropout)]
    assert dropouts == ["head.2", "head.5", "head.8"]


@pytest.mark.parametrize(
    ("model", "inputs"),
    [(PilotNet(), torch.randn(1, 3, 66, 200)), (small_cnn(), camera_frames(1, 96, 96))],
    ids=["pilotnet", "small_cnn"],
)
def test_the_trunk_is_deterministic_and_the_head_is_not(model: nn.Module, inputs: torch.Tensor) -> None:
    model.train()
    features = [model.trunk(model.preprocess(inputs)) for _ in range(2)]
    assert torch.equal(*features)
    assert not torch.equal(model(inputs), model(inputs))
    model.eval()
    assert torch.equal(model(inputs), model(inputs))


def test_dropout_everywhere_leaves_nothing_deterministic_but_the_first_convolution() -> None:
    model = PilotNet(dropout_everywhere=True).train()
    assert [isinstance(module, nn.Dropout) for module in model.trunk[:3]] == [False, False, True]
    assert sum(isinstance(module, nn.Dropout) for module in model.modules()) == 8
    inputs = torch.randn(1, 3, 66, 200)
    assert not torch.equal(model.trunk(inputs), model.trunk(inputs))


def test_the_small_cnn_is_small_enough_to_ship() -> None:
    assert sum(parameter.numel() * 4 for parameter in small_cnn().parameters()) < 2.5e6
