"""The four graphs: their names, inputs and outputs, and that they compute one and the same network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edge_bdl_export.density import FeatureDensity


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.c, self.drop, self.b = nn.Linear(4, 8), nn.Linear(3, 8), nn.Dropout(0.3), nn.Linear(8, 2)

    def forward(self, image: Tensor, speed: Tensor) -> Tensor:
        return self.b(self.drop(torch.relu(self.a(image))) + self.c(speed))


@pytest.fixture
def built(networks: Callable[..., Any]) -> tuple[Any, dict[str, Tensor], tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    frame = (torch.rand(1, 4), torch.rand(1, 3))
    network, _ = networks(Two().eval(), frame)
    masks = {"mask_0": (torch.rand(6, 1, 8) > 0.3) / 0.7}
    return network, masks, frame


def test_names_shapes_and_order_are_those_of_the_bundle_format(built: Any):
    network, masks, _ = built
    density = FeatureDensity(torch.rand(60, network.features[0].shape[-1] + network.features[1].shape[-1]))
    graphs = network.graphs(masks, 4, density)
    assert list(graphs) == ["det", "trunk", "head", "fused"]
    assert {name: list(graph.example) for name, graph in graphs.items()} == {
        "det": ["image", "speed"],
        "trunk": ["image", "speed"],
        "head": ["boundary_0", "boundary_1", "mask_0"],
        "fused": ["image", "speed", "mask_0"],
    }
    assert {name: graph.outputs for name, graph in graphs.items()} == {
        "det": ("output",),
        "trunk": ("boundary_0", "boundary_1", "density"),
        "head": ("members",),
        "fused": ("members", "density"),
    }
    assert graphs["head"].example["mask_0"].shape == (4, 1, 8)
    assert graphs["fused"].example["mask_0"].shape == (6, 1, 8)


def test_without_a_density_no_graph_has_that_output(built: Any):
    network, masks, _ = built
    assert not any("density" in graph.outputs for graph in network.graphs(masks, 4, None).values())


def test_trunk_and_head_chain_to_fused(built: Any):
    network, masks, frame = built
    graphs = network.graphs(masks, 3, None)
    fused = graphs["fused"].module(*frame, masks["mask_0"])
    assert list(fused) == ["members"]
    crossing = graphs["trunk"].module(*frame)
    for start in (0, 3):
        chunk = graphs["head"].module(*crossing.values(), masks["mask_0"][start : start + 3])["members"]
        torch.testing.assert_close(chunk, fused["members"][start : start + 3])
    everything_kept = network.members(network.boundary, [torch.ones(1, 1, 8)])
    torch.testing.assert_close(graphs["det"].module(*frame)["output"], everything_kept[0])


def test_inputs_of_the_model_never_take_a_name_that_the_graphs_use(networks: Callable[..., Any]):
    class Unlucky(Two):
        def forward(self, members: Tensor, mask_0: Tensor) -> Tensor:
            return super().forward(members, mask_0)

    network, _ = networks(Unlucky().eval(), (torch.rand(1, 4), torch.rand(1, 3)))
    assert network.input_names == ("members_in", "mask_0_in")

    class Boundary(Two):
        def forward(self, boundary_1: Tensor, density: Tensor) -> Tensor:
            return super().forward(boundary_1, density)

    network, _ = networks(Boundary().eval(), (torch.rand(1, 4), torch.rand(1, 3)))
    assert network.input_names == ("boundary_1_in", "density_in")


def test_building_a_network_draws_nothing_from_the_global_generator(networks: Callable[..., Any]):
    model, frame = Two().eval(), (torch.rand(1, 4), torch.rand(1, 3))
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    networks(model, frame)
    assert torch.equal(torch.rand(2), expected)
