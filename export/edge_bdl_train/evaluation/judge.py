"""A posterior, judged on what its recipe kept for that: its outputs become plain tensors, and nothing else is asked."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.callers_code import call
from edge_bdl_train.evaluation.density import FeatureDensity, features_of
from edge_bdl_train.evaluation.evaluate import evaluate_classes, evaluate_gaussians
from edge_bdl_train.evaluation.report import Evaluation
from edge_bdl_train.evaluation.scores import Scores, class_scores, gaussian_scores
from edge_bdl_train.held_out import HeldOut
from edge_bdl_train.likelihoods.base import Likelihood, RegressionLikelihood
from edge_bdl_train.likelihoods.categorical import Categorical
from edge_bdl_train.likelihoods.gaussian import Gaussian, HeteroscedasticGaussian
from edge_bdl_train.likelihoods.restored import restored
from edge_bdl_train.methods.dropout import DropoutPosterior, dropout_posterior
from edge_bdl_train.methods.point import PointPosterior
from edge_bdl_train.posterior import Posterior
from edge_bdl_train.posterior_file import is_posterior_file, load_posterior
from edge_bdl_train.progress import Stage, silent
from edge_bdl_train.recipes.base import Recipe


def open_fitted(path: Path, recipe: Recipe, stage: Stage = silent) -> tuple[Posterior, HeldOut]:
    """What a file holds, and the data to judge it by.

    Args:
        path: a posterior's file, or a checkpoint, whose network is a posterior by its dropout modules, or a point.
        recipe: that made it. The network is built as the file says, or where a posterior's does not, as this recipe.
        stage: opens a progress bar.

    Raises:
        CheckpointError: the file is missing, damaged, or something else wrote it.
        InputError: the recipe keeps no data for evaluation, or cannot find it.
    """
    if is_posterior_file(path):
        posterior = recipe.load_posterior(path)
        return posterior, recipe.held_out(posterior.network, stage)
    network = recipe.load(path)
    held_out = recipe.held_out(network, stage)
    return as_posterior(network, held_out.known[:1], held_out.known_targets[:1]), held_out


def open_own(path: Path, reference: str) -> tuple[Posterior, HeldOut]:
    """The posterior of a file and the data to judge it by, of a network that no recipe of this package built.

    Args:
        path: a posterior's file.
        reference: ``MODULE:FUNCTION`` of the caller's, which returns the network, with any weights, and a ``HeldOut``.

    Raises:
        CheckpointError: the file is missing, damaged, or another network's.
        InputError: the function fails, or returns something else.
    """
    match call(reference):
        case (nn.Module() as network, HeldOut() as held_out):
            return load_posterior(path, network), held_out
        case other:
            raise InputError(f"{reference}() gave {other!r}: return a torch network and a HeldOut")


def as_posterior(network: nn.Module, inputs: Tensor, targets: Tensor) -> Posterior:
    """A trained network as what its dropout modules make of it; one set of weights where it has none.

    Args:
        network: in eval mode.
        inputs: [1, ...], an example, by which the masks' shapes are found.
        targets: [1], its.
    """
    if any(isinstance(module, nn.modules.dropout._DropoutNd) for module in network.modules()):
        return dropout_posterior(DropoutPosterior, network, {}, [(inputs, targets)])
    return PointPosterior(network, {})


def judge(
    posterior: Posterior, held_out: HeldOut, *, members: int, generator: torch.Generator, stage: Stage = silent
) -> Evaluation:
    """Predicts everything that was held out by the same members, and judges it.

    Args:
        posterior: what to judge.
        held_out: what to judge it by.
        members: how many to draw.
        generator: draws them.
        stage: opens a progress bar.

    Raises:
        InputError: the network's outputs are not what the data asks for.
    """
    drawn = posterior.sample(generator, members)
    likelihood = _likelihood(posterior, held_out)
    sets = {"": held_out.inputs, **held_out.outsiders}
    advance = stage("members predict", members * (len(sets) + isinstance(likelihood, Categorical)))

    def outputs(inputs: Tensor) -> Tensor:
        answers = []
        for member in drawn:
            answers.append(posterior.answer(inputs, member))
            advance()
        return torch.stack(answers).double()

    predicted = {name: _checked(outputs(inputs), likelihood) for name, inputs in sets.items()}
    scores = {name: _scores(members_outputs, likelihood) for name, members_outputs in predicted.items()}
    _add_density(scores, posterior.network, held_out, sets)
    known = scores.pop("")
    if isinstance(likelihood, Categorical):
        return evaluate_classes(
            predicted[""].softmax(-1),
            held_out.targets,
            scores=known,
            outsiders=scores,
            calibration=(_checked(outputs(held_out.known), likelihood).softmax(-1), held_out.known_targets),
        )
    targets = held_out.targets.double()
    is_gaussian = isinstance(likelihood, (Gaussian, HeteroscedasticGaussian))
    return evaluate_gaussians(
        *_moments(predicted[""], likelihood),
        targets,
        unit=held_out.unit,
        log_density=None if is_gaussian else likelihood.log_prob(predicted[""], targets),
        scores=known,
        outsiders=scores,
    )


def _likelihood(posterior: Posterior, held_out: HeldOut) -> Categorical | RegressionLikelihood:
    """What the outputs mean: as the posterior was fitted, else as the data say."""
    own = restored(posterior.settings.get("likelihood", {})) or held_out.likelihood
    if not isinstance(own, (Categorical, RegressionLikelihood)):
        raise InputError(
            "neither the posterior nor the data say what the network's outputs mean: give HeldOut a likelihood"
        )
    return own


def _scores(outputs: Tensor, likelihood: Likelihood) -> Scores:
    if isinstance(likelihood, RegressionLikelihood):
        return gaussian_scores(*_moments(outputs, likelihood))
    return class_scores(outputs.softmax(-1), outputs)


def _moments(outputs: Tensor, likelihood: RegressionLikelihood) -> tuple[Tensor, Tensor]:
    """Each member's mean and variance [S, N] of the one target."""
    return likelihood.predictive_mean(outputs)[..., 0], likelihood.predictive_variance(outputs).detach()[..., 0]


def _add_density(scores: dict[str, Scores], network: nn.Module, held_out: HeldOut, sets: dict[str, Tensor]) -> None:
    """Adds the density's score to each set's; nothing where the network has no features that could be known."""
    features = features_of(network, held_out.known)
    if features is None:
        return
    density = FeatureDensity(features)
    for name, inputs in sets.items():
        scores[name]["density"] = density(features_of(network, inputs))


def _checked(outputs: Tensor, likelihood: Likelihood) -> Tensor:
    if outputs.ndim != 3 or outputs.shape[-1] != likelihood.outputs:
        raise InputError(
            f"the network gives {list(outputs.shape[1:])}, expected [N, {likelihood.outputs}] for one target or its "
            f"classes by the likelihood {type(likelihood).__name__}"
        )
    return outputs
