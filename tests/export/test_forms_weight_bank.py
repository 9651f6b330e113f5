"""Members as state dicts: which parameters become inputs, that each member is torch with it, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edge_bdl.errors import ExportError
from edge_bdl_export.capture import capture
from edge_bdl_export.cut import cut
from edge_bdl_export.forms import weight_bank
from edge_bdl_export.graphs import Network


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 8)
        self.head = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(x)))


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(1, 4, 3)
        self.head = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.PReLU(4), nn.Conv2d(4, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(x)))


def state(build: Callable[[], nn.Module], seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    model = build()
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    return {name: value.clone() for name, value in model.state_dict().items()}


def heads(build: Callable[[], nn.Module], count: int) -> list[dict[str, Tensor]]:
    return [{n: v for n, v in state(build, seed).items() if n.startswith("head.")} for seed in range(count)]


def posterior_of(model: nn.Module, x: Tensor, members: Any) -> tuple[Any, Network]:
    captured = capture(model, (x,))
    posterior = weight_bank.posterior(model, captured, members)
    names = [node.name for node in captured.inputs]
    return posterior, Network(cut(captured, posterior.stochastic), (x,), names, posterior.inputs)


@pytest.mark.parametrize(
    ("build", "x"),
    [(Linear, torch.rand(1, 4)), (Convolutional, torch.rand(1, 1, 8, 8))],
    ids=["linear", "convolutional"],
)
@pytest.mark.parametrize("whole", [False, True], ids=["heads", "whole states"])
def test_each_member_is_the_model_with_that_state(build: Callable[[], nn.Module], x: Tensor, whole: bool):
    model = build().eval()
    model.load_state_dict(state(build, 99))
    members = heads(build, 4)
    if whole:
        members = [{**model.state_dict(), **member} for member in members]
    posterior, network = posterior_of(model, x, members)
    inputs = [torch.from_numpy(value) for value in posterior.weights.values()]
    actual = network.members(network.boundary, inputs)
    for i, member in enumerate(members):
        fresh = build().eval()
        fresh.load_state_dict({**model.state_dict(), **member})
        with torch.no_grad():
            expected = fresh(x)
        torch.testing.assert_close(actual[i], expected, rtol=1e-4, atol=1e-6)
        told = {name: torch.from_numpy(value[i]) for name, value in posterior.weights.items()}
        torch.testing.assert_close(posterior.reference((x,), told), expected, rtol=1e-6, atol=1e-7)
    assert network.axis.batched
    assert [node.name for node in network.parts.boundary]  # the shared body stays in the trunk


def test_only_what_differs_becomes_an_input():
    model = Linear().eval()
    members = [{**model.state_dict(), "head.2.bias": torch.full((3,), float(i))} for i in range(3)]
    posterior, _ = posterior_of(model, torch.rand(1, 4), members)
    assert [(i.name, i.source, i.kind, i.shape) for i in posterior.inputs] == [
        ("weight_0", "head.2.bias", "parameter", (3,))
    ]
    assert posterior.sampler is None
    assert posterior.weights["weight_0"].shape == (3, 3)


def test_the_model_s_own_weights_are_not_changed():
    model = Linear().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    posterior, _ = posterior_of(model, torch.rand(1, 4), heads(Linear, 3))
    posterior.reference((torch.rand(1, 4),), {n: torch.from_numpy(v[0]) for n, v in posterior.weights.items()})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def changed(index: int, change: Callable[[dict[str, Tensor]], object]) -> list[dict[str, Tensor]]:
    members = heads(Linear, 3)
    change(members[index])
    return members


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([], "at least 2 members, got 0"),
        (heads(Linear, 1), "at least 2 members, got 1"),
        (changed(1, lambda m: m.pop("head.0.bias")), "member 0 has 'head.0.bias', member 1 has not"),
        (changed(0, lambda m: m.pop("head.0.bias")), "member 1 has 'head.0.bias', member 0 has not"),
        (changed(2, lambda m: m.update(extra=torch.zeros(1))), "member 2 has 'extra', member 0 has not"),
        (changed(1, lambda m: m.update({"head.0.bias": torch.zeros(9)})), r"shape \(9,\), the model's has \(8,\)"),
        (changed(1, lambda m: m["head.0.weight"].fill_(float("nan"))), "member 1: 'head.0.weight' holds NaN"),
        (changed(1, lambda m: m["head.0.weight"].fill_(float("inf"))), "member 1: 'head.0.weight' holds NaN or inf"),
        ([heads(Linear, 1)[0]] * 3, "all members are equal"),
        ([{**m, "tail.bias": m["head.2.bias"]} for m in heads(Linear, 3)], "'tail.bias', which the model does not use"),
    ],
)
def test_members_that_do_not_fit_are_refused(members: list[dict[str, Tensor]], message: str):
    with pytest.raises(ExportError, match=message) as caught:
        posterior_of(Linear().eval(), torch.rand(1, 4), members)
    assert "\n" not in str(caught.value)


def test_only_float32_may_differ():
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)
            self.register_buffer("steps", torch.tensor([1, 2]))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) + self.steps

    with pytest.raises(ExportError, match=r"'steps' is torch.int64 and differs"):
        posterior_of(Shifted().eval(), torch.rand(1, 2), [{"steps": torch.tensor([i, 2])} for i in range(3)])
