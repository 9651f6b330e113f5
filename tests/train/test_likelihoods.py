"""Likelihoods are the densities that they claim: torch's or scipy's, and each integrates to one."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.likelihoods.base import Likelihood, RegressionLikelihood
from edge_bdl_train.likelihoods.categorical import Categorical
from edge_bdl_train.likelihoods.gaussian import Gaussian, HeteroscedasticGaussian
from edge_bdl_train.likelihoods.histogram import Histogram
from edge_bdl_train.likelihoods.mixture_density import MixtureDensity
from edge_bdl_train.likelihoods.restored import restored
from edge_bdl_train.likelihoods.student_t import StudentT
from edge_bdl_train.methods.described import described

EDGES = (-3.0, -1.0, 0.5, 0.75, 4.0)
REGRESSION: dict[str, RegressionLikelihood] = {
    "gaussian": Gaussian(0.7),
    "heteroscedastic": HeteroscedasticGaussian(),
    "beta": HeteroscedasticGaussian(beta=0.5),
    "student_t": StudentT(df=5.0),
    "mixture": MixtureDensity(3),
    "histogram": Histogram(EDGES),
}
EVERY = pytest.mark.parametrize("likelihood", REGRESSION.values(), ids=REGRESSION.keys())


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_map_of_classes_is_as_likely_as_its_positions_together():
    outputs, targets = normal(2, 3, 4, 5, 6), torch.arange(60).reshape(3, 4, 5) % 6
    positions = torch.distributions.Categorical(logits=outputs).log_prob(targets)
    torch.testing.assert_close(Categorical(6).log_prob(outputs, targets), positions.sum((-2, -1)))


@EVERY
def test_it_integrates_to_one_and_has_the_moments_that_it_states(likelihood: RegressionLikelihood) -> None:
    outputs = normal(1, likelihood.outputs)

    def density(y: float, power: int) -> float:
        return math.exp(likelihood.log_prob(outputs, torch.tensor([y], dtype=torch.float64)).item()) * y**power

    edges = EDGES if isinstance(likelihood, Histogram) else (-math.inf, 0.0, math.inf)
    pieces = [*pairwise(edges)]
    total, first, second = (
        sum(integrate.quad(density, low, high, args=(power,))[0] for low, high in pieces) for power in range(3)
    )
    assert total == pytest.approx(1.0, abs=1e-6)
    assert likelihood.predictive_mean(outputs).item() == pytest.approx(first, abs=1e-6)
    assert likelihood.predictive_variance(outputs).item() == pytest.approx(second - first**2, abs=1e-5)


def test_gaussian_is_torchs() -> None:
    outputs, targets = normal(4, 6, 3), normal(6, 3, seed=1)
    expected = torch.distributions.Normal(outputs, 0.7).log_prob(targets).sum(-1)
    torch.testing.assert_close(Gaussian(0.7).log_prob(outputs, targets).detach(), expected)


def test_heteroscedastic_gaussian_is_torchs_with_means_before_log_variances() -> None:
    outputs, targets = normal(4, 6, 4), normal(6, 2, seed=1)
    reference = torch.distributions.Normal(outputs[..., :2], (0.5 * outputs[..., 2:]).exp())
    likelihood = HeteroscedasticGaussian(beta=0.5)
    torch.testing.assert_close(likelihood.log_prob(outputs, targets), reference.log_prob(targets).sum(-1))
    assert torch.equal(likelihood.predictive_mean(outputs), outputs[..., :2])
    torch.testing.assert_close(likelihood.predictive_variance(outputs), reference.variance)


def test_student_t_is_scipys() -> None:
    outputs, targets = normal(4, 6, 4), normal(6, 2, seed=1)
    scale = np.exp(0.5 * outputs[..., 2:].numpy()) * math.sqrt(3.0 / 5.0)
    expected = stats.t.logpdf(targets.numpy(), df=5.0, loc=outputs[..., :2].numpy(), scale=scale).sum(-1)
    np.testing.assert_allclose(StudentT(df=5.0).log_prob(outputs, targets).numpy(), expected, rtol=1e-10)


def test_mixture_density_is_torchs() -> None:
    components, d = 3, 2
    outputs, targets = normal(4, 6, 3 * components * d), normal(6, d, seed=1)
    means, log_variances, logits = outputs.reshape(4, 6, 3, components, d).movedim(3, -1).unbind(2)
    reference = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=logits),
        torch.distributions.Normal(means, (0.5 * log_variances).exp()),
    )
    likelihood = MixtureDensity(components)
    torch.testing.assert_close(likelihood.log_prob(outputs, targets), reference.log_prob(targets).sum(-1))
    torch.testing.assert_close(likelihood.predictive_mean(outputs), reference.mean)
    torch.testing.assert_close(likelihood.predictive_variance(outputs), reference.variance)


def test_histogram_is_scipys() -> None:
    d = 2
    outputs = normal(4, 6, len(EDGES[1:]) * d)
    targets = torch.tensor([[-3.0, -1.0], [-2.0, 0.5], [0.0, 0.6], [0.7, 0.75], [3.0, 4.0], [3.9, -0.9]]).double()
    shares = torch.softmax(outputs.reshape(4, 6, -1, d), dim=2).numpy()
    likelihood = Histogram(EDGES)
    found = likelihood.log_prob(outputs, targets)
    for index in np.ndindex(4, 6):
        each = [stats.rv_histogram((shares[(*index, slice(None), k)], EDGES), density=False) for k in range(d)]
        # scipy's density is 0 at the last edge.
        values = [min(float(targets[index[1], k]), EDGES[-1] - 1e-9) for k in range(d)]
        assert found[index].item() == pytest.approx(sum(each[k].logpdf(values[k]) for k in range(d)))
        np.testing.assert_allclose(likelihood.predictive_mean(outputs)[index], [part.mean() for part in each])
        np.testing.assert_allclose(likelihood.predictive_variance(outputs)[index], [part.var() for part in each])


def test_categorical_is_torchs() -> None:
    outputs, targets = normal(4, 6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    reference = torch.distributions.Categorical(logits=outputs)
    likelihood = Categorical(3)
    torch.testing.assert_close(likelihood.log_prob(outputs, targets), reference.log_prob(targets))
    torch.testing.assert_close(likelihood.probabilities(outputs), reference.probs)
    every = torch.stack([likelihood.log_prob(outputs, torch.full((6,), k)).exp() for k in range(3)])
    torch.testing.assert_close(every.sum(0), torch.ones(4, 6, dtype=torch.float64))


@EVERY
def test_one_target_may_come_as_a_vector_or_a_column(likelihood: RegressionLikelihood) -> None:
    outputs, targets = normal(5, 6, likelihood.outputs), normal(6, seed=1).clamp(-2.0, 2.0)
    assert torch.equal(likelihood.log_prob(outputs, targets), likelihood.log_prob(outputs, targets[:, None]))
    assert likelihood.log_prob(outputs, targets).shape == (5, 6)
    assert likelihood.predictive_mean(outputs).shape == likelihood.predictive_variance(outputs).shape == (5, 6, 1)


@EVERY
def test_float32_stays_float32(likelihood: RegressionLikelihood) -> None:
    outputs, targets = normal(6, likelihood.outputs).float(), torch.zeros(6)
    values = (
        likelihood.log_prob(outputs, targets),
        likelihood.loss(outputs, targets),
        likelihood.predictive_mean(outputs),
        likelihood.predictive_variance(outputs),
    )
    assert {value.dtype for value in values} == {torch.float32}


@EVERY
def test_the_loss_is_the_negative_log_density_unless_beta_weights_it(likelihood: RegressionLikelihood) -> None:
    outputs, targets = normal(6, 2 * likelihood.outputs), normal(6, 2, seed=1).clamp(-2.0, 2.0)
    loss = likelihood.loss(outputs, targets)
    same = torch.allclose(loss, -likelihood.log_prob(outputs, targets))
    assert same is (likelihood is not REGRESSION["beta"])


def test_beta_weights_each_targets_gradient_by_its_variance_and_holds_the_weight_constant() -> None:
    outputs, targets, beta = normal(6, 4), normal(6, 2, seed=1), 0.3
    plain, weighted = outputs.clone().requires_grad_(), outputs.clone().requires_grad_()
    HeteroscedasticGaussian().loss(plain, targets).sum().backward()
    HeteroscedasticGaussian(beta=beta).loss(weighted, targets).sum().backward()
    variance = outputs[:, 2:].exp()
    torch.testing.assert_close(weighted.grad, plain.grad * torch.cat([variance, variance], dim=1) ** beta)


def test_with_beta_one_the_mean_learns_as_from_the_squared_error() -> None:
    outputs, targets = normal(6, 2).requires_grad_(), normal(6, seed=1)
    HeteroscedasticGaussian(beta=1.0).loss(outputs, targets).sum().backward()
    torch.testing.assert_close(outputs.grad[:, 0], outputs.detach()[:, 0] - targets)


def test_a_learned_noise_finds_the_residuals_size_and_a_given_one_stays() -> None:
    residuals = 0.3 * normal(1000)
    for learned in (True, False):
        likelihood = Gaussian(1.0, learned=learned)
        parameters = [parameter for parameter in likelihood.parameters() if parameter.requires_grad]
        assert bool(parameters) is learned
        if learned:
            optimiser = torch.optim.LBFGS(parameters, max_iter=50, line_search_fn="strong_wolfe")

            def closure(likelihood: Gaussian = likelihood, optimiser: torch.optim.LBFGS = optimiser) -> Tensor:
                optimiser.zero_grad()
                loss = likelihood.loss(torch.zeros(1000, 1, dtype=torch.float64), residuals).mean()
                loss.backward()
                return loss

            optimiser.step(closure)
        expected = residuals.square().mean().sqrt().item() if learned else 1.0
        assert likelihood.noise.item() == pytest.approx(expected, rel=1e-4)


def test_a_noise_is_kept_as_it_was_given_and_travels_in_a_state_dict() -> None:
    likelihood = Gaussian(0.1)
    assert likelihood.noise.item() == pytest.approx(0.1, rel=1e-15)
    other = Gaussian(5.0)
    other.load_state_dict(likelihood.state_dict())
    assert torch.equal(other.noise, likelihood.noise)
    assert isinstance(likelihood, nn.Module)


@pytest.mark.parametrize("likelihood", [*REGRESSION.values(), Categorical(7)], ids=[*REGRESSION, "categorical"])
def test_a_likelihood_comes_back_from_its_description_as_json(likelihood: Likelihood) -> None:
    again = restored(json.loads(json.dumps(described(likelihood))))
    if isinstance(likelihood, Gaussian):
        assert isinstance(again, Gaussian)
        assert again.noise.item() == pytest.approx(likelihood.noise.item(), rel=1e-15)
    else:
        assert again == likelihood


class Own(Gaussian):
    """A likelihood of somebody else's."""


