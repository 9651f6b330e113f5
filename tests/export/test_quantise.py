"""Networks in int8: which layers, on which grids, and that torch computes what integers would."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from edge_bdl.errors import ExportError
from edge_bdl_export.capture import capture
from edge_bdl_export.cut import Cut, cut
from edge_bdl_export.forms import mask_bank, weight_bank
from edge_bdl_export.quantise import QUANTISE, quantise, quantise_members

PER_CHANNEL = torch.ops.quantized_decomposed.quantize_per_channel.default


class Small(nn.Module):
    """An image, a residual, a pool; dropout before the last two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Conv2d(3, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 8, 3, padding=1)
        self.hidden = nn.Linear(8 * 9, 16)
        self.drop = nn.Dropout(0.5)
        self.first, self.last = nn.Linear(16, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        image = torch.relu(self.image(x))
        pooled = functional.max_pool2d(torch.relu(image + self.inner(image)), 2)
        return self.last(torch.relu(self.first(self.drop(torch.relu(self.hidden(pooled.flatten(1)))))))


def parts_of(model: nn.Module, x: Tensor) -> Cut:
    captured = capture(model.eval(), (x,))
    return cut(captured, mask_bank.posterior(model, captured, ()).stochastic)


def frames(shape: Sequence[int], count: int = 8) -> list[tuple[Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(*shape, generator=generator),) for _ in range(count)]


def targets(module: nn.Module, wanted: Any) -> list[fx.Node]:
    assert isinstance(module, fx.GraphModule)
    return [node for node in module.graph.nodes if node.target is wanted]


@pytest.fixture(scope="module")
def small() -> tuple[Cut, Cut, list[tuple[Tensor]]]:
    torch.manual_seed(0)
    seen = frames((1, 3, 6, 6))
    parts = parts_of(Small(), seen[0][0])
    return parts, quantise(parts, seen), seen


def test_the_trunks_layers_are_quantised_but_not_what_reads_an_image_nor_the_head(
    small: tuple[Cut, Cut, list[tuple[Tensor]]],
) -> None:
    _, lowered, _ = small
    for part in (lowered.trunk, lowered.deterministic):
        weights = [node.args[0].target for node in targets(part, PER_CHANNEL)]
        assert weights == ["held_p_inner_weight_grid", "held_p_hidden_weight_grid"]
    assert not targets(lowered.head, PER_CHANNEL)


def test_weights_lie_on_a_symmetric_grid_per_output_channel(small: tuple[Cut, Cut, list[tuple[Tensor]]]) -> None:
    parts, lowered, _ = small
    weight, grid = (getattr(part.trunk, name) for part, name in (
        (parts, "held_p_inner_weight"), (lowered, "held_p_inner_weight_grid"),
    ))  # fmt: skip
    steps = weight.flatten(1).abs().amax(1) / 127.0
    assert torch.equal(lowered.trunk.held_p_inner_weight_scale, steps)
    counts = grid.flatten(1) / steps[:, None]
    assert torch.allclose(counts, counts.round(), atol=1e-4)
    assert ((grid - weight).abs().flatten(1) <= 0.5001 * steps[:, None]).all()


def test_activations_stay_within_half_a_step_on_the_frames_that_gave_the_range(
    small: tuple[Cut, Cut, list[tuple[Tensor]]],
) -> None:
    _, lowered, seen = small
    steps = {node.args[0].name: node.args[1] for node in targets(lowered.trunk, QUANTISE)}
    before: dict[str, Tensor] = {}

    class Watcher(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            value = super().run_node(n)
            before[n.name] = value  # type: ignore[assignment]
            return value

    for frame in seen:
        Watcher(lowered.trunk).run(*frame)
        for node in targets(lowered.trunk, QUANTISE):
            (after,) = node.users
            # The layers before it are rounded too, so a value may lie a few steps outside of the range seen in fp32.
            assert (before[after.name] - before[node.args[0].name]).abs().max() <= 4.0 * steps[node.args[0].name]


def test_zero_is_exact_so_that_padding_is(small: tuple[Cut, Cut, list[tuple[Tensor]]]) -> None:
    _, lowered, _ = small
    for node in targets(lowered.trunk, QUANTISE):
        zero = QUANTISE(torch.zeros(1), *node.args[1:])
        assert zero.item() == node.args[2]
        assert -128 <= node.args[2] <= 127


def test_what_moves_numbers_keeps_their_scale(small: tuple[Cut, Cut, list[tuple[Tensor]]]) -> None:
    _, lowered, _ = small
    by_name = {node.args[0].name: node.args[1:3] for node in targets(lowered.trunk, QUANTISE)}
    pooled = [value for name, value in by_name.items() if name.startswith("max_pool2d")]
    flat = [value for name, value in by_name.items() if "view" in name or name.startswith("flatten")]
    assert pooled
    assert flat
    assert {*pooled, *flat} == {by_name["relu_1"]}


def test_the_deterministic_network_is_trunk_and_head(small: tuple[Cut, Cut, list[tuple[Tensor]]]) -> None:
    _, lowered, seen = small
    with torch.no_grad():
        for frame in seen:
            boundary = lowered.trunk(*frame)[: len(lowered.boundary)]
            assert torch.equal(lowered.deterministic(*frame), lowered.head(*boundary, torch.ones(1, 16)))


def test_the_given_network_is_left_alone(small: tuple[Cut, Cut, list[tuple[Tensor]]]) -> None:
    parts, lowered, seen = small
    assert not targets(parts.trunk, QUANTISE)
    with torch.no_grad():
        exact, rounded = parts.deterministic(*seen[0]), lowered.deterministic(*seen[0])
    assert 0.0 < float((exact - rounded).abs().max()) < 0.1


def test_a_layer_computes_what_integer_arithmetic_gives() -> None:
    """An independent int8 linear layer in numpy: integers in, 32-bit sums, one rounding."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 1))
    seen = frames((1, 32), 20)
    lowered = quantise(parts_of(model, seen[0][0]), seen)
    pairs = targets(lowered.trunk, QUANTISE)
    (x_scale, x_zero), (y_scale, y_zero) = (node.args[1:3] for node in pairs)
    scale = lowered.trunk.held_p_0_weight_scale.double().numpy()
    weight = np.round(lowered.trunk.held_p_0_weight_grid.double().numpy() / scale[:, None]).astype(np.int64)
    bias = np.round(model[0].bias.detach().double().numpy() / (x_scale * scale)).astype(np.int64)
    for (x,) in seen:
        integers = np.clip(np.round(x.double().numpy() / x_scale) + x_zero, -128, 127).astype(np.int64)
        sums = (integers - x_zero) @ weight.T + bias
        result = np.clip(np.round(sums * (x_scale * scale / y_scale)) + y_zero, -128, 127)
        with torch.no_grad():
            actual = lowered.trunk(x)[0].double().numpy()
        # A sum that lies between two integers may be rounded to either.
        assert np.abs(actual - (result - y_zero) * y_scale).max() <= 1.001 * y_scale
        assert np.mean(np.abs(actual - (result - y_zero) * y_scale) > 1e-3 * y_scale) <= 1 / 16


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.both, self.drop = nn.Linear(6, 6), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.both(self.drop(torch.relu(self.both(x))))


def test_a_weight_that_trunk_and_head_share_is_rounded_in_the_trunk_only() -> None:
    torch.manual_seed(0)
    seen = frames((1, 6))
    parts = parts_of(Shared(), seen[0][0])
    lowered = quantise(parts, seen)
    with torch.no_grad():
        boundary = lowered.trunk(*seen[0])[0]
        ours = lowered.deterministic(*seen[0])
        assert torch.equal(ours, parts.head(boundary, torch.ones(1, 6)))


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 2)), (1, 4)),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, 2)), (1, 3, 4, 4)),
    ],
    ids=["no trunk", "only an image"],
)  # fmt: skip
def test_a_trunk_without_layers_to_quantise_is_refused(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    seen = frames(shape)
    with pytest.raises(ExportError, match=r"nothing to compute in int8.*weights='fp16'"):
        quantise(parts_of(build(), seen[0][0]), seen)


def test_a_dead_channel_and_a_dead_activation_are_no_trouble() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))
    with torch.no_grad():
        model[0].weight[0] = 0.0
        model[0].bias.fill_(-100.0)
    seen = frames((1, 8))
    with torch.no_grad():
        assert torch.isfinite(quantise(parts_of(model, seen[0][0]), seen).deterministic(*seen[0])).all()


def members_of(model: nn.Module, count: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    state = model.state_dict()
    return [
        {name: value + 0.1 * torch.randn(value.shape, generator=generator) for name, value in state.items()}
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def built_in() -> tuple[Cut, Cut, list[Tensor], list[tuple[Tensor]]]:
    torch.manual_seed(0)
    model = Small().eval()
    seen = frames((1, 3, 6, 6))
    captured = capture(model, seen[0], ["drop"])
    posterior = weight_bank.posterior(model, captured, members_of(model, 3))
    parts = cut(captured, posterior.stochastic)
    members = [torch.from_numpy(values) for values in posterior.weights.values()]
    return parts, quantise_members(parts, members, seen), members, seen


def test_members_that_are_built_in_have_their_layers_quantised_but_for_the_last(
    built_in: tuple[Cut, Cut, list[Tensor], list[tuple[Tensor]]],
) -> None:
    _, lowered, members, _ = built_in
    weights = [str(node.args[0].target) for node in targets(lowered.unrolled(members), PER_CHANNEL)]
    assert len(weights) == 3 * 3
    assert not [name for name in weights if "image" in name or "last" in name]


def test_a_member_is_the_same_alone_and_among_others(
    built_in: tuple[Cut, Cut, list[Tensor], list[tuple[Tensor]]],
) -> None:
    parts, lowered, members, seen = built_in
    with torch.no_grad():
        boundary = lowered.trunk(*seen[0])[: len(lowered.boundary)]
        together, exact = lowered.unrolled(members)(*boundary), parts.unrolled(members)(*boundary)
        alone = torch.cat([lowered.unrolled([value[i : i + 1] for value in members])(*boundary) for i in range(3)])
    assert torch.equal(together, alone)
    assert 0.0 < float((together - exact).abs().max()) < 0.05 * float(exact.max() - exact.min())
