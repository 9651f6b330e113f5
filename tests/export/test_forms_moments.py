"""Each rule against 100,000 samples; tolerances are the sampling error and the error that the rule states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_bdl.errors import UnsupportedModelError
from edge_bdl_export.capture import capture
from edge_bdl_export.forms.moments import activations, arithmetic, dropping, pooling
from edge_bdl_export.forms.moments.affine import Affine
from edge_bdl_export.forms.moments.factoring import TOLERANCE, factor, miss
from edge_bdl_export.forms.moments.head import MomentHead
from edge_bdl_export.forms.moments.normal import Normal, Value, Weight, mean_of
from edge_bdl_export.forms.moments.rules import RULES

SAMPLES = 100_000
# At so many standard errors a sound number fails once in ten million.
Z = 5.4
aten = torch.ops.aten


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, scale: float = 1.0, deviation: float = 1.0) -> Normal:
    """Means within two deviations of zero, deviations from a half to one and a half."""
    drawn = generator(seed)
    mean = (torch.rand(*shape, generator=drawn, dtype=torch.float64) - 0.5) * 4.0 * deviation
    spread = (0.5 + torch.rand(*shape, generator=drawn, dtype=torch.float64)).square() * deviation**2
    return Normal(mean, spread / scale, scale)


def drawn(x: Normal, seed: int = 1) -> Tensor:
    noise = torch.randn((SAMPLES, *x.mean.shape), generator=generator(seed), dtype=torch.float64)
    return x.mean + x.variance.sqrt() * noise


def assert_moments(found: Normal, samples: Tensor, of_mean: Any = 0.0, of_variance: Any = 0.0) -> None:
    """The moments are those of samples [SAMPLES, ...].

    Args:
        found: What a rule gave.
        samples: Of the same thing.
        of_mean: By how much the mean may be off besides.
        of_variance: And the variance.
    """
    samples = samples.double()
    mean, variance = samples.mean(0), samples.var(0)
    fourth = (samples - mean).pow(4).mean(0)
    of_mean = of_mean + Z * (variance / len(samples)).sqrt() + 1e-9
    of_variance = of_variance + Z * ((fourth - variance.square()).clamp_min(0.0) / len(samples)).sqrt() + 1e-9
    assert found.mean.shape == mean.shape
    assert found.variance.shape == variance.shape
    assert ((found.mean - mean).abs() <= of_mean).all(), float(((found.mean - mean).abs() / of_mean).max())
    assert ((found.variance - variance).abs() <= of_variance).all()
    assert (found.variance >= 0.0).all()


# --- layers with weights ----------------------------------------------------------------------------------------------

LAYERS = {
    "linear": (aten.linear.default, (6, 8), (8,), ()),
    "conv1d": (aten.conv1d.default, (5, 3, 3), (1, 3, 9), ([2], [1])),
    "conv2d": (aten.conv2d.default, (4, 3, 3, 3), (1, 3, 6, 7), ([2, 1], [1, 0])),
    "conv2d_depthwise": (aten.conv2d.default, (4, 1, 3, 3), (1, 4, 5, 5), ([1, 1], [0, 0], [1, 1], 4)),
    "conv2d_same": (aten.conv2d.padding, (4, 3, 3, 3), (1, 3, 5, 5), ([1, 1], "same")),
    "conv3d": (aten.conv3d.default, (3, 2, 2, 2, 2), (1, 2, 3, 3, 3), ()),
    "conv_transpose2d": (aten.conv_transpose2d.input, (3, 4, 2, 2), (1, 3, 3, 3), ([2, 2],)),
}


@pytest.mark.parametrize("certain", [False, True], ids=["uncertain_input", "certain_input"])
@pytest.mark.parametrize("random", [False, True], ids=["known_weights", "gaussian_weights"])
@pytest.mark.parametrize("layer", list(LAYERS))
def test_a_layer_s_moments_are_those_of_its_samples(layer: str, random: bool, certain: bool) -> None:
    if certain and not random:
        pytest.skip("nothing is random")
    operator, shape, inputs, settings = LAYERS[layer]
    x: Value = normal(*inputs, scale=1.7)
    weight, outputs = normal(*shape, seed=2, deviation=0.3), shape[1] if "transpose" in layer else shape[0]
    bias = normal(outputs, seed=3, deviation=0.3)
    x = mean_of(x) if certain else x
    given = [Weight(each.mean, each.variance) if random else each.mean for each in (weight, bias)]
    found = Affine(operator, x, *given, *settings)(x)
    # One draw of the weights per sample; the rule's outputs are each on their own, so each is compared by itself.
    count = SAMPLES // 10
    xs = x.expand(count, *x.shape) if isinstance(x, Tensor) else drawn(x)[:count]
    if not random:
        batch = xs.flatten(0, 1) if len(inputs) > 1 else xs
        samples = operator(batch, *given, *settings)
        samples = samples[:, None] if len(inputs) > 1 else samples
    else:
        ws, bs = drawn(weight, 4)[:count], drawn(bias, 5)[:count]
        samples = torch.func.vmap(lambda a, w, b: operator(a, w, b, *settings))(xs, ws, bs)
    # Places that share weights, or inputs that share a place, make samples of a variance of products: no error stated.
    assert_moments(found, samples)


def test_squared_weights_in_two_layers_keep_each_output_s_sum_and_stay_within_the_tolerance() -> None:
    squared = torch.rand(36, 24, 5, 5, generator=generator(), dtype=torch.float64).square()
    across, within = factor(squared, places=600)
    product = across * within.transpose(0, 1)
    assert torch.allclose(product.sum((1, 2, 3)), squared.sum((1, 2, 3)))
    assert miss(squared.flatten(1), product.flatten(1)) <= TOLERANCE
    wide = torch.rand(100, 1152, generator=generator(), dtype=torch.float64).square()
    across, within = factor(wide, places=1)
    assert miss(wide, across @ within) <= TOLERANCE


@pytest.mark.parametrize(
    ("shape", "places", "why"),
    [
        ((4, 3, 3, 3), 4, "saves nothing"),
        ((24, 3, 5, 5), 3000, "has three channels"),
        ((64, 64, 3, 3), 60, "is peaked"),
    ],
)
def test_squared_weights_stay_whole_where_two_layers_are_no_gain_or_too_far_off(
    shape: tuple[int, ...], places: int, why: str
) -> None:
    squared = torch.rand(*shape, generator=generator(), dtype=torch.float64)
    if why == "is peaked":
        squared = squared**60
    assert factor(squared, places) is None, why


def test_a_factored_layer_s_variance_is_close_to_the_whole_one_s() -> None:
    x = normal(1, 24, 31, 40, deviation=0.5)
    weight = torch.randn(36, 24, 5, 5, generator=generator(), dtype=torch.float64) / 25.0
    layer = Affine(aten.conv2d.default, x, weight, None, [2, 2])
    assert layer.products[0].across is not None
    found, exact = layer(x).variance, functional.conv2d(x.variance, weight.square(), stride=2)
    assert (found / exact - 1.0).square().mean().sqrt() <= TOLERANCE


# --- activations ------------------------------------------------------------------------------------------------------


def spread_out() -> Normal:
    """From 5 deviations below the bend to 5 above it, with deviations from 0.1 to 3."""
    standard = torch.linspace(-5.0, 5.0, 21, dtype=torch.float64)[:, None]
    deviation = torch.tensor([0.1, 0.5, 1.0, 3.0], dtype=torch.float64)
    return Normal(standard * deviation, deviation.square().expand(21, 4) / 2.5, 2.5)


def test_the_rectifier_s_moments_are_those_of_samples_but_for_the_fits() -> None:
    x = spread_out()
    assert_moments(
        activations.relu(x), drawn(x).relu(), activations.MEAN_ERROR * x.variance.sqrt(),
        activations.VARIANCE_ERROR * x.variance,
    )  # fmt: skip


def test_far_from_its_bend_the_rectifier_passes_all_or_nothing_without_losing_digits() -> None:
    x = Normal(torch.tensor([1e3, -1e3, 5.0]), torch.tensor([1e-6, 1e-6, 1e-12]))
    found = activations.relu(x)
    assert torch.allclose(found.mean, torch.tensor([1e3, 0.0, 5.0]), rtol=1e-6, atol=1e-4)
    assert torch.allclose(found.variance, torch.tensor([1e-6, 0.0, 1e-12]), rtol=1e-4, atol=1e-12)


def test_a_certain_zero_passes_the_rectifier_without_dividing_by_nothing() -> None:
    found = activations.relu(Normal(torch.zeros(3), torch.zeros(3)))
    assert torch.isfinite(found.mean).all()
    assert (found.mean <= 1e-6).all()
    assert (found.variance <= 1e-11).all()


@pytest.mark.parametrize("slope", [0.01, 0.25])
def test_the_leaky_rectifier_s_moments_are_those_of_samples_but_for_the_fits(slope: float) -> None:
    x = spread_out()
    error = (1.0 - slope) ** 2 * activations.VARIANCE_ERROR + 2.0 * slope * (1.0 - slope) * 0.0095
    assert_moments(
        activations.leaky_relu(x, slope), functional.leaky_relu(drawn(x), slope),
        activations.MEAN_ERROR * x.variance.sqrt(), error * x.variance,
    )  # fmt: skip


def test_a_slope_per_channel_belongs_to_its_channel() -> None:
    x, slope = normal(1, 3, 2, 2), torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    error = activations.VARIANCE_ERROR + 0.0095
    assert_moments(
        activations.leaky_relu(x, slope), functional.prelu(drawn(x).flatten(0, 1), slope)[:, None],
        activations.MEAN_ERROR * x.variance.sqrt(), error * x.variance,
    )  # fmt: skip


@pytest.mark.parametrize(("deviation", "allowed"), [(0.25, 0.03), (0.5, 0.10), (1.0, 0.60)])
def test_clipped_moments_are_off_by_what_they_state(deviation: float, allowed: float) -> None:
    low, high = -0.5, 0.5
    mean = torch.linspace(-1.5, 1.5, 25, dtype=torch.float64)
    x = Normal(mean, torch.full_like(mean, deviation**2))
    samples = drawn(x).clamp(low, high)
    assert_moments(
        activations.clamp(x, low, high), samples, 2.0 * activations.EXCESS_ERROR * deviation,
        allowed * samples.var(0) + 2.0 * activations.VARIANCE_ERROR * deviation**2,
    )  # fmt: skip


@pytest.mark.parametrize(("low", "high"), [(None, 0.7), (-0.3, None)])
def test_one_bound_is_a_rectifier(low: float | None, high: float | None) -> None:
    x = spread_out()
    assert_moments(
        activations.clamp(x, low, high), drawn(x).clamp(low, high), activations.MEAN_ERROR * x.variance.sqrt(),
        activations.VARIANCE_ERROR * x.variance,
    )  # fmt: skip


SMOOTH: dict[str, tuple[Any, Callable[[Tensor], Tensor]]] = {
    "sigmoid": (aten.sigmoid.default, torch.sigmoid),
    "tanh": (aten.tanh.default, torch.tanh),
    "gelu": (aten.gelu.default, functional.gelu),
    "silu": (aten.silu.default, functional.silu),
    "softplus": (aten.softplus.default, functional.softplus),
}


@pytest.mark.parametrize(("deviation", "allowed"), [(0.1, 0.02), (0.5, 0.02), (1.0, 0.15)])
@pytest.mark.parametrize("name", list(SMOOTH))
def test_smooth_functions_are_integrated_as_closely_as_stated(name: str, deviation: float, allowed: float) -> None:
    operator, function = SMOOTH[name]
    mean = torch.linspace(-3.0, 3.0, 13, dtype=torch.float64)
    x = Normal(mean, torch.full_like(mean, deviation**2))
    samples = function(drawn(x))
    variance = samples.var(0)
    assert_moments(RULES[operator](x), samples, 0.02 * variance.sqrt(), ((1.0 + allowed) ** 2 - 1.0) * variance)


# --- dropout ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.05, 0.4])
@pytest.mark.parametrize("kind", [nn.Dropout, nn.AlphaDropout])
def test_dropout_s_moments_are_those_of_torch_s_own(kind: type[nn.Module], rate: float) -> None:
    x = normal(6, scale=0.3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        samples = kind(rate).train()(drawn(x))
        of_certain = kind(rate).train()(x.mean.expand(SAMPLES, 6))
    assert_moments(dropping.dropout(x, rate, kind is nn.AlphaDropout), samples)
    assert_moments(dropping.dropout(x.mean, rate, kind is nn.AlphaDropout), of_certain)


def test_channel_dropout_has_the_same_moments_in_every_unit() -> None:
    x = normal(1, 3, 2, 2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        samples = nn.Dropout2d(0.3).train()(drawn(x).flatten(0, 1))[:, None]
    assert_moments(dropping.dropout(x, 0.3), samples)


# --- pooling ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [([2, 2],), ([3, 3], [2, 2], [1, 1])])
def test_averages_over_windows_have_the_average_variance_over_their_number(settings: tuple[Any, ...]) -> None:
    x = normal(1, 2, 6, 6, scale=1.3)
    pooled = aten.avg_pool2d.default(drawn(x).flatten(0, 1), *settings)[:, None]
    assert_moments(RULES[aten.avg_pool2d.default](x, *settings), pooled)


def test_adaptive_averages_and_means_and_sums_over_axes() -> None:
    x = normal(1, 2, 4, 6)
    samples = drawn(x)
    pooled = functional.adaptive_avg_pool2d(samples.flatten(0, 1), (2, 3))[:, None]
    assert_moments(RULES[aten.adaptive_avg_pool2d.default](x, [2, 3]), pooled)
    assert_moments(pooling.mean(x, [2, 3]), samples.mean((3, 4)))
    assert_moments(pooling.mean(x), samples.flatten(1).mean(1))
    assert_moments(pooling.total(x, [1], True), samples.sum(2, keepdim=True))


def test_the_larger_of_two_is_exact_but_for_the_fits() -> None:
    x, y = normal(40, scale=2.0), normal(40, seed=7)
    both = x.variance + y.variance
    assert_moments(
        activations.larger(x, y), torch.maximum(drawn(x), drawn(y, 2)), activations.EXCESS_ERROR * both.sqrt(),
        activations.VARIANCE_ERROR * both,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "allowed"), [(([2, 2],), 0.10), (([3, 3], [2, 2], [1, 1]), 0.14), (([4, 4],), 0.235)]
)
def test_the_largest_of_a_window_is_as_close_as_stated(settings: tuple[Any, ...], allowed: float) -> None:
    x = normal(1, 2, 8, 8)
    samples = aten.max_pool2d.default(drawn(x).flatten(0, 1), *settings)[:, None]
    variance = samples.var(0)
    off = (1.0 - (1.0 - allowed) ** 2) * variance
    assert_moments(pooling.maximum(x, *settings), samples, 0.08 * variance.sqrt(), off)


@pytest.mark.parametrize(
    ("rule", "arguments", "message"),
    [
        (RULES[aten.avg_pool2d.default], ([2, 2], [2, 2], [0, 0], True), "ceil_mode"),
        (RULES[aten.avg_pool2d.default], ([2, 2], [2, 2], [1, 1], False, False), "count_include_pad"),
        (RULES[aten.adaptive_avg_pool2d.default], ([4, 4],), "different sizes"),
        (RULES[aten.max_pool2d.default], ([2, 2], [2, 2], [0, 0], [1, 1], True), "ceil_mode"),
    ],
)
def test_windows_of_different_sizes_are_refused(rule: Any, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        rule(normal(1, 2, 6, 6), *arguments)


# --- arithmetic -------------------------------------------------------------------------------------------------------


def test_sums_differences_and_multiples() -> None:
    x, y, known = normal(4, scale=1.5), normal(4, seed=8), torch.tensor([0.5, -2.0, 0.0, 3.0], dtype=torch.float64)
    a, b = drawn(x), drawn(y, 2)
    assert_moments(arithmetic.add(x, y), a + b)
    assert_moments(arithmetic.add(x, y, alpha=2.0), a + 2.0 * b)
    assert_moments(arithmetic.subtract(known, x), known - a)
    assert_moments(arithmetic.subtract(x, 1.5), a - 1.5)
    assert_moments(arithmetic.reverse_subtract(x, 1.0), 1.0 - a)
    assert_moments(arithmetic.multiply(known, x), known * a)
    assert_moments(arithmetic.multiply(x, -3.0), -3.0 * a)
    assert_moments(arithmetic.multiply(x, 0.0), 0.0 * a)
    assert_moments(arithmetic.divide(x, 4.0), a / 4.0)
    assert_moments(arithmetic.negative(x), -a)
    assert_moments(arithmetic.add(x, torch.zeros(2, 4, dtype=torch.float64)), a[:, None].expand(-1, 2, -1))


def test_batch_norm_with_its_statistics_held() -> None:
    x, norm = normal(1, 3, 2, 2), nn.BatchNorm2d(3).double().eval()
    with torch.no_grad():
        norm.running_mean.normal_(generator=generator())
        norm.running_var.uniform_(0.5, 2.0, generator=generator())
        norm.weight.uniform_(0.5, 2.0, generator=generator())
        samples = norm(drawn(x).flatten(0, 1))[:, None]
        (found,) = arithmetic.batch_norm(x, norm.weight, norm.bias, norm.running_mean, norm.running_var, 0.1, norm.eps)
    assert_moments(found, samples)


def test_moving_numbers_around_moves_both_moments() -> None:
    x, y = normal(1, 4, 3, scale=2.0), normal(1, 4, 3, seed=9)
    a, b, known = drawn(x), drawn(y, 2), torch.ones(1, 1, 3, dtype=torch.float64)
    assert_moments(arithmetic.concatenate([x, y, known], 1), torch.cat([a, b, known.expand(SAMPLES, 1, 1, 3)], 2))
    assert_moments(RULES[aten.permute.default](x, [0, 2, 1]), a.permute(0, 1, 3, 2))
    assert_moments(RULES[aten.view.default](x, [1, 12]), a.reshape(SAMPLES, 1, 12))
    halves = RULES[aten.split.Tensor](x, 2, 1)
    assert_moments(halves[1], a[:, :, 2:])
    assert_moments(arithmetic.pad(x, [1, 1], "constant", 0.5), functional.pad(a, [1, 1], value=0.5))


def test_products_of_what_is_uncertain_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="product of two activations"):
        arithmetic.multiply(normal(3), normal(3))
    with pytest.raises(UnsupportedModelError, match="division by"):
        arithmetic.divide(1.0, normal(3))


# --- the walk ---------------------------------------------------------------------------------------------------------


def test_an_operator_without_a_rule_is_refused_by_name_and_place() -> None:
    class Ranked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.2)
            self.out = nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.cumsum(self.drop(x), 1))

    x = torch.rand(1, 4)
    captured = capture(Ranked().eval(), (x,))
    with pytest.raises(UnsupportedModelError, match=r"no rule for aten\.cumsum.*docs/export\.md"):
        MomentHead(captured, captured.inputs, (x,), {})


def test_a_gaussian_parameter_outside_layers_is_refused() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(4))
            self.out = nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(x * self.gain)

    x = torch.rand(1, 4)
    captured = capture(Scaled().eval(), (x,))
    gain = next(node for node, name in captured.parameters.items() if name == "gain")
    weight = Weight(captured.state[gain].double(), torch.ones(4, dtype=torch.float64))
    with pytest.raises(UnsupportedModelError, match="is Gaussian, and read by more than linear layers"):
        MomentHead(captured, captured.inputs, (x,), {gain: weight})
