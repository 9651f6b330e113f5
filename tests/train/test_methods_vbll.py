"""A variational last layer: its bound is the marginal likelihood on a line, and below it for classes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.fit import fit
from edge_bdl_train.likelihoods.categorical import Categorical
from edge_bdl_train.likelihoods.gaussian import Gaussian, HeteroscedasticGaussian
from edge_bdl_train.methods import vbll
from edge_bdl_train.optimiser import Optimiser

N, NOISE, SCALE = 25, 0.4, 0.8
EYE = {n: torch.eye(n, dtype=torch.float64) for n in (3, N)}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


X = torch.randn(N, 2, generator=seeded(1), dtype=torch.float64)
DESIGN = torch.cat([X, torch.ones(N, 1, dtype=torch.float64)], 1)
Y = DESIGN @ torch.randn(3, 2, generator=seeded(2), dtype=torch.float64)
Y = Y + NOISE * torch.randn(N, 2, generator=seeded(3), dtype=torch.float64)


def build(network: nn.Module, likelihood: Any, **arguments: Any) -> vbll.VbllTrainee:
    config = vbll.Config(**{"prior_scale": SCALE, **arguments})
    return vbll.build(network, likelihood, config, n_data=N, generator=seeded(0))


def at_the_exact_posterior() -> vbll.VbllTrainee:
    trainee = build(nn.Linear(2, 2).double(), Gaussian(NOISE))
    covariance = torch.linalg.inv(DESIGN.T @ DESIGN / NOISE**2 + EYE[3] / SCALE**2)
    mean = (covariance @ DESIGN.T @ Y / NOISE**2).T
    headed = trainee.network
    root = torch.linalg.cholesky(covariance)
    with torch.no_grad():
        headed.network.weight.copy_(mean[:, :2])
        headed.network.bias.copy_(mean[:, 2])
        headed.log_diagonal.copy_(root.diagonal().log().expand(2, -1))
        headed.below.copy_(root.tril(-1).expand(2, -1, -1))
    return trainee


def test_at_the_exact_posterior_of_a_line_the_bound_is_the_log_marginal_likelihood() -> None:
    covariance = SCALE**2 * DESIGN @ DESIGN.T + NOISE**2 * EYE[N]
    evidence = torch.distributions.MultivariateNormal(torch.zeros(N, dtype=torch.float64), covariance).log_prob(Y.T)
    trainee = at_the_exact_posterior()
    loss = trainee.loss(X, Y)
    assert float(-N * loss.detach()) == pytest.approx(float(evidence.sum()), rel=1e-10)
    # And that is its top: the gradient is nothing.
    loss.backward()
    gradients = [parameter.grad for parameter in trainee.network.parameters()]
    assert max(float(gradient.abs().max()) for gradient in gradients if gradient is not None) < 1e-10


def test_the_posteriors_moments_are_those_of_the_exact_one() -> None:
    posterior = at_the_exact_posterior().posterior([(X, Y)])
    covariance = torch.linalg.inv(DESIGN.T @ DESIGN / NOISE**2 + EYE[3] / SCALE**2)
    assert torch.allclose(posterior.covariance, covariance.expand(2, 3, 3))
    mean, variance = posterior.moments(X)
    assert torch.allclose(mean, DESIGN @ covariance @ DESIGN.T @ Y / NOISE**2)
    assert torch.allclose(variance[:, 0, 0], (DESIGN @ covariance * DESIGN).sum(1))
    assert torch.equal(variance[:, 0, 1], torch.zeros(N, dtype=torch.float64))


def test_training_finds_it() -> None:
    trainee = build(nn.Linear(2, 2).double(), Gaussian(NOISE), optimiser=Optimiser(learning_rate=0.1, decay=0.99))
    posterior = fit(trainee, (X, Y), epochs=500, batch_size=N, generator=seeded(4))
    exact = at_the_exact_posterior().posterior([(X, Y)])
    assert torch.allclose(posterior.mean()["weight"], exact.mean()["weight"], atol=1e-3)
    assert torch.allclose(posterior.covariance, exact.covariance, rtol=0.02, atol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("covariance", ["dense", "diagonal"])
def test_a_classifiers_bound_is_below_the_expected_log_likelihood(covariance: Any, bias: bool) -> None:
    labels = (X[:, 0] > 0).long() + (X[:, 1] > 0).long()
    network = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 3, bias=bias)).double()
    trainee = build(network, Categorical(3), covariance=covariance, optimiser=Optimiser(learning_rate=0.02))
    posterior = fit(trainee, (X, labels), epochs=60, batch_size=N, generator=seeded(0))
    outputs = posterior.predict(X, 1000, seeded(1))
    expected = Categorical(3).log_prob(outputs, labels).mean(0)
    mean, variance = trainee.network.eval()(X)
    bound = trainee._expected_log_prob(mean, variance, labels).detach()
    # The draws' own error is well below this slack.
    assert (bound <= expected + 0.05).all()
    assert float((expected - bound).mean()) < 0.5
    assert torch.allclose(posterior.moments(X)[1].diagonal(dim1=1, dim2=2), variance.detach())
    assert (posterior.probit(X).argmax(1) == labels).double().mean() > 0.8


def test_without_variance_the_bound_is_the_likelihood() -> None:
    labels = (X[:, 0] > 0).long()
    trainee = build(nn.Linear(2, 2).double(), Categorical(2))
    mean = trainee.network.network(X)
    exact = Categorical(2).log_prob(mean, labels)
    assert torch.allclose(trainee._expected_log_prob(mean, torch.zeros_like(mean), labels), exact)


def test_a_learned_noise_is_learned() -> None:
    likelihood = Gaussian(3.0, learned=True)
    trainee = build(nn.Linear(2, 2).double(), likelihood, optimiser=Optimiser(learning_rate=0.1, decay=0.99))
    fit(trainee, (X, Y), epochs=400, batch_size=N, generator=seeded(4))

    def evidence(noise: float) -> float:
        covariance = SCALE**2 * DESIGN @ DESIGN.T + noise**2 * EYE[N]
        return float(
            torch.distributions.MultivariateNormal(torch.zeros(N, dtype=torch.float64), covariance).log_prob(Y.T).sum()
        )

    found = float(likelihood.noise.detach())
    assert evidence(found) > max(evidence(found * 1.05), evidence(found / 1.05))


def test_the_kl_is_the_closed_form() -> None:
    trainee = at_the_exact_posterior()
    headed = trainee.network
    roots = headed.roots().detach()
    mean = torch.cat([headed.network.weight, headed.network.bias[:, None]], 1).detach()
    own = torch.distributions.MultivariateNormal(mean, scale_tril=roots)
    prior = torch.distributions.MultivariateNormal(torch.zeros(3).double(), SCALE**2 * EYE[3])
    expected = torch.distributions.kl_divergence(own, prior).sum()
    assert float(trainee.penalty().detach()) == pytest.approx(float(expected))


class Backwards(nn.Module):
    """Defines its last layer first."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.first = nn.Linear(4, 2), nn.Linear(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x)))


def test_a_last_layer_that_is_not_defined_last_is_refused_at_the_first_step() -> None:
    trainee = build(Backwards().double(), Gaussian(NOISE))
    with pytest.raises(InputError, match="last layer is 'last', but 'first' is defined after it"):
        trainee.step(X, Y)


@pytest.mark.parametrize(
    ("network", "likelihood", "message"),
    [
        (nn.Linear(2, 2), HeteroscedasticGaussian(), "closed form for a categorical likelihood and a Gaussian"),
        (nn.ReLU(), Categorical(2), "ReLU has no linear layer"),
    ],
)
def test_what_has_no_closed_form_is_refused(network: nn.Module, likelihood: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(network, likelihood)


@pytest.mark.parametrize("change", [{"prior_scale": 0.0}, {"initial_scale": math.nan}, {"covariance": "full"}])
def test_a_config_that_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"must be above 0|covariance is"):
        vbll.Config(**change)
