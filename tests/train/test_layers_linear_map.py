"""The estimators: one distribution of each output, known in closed form; other dependence between rows."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from edge_bdl_train.layers.base import Estimator, VariationalLayer
from edge_bdl_train.layers.conv import VariationalConv
from edge_bdl_train.layers.conv_transpose import VariationalConvTranspose
from edge_bdl_train.layers.linear import VariationalLinear
from edge_bdl_train.priors.gaussian import Gaussian

DRAWS = 4_000
ESTIMATORS: tuple[Estimator, ...] = ("reparametrisation", "local_reparametrisation", "flipout")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(kind: type[VariationalLayer], layer: nn.Module, estimator: Estimator) -> VariationalLayer:
    """With means that are drawn, and another sigma for every weight."""
    twin = kind.from_deterministic(layer.double(), Gaussian(), 0.1, estimator=estimator, generator=seeded(2))
    with torch.no_grad():
        for weight in twin.weights().values():
            weight.mean.copy_(torch.randn(weight.mean.shape, generator=seeded(3), dtype=torch.float64))
            weight.rho.copy_(torch.randn(weight.rho.shape, generator=seeded(4), dtype=torch.float64) - 1.0)
    return twin


@torch.no_grad()
def draws_of(twin: VariationalLayer, x: Tensor, draws: int = DRAWS) -> Tensor:
    return torch.stack([twin(x) for _ in range(draws)])


def assert_moments(draws: Tensor, mean: Tensor, variance: Tensor) -> None:
    # Five standard errors: of a mean sigma / sqrt(n), of a Gaussian's variance sigma^2 sqrt(2 / n).
    assert ((draws.mean(0) - mean).abs() <= 5.0 * (variance / len(draws)).sqrt()).all()
    assert ((draws.var(0) / variance - 1.0).abs() <= 5.0 * math.sqrt(2.0 / len(draws))).all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_linear_layers_outputs_have_the_analytic_mean_and_variance(estimator: Estimator) -> None:
    twin = made(VariationalLinear, nn.Linear(5, 3), estimator)
    x = torch.randn(4, 5, generator=seeded(0), dtype=torch.float64)
    weight, bias = twin.weights()["weight"], twin.weights()["bias"]
    mean = x @ weight.mean.T + bias.mean
    variance = x.square() @ weight.sigma.square().T + bias.sigma.square()
    assert_moments(draws_of(twin, x), mean.detach(), variance.detach())


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_only_rows_that_share_a_draw_vary_together(estimator: Estimator) -> None:
    twin = made(VariationalLinear, nn.Linear(5, 3), estimator)
    x = torch.randn(2, 5, generator=seeded(0), dtype=torch.float64)
    draws = draws_of(twin, x)
    deviation = draws - draws.mean(0)
    covariance = (deviation[:, 0] * deviation[:, 1]).mean(0)
    weight, bias = twin.weights()["weight"], twin.weights()["bias"]
    shared = (x[0] * x[1]) @ weight.sigma.square().T + bias.sigma.square()
    expected = shared.detach() if estimator == "reparametrisation" else torch.zeros(3, dtype=torch.float64)
    # E[(ab)^2] is at most 3 times the product of the variances, by Cauchy and Schwarz.
    limit = 5.0 * (3.0 * deviation[:, 0].var(0) * deviation[:, 1].var(0) / DRAWS).sqrt()
    assert ((covariance - expected).abs() <= limit).all()
    assert (shared.abs() > limit).any(), "these rows could not tell the estimators apart"


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_equal_rows_differ_unless_they_share_a_draw(estimator: Estimator) -> None:
    twin = made(VariationalLinear, nn.Linear(5, 3), estimator)
    answers = twin(torch.ones(64, 5, dtype=torch.float64))
    different = len({tuple(row) for row in answers.tolist()})
    assert different == 1 if estimator == "reparametrisation" else different > 16


def test_flipout_gives_each_example_one_draw_for_all_its_places() -> None:
    twin = made(VariationalConv, nn.Conv2d(2, 3, 1), "flipout")
    answers = twin(torch.ones(64, 2, 4, 4, dtype=torch.float64))
    assert torch.equal(answers, answers[:, :, :1, :1].expand_as(answers))
    assert len({tuple(row) for row in answers[:, :, 0, 0].tolist()}) > 16
    twin = made(VariationalLinear, nn.Linear(2, 3), "flipout")
    answers = twin(torch.ones(64, 5, 2, dtype=torch.float64))
    assert torch.equal(answers, answers[:, :1].expand_as(answers))


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(
    ("kind", "layer", "shape"),
    [
        (VariationalConv, nn.Conv2d(4, 4, 3, stride=2, padding=1, padding_mode="circular", groups=2), (2, 4, 6, 6)),
        (VariationalConv, nn.Conv1d(2, 3, 3, dilation=2, bias=False), (2, 2, 7)),
        (VariationalConvTranspose, nn.ConvTranspose2d(4, 4, 3, stride=2, groups=2), (2, 4, 3, 3)),
    ],
    ids=["circular groups", "dilated", "transposed"],
)
def test_a_convolutions_outputs_have_the_analytic_mean_and_variance(
    kind: type[VariationalLayer], layer: nn.Module, shape: tuple[int, ...], estimator: Estimator
) -> None:
    twin = made(kind, layer, estimator)
    x = torch.randn(shape, generator=seeded(0), dtype=torch.float64)
    layer.load_state_dict(twin.means())
    mean = layer(x).detach()
    # The map is linear in the weights, so that each one's own answer, squared, is its share of the variance.
    variance = torch.zeros_like(mean)
    for name, parameter in layer.named_parameters():
        sigma = twin.weights()[name].sigma.detach().flatten()
        for index in range(parameter.numel()):
            for each in layer.parameters():
                nn.init.zeros_(each)
            parameter.data.view(-1)[index] = sigma[index]
            variance += layer(x).detach().square()
    assert_moments(draws_of(twin, x, 1_000), mean, variance)


def test_where_the_input_is_zero_local_reparametrisation_still_has_a_gradient() -> None:
    twin = VariationalLinear.from_deterministic(
        nn.Linear(3, 2, bias=False), Gaussian(), 0.1, estimator="local_reparametrisation", generator=seeded(0)
    )
    x = torch.zeros(2, 3)
    x[1, 0] = 1.0
    x.requires_grad_()
    twin(x).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(twin.weight.rho.grad).all()
    assert twin.weight.rho.grad[:, 0].all()
    assert not twin.weight.rho.grad[:, 1:].any()


def test_a_transposed_convolution_takes_the_size_of_its_output() -> None:
    twin = made(VariationalConvTranspose, nn.ConvTranspose1d(2, 3, 3, stride=2), "flipout")
    x = torch.ones(1, 2, 4, dtype=torch.float64)
    assert twin(x, output_size=[10]).shape == (1, 3, 10)
    assert twin(x).shape == (1, 3, 9)