def test_a_description_of_another_class_gives_none_and_one_that_makes_no_sense_is_refused() -> None:
    assert restored(described(Own(1.0))) is None
    assert restored({}) is None
    for wrong in (
        {"class": "Gaussian"},
        {"class": "Gaussian", "noise": "loud"},
        {"class": "StudentT", "df": None},
        {"class": "Histogram"},
    ):
        with pytest.raises(InputError, match=f"likelihood {wrong['class']} cannot be restored"):
            restored(wrong)
    with pytest.raises(InputError, match="df must be above 2"):
        restored({"class": "StudentT", "df": 1.0})


@EVERY
def test_hopeless_outputs_still_have_a_finite_log_density_and_gradient(likelihood: RegressionLikelihood) -> None:
    outputs = torch.full((2, likelihood.outputs), 40.0)
    outputs[1] = -40.0
    outputs.requires_grad_()
    density = likelihood.log_prob(outputs, torch.zeros(2))
    density.sum().backward()
    assert torch.isfinite(density).all()
    assert torch.isfinite(outputs.grad).all()


@pytest.mark.parametrize(
    ("likelihood", "outputs", "targets", "message"),
    [
        (Categorical(3), normal(2, 4), torch.tensor([0, 1]), r"expected logits \[..., N, 3\], got \[2, 4\]"),
        (Categorical(3), normal(2, 3), torch.tensor([0.0, 1.0]), "got torch.float32"),
        (Categorical(3), normal(2, 3), torch.tensor([[0], [1]]), r"got torch.int64 \[2, 1\]"),
        (Categorical(3), normal(2, 3), torch.tensor([0, 3]), "classes are 0 to 2, got 0 to 3"),
        (Categorical(3), normal(2, 3), torch.tensor([-1, 0]), "classes are 0 to 2, got -1 to 0"),
        (Gaussian(1.0), normal(2), normal(2), r"outputs \[..., N, 1 x targets\], got \[2\]"),
        (Gaussian(1.0), normal(2, 1), normal(3), r"real targets \[2, 1\], got torch.float64 \[3\]"),
        (Gaussian(1.0), normal(2, 2), normal(2), r"real targets \[2, 2\]"),
        (Gaussian(1.0), normal(2, 1), torch.tensor([0, 1]), "got torch.int64"),
        (HeteroscedasticGaussian(), normal(2, 3), normal(2), r"2 x targets\], got \[2, 3\]"),
        (StudentT(), normal(2, 1), normal(2), r"2 x targets\], got \[2, 1\]"),
        (MixtureDensity(2), normal(2, 4), normal(2), r"6 x targets\], got \[2, 4\]"),
        (Histogram(EDGES), normal(2, 4), torch.tensor([0.0, 4.5]), "from 0 to 4.5 do not lie in .* -3 to 4"),
        (Histogram(EDGES), normal(2, 4), torch.tensor([0.0, math.nan]), "do not lie in"),
    ],
)
def test_what_does_not_fit_is_refused(likelihood: Likelihood, outputs: Tensor, targets: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        likelihood.log_prob(outputs, targets)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Categorical(1),
        lambda: Gaussian(0.0),
        lambda: Gaussian(math.inf),
        lambda: HeteroscedasticGaussian(beta=1.5),
        lambda: StudentT(df=2.0),
        lambda: StudentT(df=math.inf),
        lambda: MixtureDensity(0),
        lambda: Histogram((0.0, 1.0)),
        lambda: Histogram((0.0, 1.0, 1.0)),
        lambda: Histogram((0.0, 1.0, math.inf)),
    ],
)
def test_what_is_no_distribution_is_refused(make: object) -> None:
    with pytest.raises(InputError, match="got"):
        make()
