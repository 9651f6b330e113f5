"""The member axis: which way a head gets it, and that all ways say the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edge_bdl_export.member_axis import MemberAxis, member_axis


class Head(nn.Module):
    def __init__(self, answer: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, boundary: Tensor, member: Tensor) -> Tensor:
        return self.answer(boundary, member)


def axis_of(answer: Callable[[Tensor, Tensor], Tensor], *shape: int) -> MemberAxis:
    generator = torch.Generator().manual_seed(0)
    boundary, members = torch.rand(shape, generator=generator), torch.rand(2, *shape, generator=generator)
    return member_axis(Head(answer), [boundary], [members])


WAYS: dict[str, tuple[str, Callable[[Tensor, Tensor], Tensor], tuple[int, ...]]] = {
    "an example alone": ("examples", lambda x, m: (x * m).relu() @ torch.ones(6, 3), (1, 6)),
    "a picture": ("examples", lambda x, m: (x * m).mean((2, 3)), (1, 3, 4, 4)),
    "a softmax over the examples": ("vmap", lambda x, m: (x * m).softmax(0), (1, 6)),
    "a mean over the examples": ("vmap", lambda x, m: x * m - (x * m).mean(0), (1, 6)),
    "two examples": ("vmap", lambda x, m: x * m, (2, 6)),
    "no axis of examples": ("vmap", lambda x, m: (x * m).sum(), (6,)),
    "the examples behind": ("vmap", lambda x, m: (x * m).transpose(0, 1), (1, 6)),
    "joined with what all members share": ("vmap", lambda x, m: torch.cat([x, x * m], 1), (1, 6)),
    "by its numbers": ("loop", lambda x, m: x * m if float(m.sum()) > 0.0 else x, (2, 6)),
}


@pytest.mark.parametrize("name", WAYS)
def test_a_head_gets_it_the_cheapest_way_that_is_right(name: str):
    way, answer, shape = WAYS[name]
    axis = axis_of(answer, *shape)
    assert (axis.way, axis.batched) == (way, way != "loop")
    generator = torch.Generator().manual_seed(1)
    boundary, members = torch.rand(shape, generator=generator), torch.rand(5, *shape, generator=generator)
    torch.testing.assert_close(axis(boundary, members), torch.stack([answer(boundary, member) for member in members]))


@pytest.mark.parametrize(
    ("model", "frame"),
    [
        (nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 2)), torch.rand(1, 4)),
        (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout2d(0.3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 2)),
            torch.rand(1, 3, 8, 8),
        ),
    ],
)
def test_of_a_network_whose_shapes_were_written_down_for_one_example_members_are_examples(
    model: nn.Module, frame: Tensor, networks: Callable[..., Any]
):
    assert networks(model.eval(), (frame,))[0].axis.way == "examples"


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
def test_members_are_no_examples_to_a_recurrent_layer_whose_state_is_of_one(
    layer: type[nn.RNNBase], networks: Callable[..., Any]
):
    class Sequences(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.layer, self.last = nn.Dropout(0.3), layer(4, 5, batch_first=True), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.layer(self.drop(x))[0][:, -1])

    network, posterior = networks(Sequences().eval(), (torch.rand(1, 6, 4),))
    assert all(item.shape[0] == 1 for item in posterior.inputs)
    assert network.axis.way != "examples"


def test_a_way_that_does_not_work_is_passed_over_in_silence(
    networks: Callable[..., Any], capfd: pytest.CaptureFixture[str]
):
    network, _ = networks(nn.Sequential(nn.Dropout(0.3), nn.Linear(4, 2)).eval(), (torch.rand(1, 4),))
    capfd.readouterr()
    assert member_axis(network.parts.head, [torch.rand(3, 4)], [torch.rand(2, 1, 4)]).way == "vmap"
    assert capfd.readouterr() == ("", "")
