"""Priors are the densities that they claim, and their KL divergences are those of torch or of an integral."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from torch import Tensor, nn
from torch.distributions import Categorical, MixtureSameFamily, Normal, kl_divergence
from torch.distributions import Laplace as TorchLaplace

from edge_bdl.errors import InputError
from edge_bdl_train.priors.base import Prior, log_prior
from edge_bdl_train.priors.gaussian import Gaussian
from edge_bdl_train.priors.laplace import Laplace
from edge_bdl_train.priors.mixture import ScaleMixture
from edge_bdl_train.priors.structured import Structured, from_tensors, informed

MEAN = torch.linspace(-1.0, 1.0, 12, dtype=torch.float64).reshape(3, 4)
SCALE = torch.linspace(0.1, 2.0, 12, dtype=torch.float64).reshape(3, 4)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def mixture(wide: float, narrow: float, share: float) -> MixtureSameFamily:
    parts = Normal(torch.zeros(2, dtype=torch.float64), torch.tensor([wide, narrow], dtype=torch.float64))
    return MixtureSameFamily(Categorical(torch.tensor([share, 1.0 - share], dtype=torch.float64)), parts)


@pytest.mark.parametrize(
    ("prior", "reference"),
    [
        (Gaussian(), Normal(0.0, 1.0)),
        (Gaussian(0.3, -0.7), Normal(-0.7, 0.3)),
        (Gaussian(SCALE, MEAN), Normal(MEAN, SCALE)),
        (Gaussian(SCALE[:, :1], 2.0), Normal(2.0, SCALE[:, :1])),
        (Laplace(0.4), TorchLaplace(torch.zeros((), dtype=torch.float64), 0.4)),
        (ScaleMixture(1.5, 0.6, 0.25), mixture(1.5, 0.6, 0.25)),
    ],
)
def test_log_density_is_the_sum_of_torchs(prior: Prior, reference: torch.distributions.Distribution) -> None:
    weight = normal(3, 4)
    torch.testing.assert_close(prior.log_prob(weight), reference.log_prob(weight).sum())


def test_the_papers_narrowest_mixture_keeps_its_logarithm_far_out() -> None:
    weight = torch.tensor([0.0, 30.0])
    density = ScaleMixture(wide=math.exp(-2.0), narrow=math.exp(-8.0)).log_prob(weight)
    expected = math.log(0.5) + stats.norm.logpdf(30.0, 0.0, math.exp(-2.0))
    expected += math.log(
        0.5 * stats.norm.pdf(0.0, 0.0, math.exp(-2.0)) + 0.5 * stats.norm.pdf(0.0, 0.0, math.exp(-8.0))
    )
    assert density.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("prior", [ScaleMixture(), ScaleMixture(1.5, 0.6, 0.25), ScaleMixture(1.0, 0.9, 0.99)])
def test_the_gradient_of_a_mixture_is_torchs_near_and_far(prior: ScaleMixture) -> None:
    ours = torch.tensor([0.0, 1e-3, 0.01, 0.02, 0.5, -3.0, 30.0], dtype=torch.float64, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    prior.log_prob(ours).backward()
    mixture(prior.wide, prior.narrow, prior.share).log_prob(theirs).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("prior", [Gaussian(0.3, -0.7), Gaussian(SCALE, MEAN)])
def test_kl_to_a_gaussian_is_torchs(prior: Gaussian) -> None:
    mean, sigma = normal(3, 4), SCALE.flip(0)
    expected = kl_divergence(Normal(mean, sigma), Normal(torch.as_tensor(prior.mean), torch.as_tensor(prior.scale)))
    torch.testing.assert_close(prior.kl(mean, sigma), expected.sum())


@settings(max_examples=30)
@given(st.floats(-3.0, 3.0), st.floats(0.01, 3.0), st.floats(0.05, 5.0))
def test_kl_to_a_laplace_prior_is_the_integral(mean: float, sigma: float, scale: float) -> None:
    def integrand(w: float) -> float:
        own = stats.norm.logpdf(w, mean, sigma)
        return math.exp(own) * (own - stats.laplace.logpdf(w, scale=scale))

    low, high = mean - 10.0 * sigma, mean + 10.0 * sigma
    kink = (0.0,) if low < 0.0 < high else None
    exact, error = integrate.quad(integrand, low, high, points=kink, limit=200)
    divergence = Laplace(scale).kl(*(torch.tensor([value], dtype=torch.float64) for value in (mean, sigma)))
    assert divergence.item() == pytest.approx(exact, rel=1e-7, abs=1e-7 + error)


def test_the_gradients_of_the_kl_to_a_laplace_prior_are_right() -> None:
    mean, sigma = normal(3, 4).requires_grad_(), SCALE.clone().requires_grad_()
    assert torch.autograd.gradcheck(Laplace(0.4).kl, (mean, sigma))


def test_a_laplace_prior_gives_every_gradient_even_without_sigma() -> None:
    mean, sigma = torch.tensor([0.0, 0.5], requires_grad=True), torch.tensor([1e-30, 1e-30], requires_grad=True)
    Laplace(1.0).kl(mean, sigma).backward()
    assert torch.isfinite(mean.grad).all()
    assert torch.isfinite(sigma.grad).all()


def test_a_mixture_has_no_closed_kl() -> None:
    assert ScaleMixture().kl(torch.zeros(2), torch.ones(2)) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("prior", [Gaussian(SCALE, MEAN), Laplace(), ScaleMixture()])
def test_the_weights_dtype_is_kept(prior: Prior, dtype: torch.dtype) -> None:
    assert prior.log_prob(normal(3, 4).to(dtype)).dtype == dtype


def test_a_networks_log_prior_is_the_sum_over_its_parameters() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    expected = sum(Normal(0.0, 0.5).log_prob(parameter).sum() for parameter in network.parameters())
    torch.testing.assert_close(log_prior(Gaussian(0.5), network), expected)
    assert log_prior(None, network) == 0.0


def test_each_part_of_a_network_has_its_own_prior() -> None:
    network = nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4)), nn.Linear(4, 2)).double()
    prior = Structured({"0.0": Gaussian(0.1), "1.bias": Laplace(3.0)}, default=Gaussian(2.0))
    scales = {"0.0.weight": 0.1, "0.0.bias": 0.1, "0.1.weight": 2.0, "0.1.bias": 2.0, "1.weight": 2.0}
    expected = sum(Normal(0.0, scale).log_prob(network.get_parameter(name)).sum() for name, scale in scales.items())
    expected += TorchLaplace(0.0, 3.0).log_prob(network[1].bias).sum()
    torch.testing.assert_close(log_prior(prior, network), expected)


def test_parts_are_found_step_by_step_as_at_once() -> None:
    inner, default = Gaussian(0.1), Gaussian(2.0)
    prior = Structured({"trunk.fc.weight": inner}, default)
    for path in (("trunk.fc.weight",), ("trunk", "fc", "weight"), ("trunk", "fc.weight"), ("trunk.fc", "weight")):
        found: Prior = prior
        for name in path:
            found = found.within(name)
        assert found is inner
    assert prior.within("trunk.fc.bias") is default
    assert prior.within("trunk").within("fc").within("bias") is default
    assert prior.within("trunk.fc2.weight") is default
    nested = Structured({"trunk": Structured({"weight": inner}, Laplace())}, default)
    assert nested.within("trunk.weight") is inner
    assert isinstance(nested.within("trunk.bias"), Laplace)


def test_a_prior_of_a_part_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match=r"of 2, tronk, but the parameters are 0\.weight, 0\.bias"):
        log_prior(
            Structured({"0.bias": Gaussian(), "2": Gaussian(), "tronk": Gaussian()}, Gaussian()),
            nn.Sequential(nn.Linear(1, 1)),
        )


def test_two_priors_for_one_parameter_are_refused() -> None:
    with pytest.raises(InputError, match=r"fc\.weight has two priors"):
        Structured({"fc.weight": Gaussian(), "fc": Gaussian()}, Gaussian())


def test_a_structured_prior_is_none_of_a_single_tensor() -> None:
    prior = Structured({"fc": Gaussian()}, Gaussian())
    with pytest.raises(InputError, match="within"):
        prior.log_prob(torch.zeros(2))
    with pytest.raises(InputError, match="within"):
        prior.kl(torch.zeros(2), torch.ones(2))


def test_domain_knowledge_enters_weight_by_weight() -> None:
    network = nn.Linear(4, 3).double()
    prior = from_tensors({"weight": (MEAN, SCALE)}, default=Gaussian(0.5))
    expected = Normal(MEAN, SCALE).log_prob(network.weight).sum() + Normal(0.0, 0.5).log_prob(network.bias).sum()
    torch.testing.assert_close(log_prior(prior, network), expected)


def test_an_informed_prior_is_highest_at_the_pretrained_weights_and_keeps_them() -> None:
    pretrained = nn.Linear(4, 3).double()
    network = copy.deepcopy(pretrained)
    prior = informed(pretrained, scale=0.2)
    top = 15 * Normal(0.0, 0.2).log_prob(torch.tensor(0.0, dtype=torch.float64))
    torch.testing.assert_close(log_prior(prior, network), top)
    with torch.no_grad():
        pretrained.weight += 1.0
    torch.testing.assert_close(log_prior(prior, network), top)
    assert log_prior(prior, pretrained) < top


def test_a_tensor_prior_of_another_shape_is_refused() -> None:
    with pytest.raises(InputError, match=r"mean \[3, 4\].*weight \[4\]"):
        Gaussian(1.0, MEAN).log_prob(torch.zeros(4))


def test_a_mask_picks_the_entries_own_prior() -> None:
    mask = torch.zeros(3, 4, dtype=torch.bool)
    mask[1, 2:] = True
    picked = Gaussian(SCALE[:, :1], MEAN).at(mask)
    assert torch.equal(torch.as_tensor(picked.mean), MEAN[1, 2:])
    assert torch.equal(torch.as_tensor(picked.scale), SCALE[1, :1].expand(2))
    assert (Gaussian(2.0).at(mask).scale, Laplace(2.0).at(mask)) == (2.0, Laplace(2.0))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Gaussian(0.0),
        lambda: Gaussian(math.nan),
        lambda: Gaussian(1.0, math.inf),
        lambda: Gaussian(torch.tensor([1.0, -1.0])),
        lambda: Laplace(0.0),
        lambda: Laplace(math.inf),
        lambda: ScaleMixture(wide=0.1, narrow=0.2),
        lambda: ScaleMixture(wide=0.1, narrow=0.0),
        lambda: ScaleMixture(share=1.0),
    ],
)
def test_what_is_no_distribution_is_refused(make: object) -> None:
    with pytest.raises(InputError, match=r"(prior|mixture) needs"):
        make()
