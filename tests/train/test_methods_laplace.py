"""Last-layer Laplace: exact on a line, torch's own Hessian elsewhere, and laplace-torch where that is installed."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.fit import fit
from edge_bdl_train.likelihoods.base import Likelihood
from edge_bdl_train.likelihoods.categorical import Categorical
from edge_bdl_train.likelihoods.gaussian import Gaussian, HeteroscedasticGaussian
from edge_bdl_train.likelihoods.student_t import StudentT
from edge_bdl_train.methods import laplace
from edge_bdl_train.methods.gaussian_head import GaussianHeadPosterior

N, NOISE, PRECISION = 30, 0.4, 2.5


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


X = torch.randn(N, 3, generator=seeded(1), dtype=torch.float64)
Y = X @ torch.tensor([[1.0, 0.5], [-0.5, 0.0], [0.2, -1.0]], dtype=torch.float64)
Y = Y + 0.3 + NOISE * torch.randn(N, 2, generator=seeded(2), dtype=torch.float64)
DESIGN = torch.cat([X, torch.ones(N, 1, dtype=torch.float64)], 1)


def posterior_of(network: nn.Module, likelihood: Likelihood, x: Tensor, y: Tensor, **arguments: Any) -> Any:
    config = laplace.Config(**{"prior_precision": PRECISION, **arguments})
    trainee = laplace.build(network, likelihood, config, n_data=len(x), generator=seeded(0))
    return fit(trainee, (x, y), epochs=0, batch_size=8, generator=seeded(0))


def line_at_its_optimum() -> nn.Linear:
    layer = nn.Linear(3, 2).double()
    precision = DESIGN.T @ DESIGN / NOISE**2 + PRECISION * torch.eye(4)
    best = torch.linalg.solve(precision, DESIGN.T @ Y / NOISE**2)
    layer.weight.data, layer.bias.data = best[:3].T.contiguous(), best[3].clone()
    return layer


def test_on_a_line_it_is_the_exact_posterior() -> None:
    layer = line_at_its_optimum()
    posterior = posterior_of(layer, Gaussian(NOISE), X, Y)
    exact = torch.linalg.inv(DESIGN.T @ DESIGN / NOISE**2 + PRECISION * torch.eye(4))
    for output in range(2):
        assert torch.allclose(posterior.covariance[output, :, output], exact, rtol=1e-9)
    assert torch.equal(posterior.covariance[0, :, 1], torch.zeros(4, 4, dtype=torch.float64))
    mean, covariance = posterior.moments(X)
    assert torch.allclose(mean, layer(X))
    expected = (DESIGN @ exact * DESIGN).sum(1)
    assert torch.allclose(covariance.diagonal(dim1=1, dim2=2), expected[:, None].expand(-1, 2))


def test_its_draws_have_its_moments() -> None:
    posterior = posterior_of(line_at_its_optimum(), Gaussian(NOISE), X, Y)
    members = posterior.sample(seeded(3), 20_000)
    drawn = torch.stack([torch.cat([m["weight"], m["bias"][:, None]], 1).flatten() for m in members])
    expected = posterior.covariance.reshape(8, 8)
    # The standard error of a covariance is at most sqrt(2 / n) of the variances.
    scale = expected.diagonal().sqrt()
    assert ((drawn.T.cov() - expected).abs() < 5.0 * math.sqrt(2.0 / 20_000) * scale[:, None] * scale).all()
    mean = torch.cat([posterior.mean()["weight"], posterior.mean()["bias"][:, None]], 1).flatten()
    assert ((drawn.mean(0) - mean).abs() < 5.0 * scale / math.sqrt(20_000)).all()


def small_net(outputs: int, bias: bool = True) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, outputs, bias=bias)).double()


LABELS = (X[:, 0] > 0).long() + (X[:, 1] > 0).long()


def exact_hessian(network: nn.Module, likelihood: Likelihood, x: Tensor, y: Tensor) -> Tensor:
    """Of the summed negative log-likelihood, by torch, over the last layer's matrix with its bias as last column."""
    layer = network[-1]
    matrix = torch.cat([layer.weight, *([] if layer.bias is None else [layer.bias[:, None]])], 1).detach()

    def nll(flat: Tensor) -> Tensor:
        weights = flat.reshape(matrix.shape)
        phi = network[:-1](x).detach()
        if layer.bias is not None:
            phi = torch.cat([phi, torch.ones(len(x), 1, dtype=phi.dtype)], 1)
        return -likelihood.log_prob(phi @ weights.T, y).sum()

    return torch.autograd.functional.hessian(nll, matrix.flatten())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("likelihood", "y"), [(Categorical(3), LABELS), (Gaussian(0.7), X)])
