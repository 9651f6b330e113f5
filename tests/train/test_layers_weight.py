"""A Gaussian weight has the distribution that it states, and its KL divergence is the sum over its entries."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats
from torch.distributions import Normal, kl_divergence
from torch.nn import functional

from edge_bdl.errors import InputError
from edge_bdl_train.layers.weight import GaussianWeight, Proportional, inverse_softplus, rho_of
from edge_bdl_train.priors.gaussian import Gaussian
from edge_bdl_train.priors.laplace import Laplace
from edge_bdl_train.priors.mixture import ScaleMixture


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_kl_is_the_sum_over_the_entries_as_torch_has_it() -> None:
    mean = torch.randn(5, 7, generator=seeded(0), dtype=torch.float64)
    weight = GaussianWeight(mean, Gaussian(0.7, -0.2), sigma=0.3)
    with torch.no_grad():
        weight.rho += torch.randn(5, 7, generator=seeded(1), dtype=torch.float64)
    expected = kl_divergence(Normal(weight.mean, weight.sigma), Normal(-0.2, 0.7)).sum()
    torch.testing.assert_close(weight.kl(), expected)


def test_kl_of_a_weight_that_is_its_own_prior_is_zero() -> None:
    mean = torch.tensor([1.0, -2.0], dtype=torch.float64)
    assert GaussianWeight(mean, Gaussian(0.3, mean), sigma=0.3).kl().item() == pytest.approx(0.0, abs=1e-12)


def test_a_thousand_equal_weights_have_a_thousand_times_the_kl_of_one() -> None:
    one, many = (GaussianWeight(torch.zeros(n, dtype=torch.float64), Gaussian(2.0), 0.1).kl() for n in (1, 1000))
    assert many.item() == pytest.approx(1000 * one.item())
    assert one.item() == pytest.approx(math.log(2.0 / 0.1) + 0.1**2 / (2 * 2.0**2) - 0.5)


def test_kl_without_a_closed_form_is_right_on_average() -> None:
    mean, sigma, prior = 0.4, 0.2, ScaleMixture(wide=1.0, narrow=0.1, share=0.3)
    n = 200_000
    weight = GaussianWeight(torch.full((n,), mean, dtype=torch.float64), prior, sigma)

    def integrand(w: float) -> float:
        own = stats.norm.logpdf(w, mean, sigma)
        mixture = 0.3 * stats.norm.pdf(w, 0.0, 1.0) + 0.7 * stats.norm.pdf(w, 0.0, 0.1)
        return math.exp(own) * (own - math.log(mixture))

    exact, _ = integrate.quad(integrand, mean - 10 * sigma, mean + 10 * sigma)
    # The log-density of this prior varies by less than 3 nats (standard deviation) between draws of the weight.
    assert weight.kl(seeded(2)).item() / n == pytest.approx(exact, abs=5 * 3.0 / math.sqrt(n))


def test_kl_without_a_closed_form_needs_a_generator() -> None:
    with pytest.raises(InputError, match="give a generator"):
        GaussianWeight(torch.zeros(2), ScaleMixture(), 0.1).kl()


@pytest.mark.parametrize("prior", [Gaussian(), ScaleMixture(), Laplace()])
def test_rho_of_100_does_not_overflow(prior: Gaussian | ScaleMixture | Laplace) -> None:
    weight = GaussianWeight(torch.zeros(3), prior, 0.1)
    torch.nn.init.constant_(weight.rho, 100.0)
    assert torch.equal(weight.sigma, torch.full((3,), 100.0))
    loss = weight.kl(seeded(0)) + weight.sample(seeded(0)).sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(weight.rho.grad).all()


@given(st.floats(1e-12, 1e6))
def test_sigma_is_what_was_asked_for(sigma: float) -> None:
    rho = torch.tensor(inverse_softplus(sigma), dtype=torch.float64)
    # torch's softplus leaves out what is below exp(-20).
    assert functional.softplus(rho).item() == pytest.approx(sigma, rel=3e-9)


def test_rho_is_found_entry_by_entry_and_for_a_sigma_of_0() -> None:
    sigma = torch.tensor([0.0, 1e-9, 0.05, 3.0, 100.0], dtype=torch.float64)
    torch.testing.assert_close(functional.softplus(rho_of(sigma)), sigma, rtol=3e-9, atol=0.0)
    assert rho_of(sigma).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sigma_may_be_a_share_of_each_weight(dtype: torch.dtype) -> None:
    mean = torch.tensor([[1.0, -2.0], [0.0, 1e-4]], dtype=dtype)
    weight = GaussianWeight(mean, Gaussian(1.0, mean), Proportional(0.1))
    smallest = 0.1 * 0.01 * 3.0001 / 4  # of the mean size
    torch.testing.assert_close(weight.sigma, torch.tensor([[0.1, 0.2], [smallest, smallest]], dtype=dtype))
    assert (weight.rho.dtype, weight.rho.requires_grad) == (dtype, True)


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="weights that are all 0"):
        GaussianWeight(torch.zeros(3), Gaussian(), Proportional(0.1))
    for delta in (0.0, -0.1, math.nan, math.inf):
        with pytest.raises(InputError, match="delta"):
            Proportional(delta)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_weight_without_sigma_is_its_mean_to_the_bit_and_may_be_written_to_a_file(dtype: torch.dtype) -> None:
    weight = GaussianWeight(torch.randn(50, generator=seeded(0), dtype=dtype), Gaussian(), 0.0)
    assert torch.equal(weight.sample(seeded(1)), weight.mean)
    assert all(torch.isfinite(value).all() for value in weight.state_dict().values())


def test_draws_have_mean_and_sigma_and_are_the_generators() -> None:
    n = 100_000
    weight = GaussianWeight(torch.full((n,), 3.0), Gaussian(), 0.5)
    draw = weight.sample(seeded(4))
    assert draw.mean().item() == pytest.approx(3.0, abs=5 * 0.5 / math.sqrt(n))
    assert draw.std().item() == pytest.approx(0.5, rel=5 / math.sqrt(2 * n))
    assert torch.equal(draw, weight.sample(seeded(4)))
    assert not torch.equal(draw, weight.sample(seeded(5)))


def test_gradients_of_a_draw_reach_mean_and_sigma() -> None:
    weight = GaussianWeight(torch.zeros(4, dtype=torch.float64), Gaussian(), 0.5)
    draw = weight.sample(seeded(0))
    draw.sum().backward()
    noise = draw.detach() / 0.5
    torch.testing.assert_close(weight.mean.grad, torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(weight.rho.grad, noise * torch.sigmoid(weight.rho.detach()))


def test_a_weight_that_is_used_as_a_tensor_says_so() -> None:
    with pytest.raises(InputError, match="linear got a Gaussian weight"):
        functional.linear(torch.zeros(1, 2), GaussianWeight(torch.zeros(1, 2), Gaussian(), 0.1))


@pytest.mark.parametrize("sigma", [-0.1, math.nan, math.inf])
def test_a_sigma_that_is_none_is_refused(sigma: float) -> None:
    with pytest.raises(InputError, match="at least 0 and finite"):
        GaussianWeight(torch.zeros(2), Gaussian(), sigma)


def test_a_weight_of_whole_numbers_is_refused() -> None:
    with pytest.raises(InputError, match="int64"):
        GaussianWeight(torch.zeros(2, dtype=torch.int64), Gaussian(), 0.1)