def test_its_precision_is_the_hessian_in_the_last_layer_plus_the_prior(
    likelihood: Likelihood, y: Tensor, bias: bool
) -> None:
    network = small_net(3, bias)
    hessian = exact_hessian(network, likelihood, X, y)
    size = len(hessian)
    full = posterior_of(network, likelihood, X, y).covariance.reshape(size, size)
    assert torch.allclose(torch.linalg.inv(full), hessian + PRECISION * torch.eye(size), atol=1e-8)
    diagonal = posterior_of(network, likelihood, X, y, covariance="diagonal").covariance
    assert torch.allclose(1.0 / diagonal.flatten(), hessian.diagonal() + PRECISION)


def test_for_a_variance_per_input_the_curvature_is_the_fisher_information() -> None:
    # The expected outer product of gradients: by Gauss-Hermite quadrature over the targets, which is exact here.
    outputs = torch.tensor([[0.3, -0.8]], dtype=torch.float64)
    from numpy.polynomial.hermite_e import hermegauss

    nodes, weights = (torch.from_numpy(values) for values in hermegauss(8))
    total = torch.zeros(2, 2, dtype=torch.float64)
    for node, weight in zip(nodes, weights / weights.sum(), strict=True):
        y = outputs[:, 0] + node * torch.exp(0.5 * outputs[:, 1])
        gradient = torch.func.grad(lambda o, y=y: HeteroscedasticGaussian().log_prob(o, y).sum())(outputs)[0]
        total += weight * torch.outer(gradient, gradient)
    assert torch.allclose(laplace.output_curvature(HeteroscedasticGaussian(), outputs)[0], total)


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_the_prior_precision_has_the_largest_marginal_likelihood(covariance: str) -> None:
    network = small_net(3)
    posterior = posterior_of(network, Categorical(3), X, LABELS, prior_precision=None, covariance=covariance)
    hessian = exact_hessian(network, Categorical(3), X, LABELS)
    if covariance == "diagonal":
        hessian = torch.diag(hessian.diagonal())
    weights = torch.cat([network[-1].weight.flatten(), network[-1].bias]).detach()

    def evidence(precision: float) -> float:
        """Laplace's log evidence but for the log-likelihood (Daxberger et al. 2021, equation 4)."""
        log_prior = 0.5 * len(weights) * math.log(precision) - 0.5 * precision * float(weights.square().sum())
        return log_prior - 0.5 * float(torch.logdet(hessian + precision * torch.eye(len(weights))))

    best = posterior.settings["prior_precision"]
    # The peak is flat in the first order: by its curvature the sides must be lower, and lower still further out.
    for factor in (1.05, 1 / 1.05):
        assert evidence(best) > evidence(best * factor) > evidence(best * factor**4)


def test_on_a_line_the_marginal_likelihood_is_the_exact_one() -> None:
    """The precision is a fixed point of exact Bayes too: at the weights that are best under it, it is found again."""
    precision = 1.0
    for _ in range(200):
        best = torch.linalg.solve(DESIGN.T @ DESIGN / NOISE**2 + precision * torch.eye(4), DESIGN.T @ Y / NOISE**2)
        curvature = torch.einsum("ab,de->adbe", torch.eye(2).double(), DESIGN.T @ DESIGN / NOISE**2)
        precision = laplace.best_prior_precision(curvature, best.T)

    def evidence(precision: float) -> float:
        covariance = DESIGN @ DESIGN.T / precision + NOISE**2 * torch.eye(N)
        distribution = torch.distributions.MultivariateNormal(torch.zeros(N, dtype=torch.float64), covariance)
        return float(distribution.log_prob(Y.T).sum())

    for factor in (1.02, 1 / 1.02):
        assert evidence(precision) > evidence(precision * factor)


def trained_classifier() -> GaussianHeadPosterior:
    trainee = laplace.build(small_net(2), Categorical(2), laplace.Config(), n_data=N, generator=seeded(0))
    labels = (X[:, 0] > 0).long()
    return fit(trainee, (X, labels), epochs=30, batch_size=10, generator=seeded(0))


def test_the_probit_predictive_is_close_to_the_integral_that_it_approximates() -> None:
    posterior = trained_classifier()
    far = X * 2.0
    mean, covariance = posterior.moments(far)
    # Two classes depend on the difference of their logits alone: its Gaussian, integrated by a sum over 4,001 places.
    difference = mean[:, 1] - mean[:, 0]
    contrast = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    sd = torch.einsum("a,nab,b->n", contrast, covariance, contrast).sqrt()
    z = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    density = torch.exp(-0.5 * z**2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    integral = (torch.sigmoid(difference[:, None] + sd[:, None] * z) * density).sum(1)
    drawn = torch.softmax(posterior.sample_outputs(far, 20_000, seeded(5)), -1).mean(0)[:, 1]
    assert torch.allclose(drawn, integral, atol=5.0 * 0.5 / math.sqrt(20_000))
    # MacKay's approximation is off by a few hundredths, its many-class form by somewhat more.
    assert torch.allclose(posterior.probit(far)[:, 1], integral, atol=0.1)
    assert torch.allclose(posterior.probit(far).sum(1), torch.ones(N, dtype=torch.float64))


def test_the_probit_predictive_worked_by_hand() -> None:
    layer = nn.Linear(2, 2, bias=False).double()
    layer.weight.data = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    variances = torch.tensor([[3.0, 0.0], [0.0, 5.0]], dtype=torch.float64)
    posterior = laplace.LaplacePosterior(layer, {"layer": ""}, variances)
    # Logits 1 and 2 with variances 3 and 5.
    gap = 1.0 / math.sqrt(1.0 + math.pi / 8.0 * 3.0) - 2.0 / math.sqrt(1.0 + math.pi / 8.0 * 5.0)
    (row,) = posterior.probit(torch.ones(1, 2, dtype=torch.float64)).tolist()
    assert row == pytest.approx([1.0 / (1.0 + math.exp(-gap)), 1.0 / (1.0 + math.exp(gap))])


def test_without_variance_the_probit_predictive_is_the_softmax() -> None:
    posterior = trained_classifier()
    certain = laplace.LaplacePosterior(
        posterior.network, posterior.settings, torch.zeros_like(posterior.covariance[:, :, 0, 0])
    )
    assert torch.allclose(certain.probit(X), torch.softmax(certain.network(X), 1))


def test_drawn_outputs_and_drawn_weights_agree() -> None:
    posterior = trained_classifier()
    mean, covariance = posterior.moments(X[:4])
    functions = posterior.predict(X[:4], 10_000, seeded(1))
    outputs = posterior.sample_outputs(X[:4], 10_000, seeded(2))
    for drawn in (functions, outputs):
        scale = covariance.diagonal(dim1=1, dim2=2).sqrt()
        assert ((drawn.mean(0) - mean).abs() < 5.0 * scale / 100.0).all()
        own = torch.stack([drawn[:, row].T.cov() for row in range(4)])
        limit = 5.0 * math.sqrt(2.0 / 10_000) * scale[:, :, None] * scale[:, None, :]
        assert ((own - covariance).abs() < limit).all()


class Softmaxed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.last(x), 1)


def test_a_network_that_does_not_end_in_a_linear_layer_is_refused() -> None:
    with pytest.raises(InputError, match=r"no linear layer of Softmaxed gives its output \[1, 2\]"):
        posterior_of(Softmaxed().double(), Categorical(2), X, (X[:, 0] > 0).long())


def test_a_posteriors_network_which_is_frozen_can_be_given_a_gaussian_afterwards() -> None:
    network = line_at_its_optimum()
    thawed = posterior_of(network, Gaussian(NOISE), X, Y)
    frozen = posterior_of(network.requires_grad_(False), Gaussian(NOISE), X, Y)
    assert torch.equal(frozen.covariance, thawed.covariance)


def test_a_likelihood_without_a_known_curvature_is_refused() -> None:
    with pytest.raises(InputError, match="knows the curvature of categorical and Gaussian"):
        laplace.build(small_net(2), StudentT(), laplace.Config(), n_data=1, generator=seeded(0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"covariance": "kron"}, "'full' or 'diagonal', got 'kron'"), ({"prior_precision": 0.0}, "must be above 0")],
)
def test_a_config_that_makes_no_sense_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        laplace.Config(**arguments)


@pytest.mark.filterwarnings("ignore")  # its dependencies use what torch has deprecated
def test_it_is_what_laplace_torch_computes() -> None:
    theirs = pytest.importorskip("laplace", reason="pip install laplace-torch==0.3, to compare with it")
    network = small_net(3)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, LABELS), batch_size=8)
    reference = theirs.Laplace(
        network, "classification", subset_of_weights="last_layer", hessian_structure="full", prior_precision=PRECISION
    )
    reference.fit(loader)
    posterior = posterior_of(network, Categorical(3), X, LABELS)
    # Theirs lists all weights, then all biases.
    places = torch.arange(18).reshape(3, 6)
    order = torch.cat([places[:, :5].flatten(), places[:, 5]])
    covariance = posterior.covariance.reshape(18, 18)[order][:, order]
    assert torch.allclose(reference.posterior_covariance, covariance, atol=1e-8)
    assert torch.allclose(reference(X, link_approx="probit"), posterior.probit(X), atol=1e-6)
    diagonal = theirs.Laplace(
        network, "classification", subset_of_weights="last_layer", hessian_structure="diag", prior_precision=PRECISION
    )
    diagonal.fit(loader)
    own = posterior_of(network, Categorical(3), X, LABELS, covariance="diagonal").covariance.flatten()[order]
    assert torch.allclose(diagonal.posterior_variance, own, atol=1e-8)
    # Their search takes gradient steps; ours is at least as good by their own measure.
    reference.optimize_prior_precision(method="marglik", n_steps=200, lr=0.1)
    found = torch.tensor(
        posterior_of(network, Categorical(3), X, LABELS, prior_precision=None).settings["prior_precision"]
    )
    best = float(reference.log_marginal_likelihood(prior_precision=found.double()).detach())
    assert best >= float(reference.log_marginal_likelihood().detach()) - 1e-6
    assert float(found) == pytest.approx(float(reference.prior_precision.detach()), rel=0.05)
