"""One number per example, larger is worse: by what members can be told to be unsure.

The decomposition is the runtime's, ``edge_bdl.uncertainty``: total is what is uncertain of the prediction, aleatoric
what no training data would take away, epistemic what the members disagree about. A single member knows nothing of the
last, and its total is its aleatoric part.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from edge_bdl.errors import InputError
from edge_bdl.uncertainty import Uncertainty, classification, heteroscedastic
from edge_bdl_train.evaluation.checks import finite, member_gaussians, member_probabilities

Scores = dict[str, Tensor]
"""Float64 [N] by the score's name."""

_TINY = float(np.finfo(np.float64).tiny)


def decompose_classes(probabilities: Any, *, unbiased: bool = True) -> Uncertainty:
    """What members' class probabilities say together.

    Args:
        probabilities: [S, N, K] or [N, K].
        unbiased: whether the members are independent draws; see ``edge_bdl.uncertainty``.

    Returns:
        ``mean`` [N, K], the others [N] in nats. With one member ``epistemic`` is NaN.

    Raises:
        InputError: these are no probabilities.
    """
    # The softmax of log p is p.
    logits = member_probabilities(probabilities).clamp_min(_TINY).log().numpy()
    return _with_total(classification(logits, 1, unbiased=unbiased))


def decompose_gaussians(mean: Any, variance: Any, *, unbiased: bool = True) -> Uncertainty:
    """What members' means and variances say together.

    Args:
        mean: [S, N] or [N].
        variance: the same shape, at least 0.
        unbiased: whether the members are independent draws; see ``edge_bdl.uncertainty``.

    Returns:
        All [N]; uncertainties in squared units of the target. With one member ``epistemic`` is NaN.

    Raises:
        InputError: they do not fit each other.
    """
    means, variances = member_gaussians(mean, variance)
    members = torch.stack([means, variances.clamp_min(_TINY).log()], -1).numpy()
    parts = heteroscedastic(members, unbiased=unbiased)
    return _with_total(Uncertainty(*(part[:, 0] for part in parts)))


def class_scores(probabilities: Any, logits: Any = None, *, unbiased: bool = True) -> Scores:
    """The scores that class probabilities give.

    Args:
        probabilities: [S, N, K] or [N, K].
        logits: the same shape, where the energy is asked for.
        unbiased: whether the members are independent draws.

    Returns:
        ``total``, the predictive entropy; ``epistemic``, the mutual information, of 2 members and more;
        ``max_probability``, 1 less the average's largest; ``energy`` with logits.

    Raises:
        InputError: these are no probabilities, or the logits have another shape.
    """
    members = member_probabilities(probabilities)
    scores = _of_parts(decompose_classes(members, unbiased=unbiased))
    scores["max_probability"] = 1.0 - members.mean(0).max(-1).values
    if logits is not None:
        given = finite("logits", logits, "[S, N, K] or [N, K]", (2, 3))
        if given.shape != torch.as_tensor(probabilities).shape:
            raise InputError(f"logits of {list(given.shape)} do not fit the probabilities: give them of one shape")
        scores["energy"] = energy(given)
    return scores


def gaussian_scores(mean: Any, variance: Any, *, unbiased: bool = True) -> Scores:
    """``total`` variance, and of 2 members and more the ``epistemic`` one; arguments of ``decompose_gaussians``."""
    return _of_parts(decompose_gaussians(mean, variance, unbiased=unbiased))


def energy(logits: Any) -> Tensor:
    """Free energy -log sum_k exp(logit_k), averaged over members, [N] (Liu et al. 2020, arXiv 2010.03759, equation 4).

    Args:
        logits: [S, N, K] or [N, K]. A constant added to all of an example's logits changes its energy and nothing else.

    Raises:
        InputError: these are no logits.
    """
    members = finite("logits", logits, "[S, N, K] or [N, K]", (2, 3))
    energies = -members.logsumexp(-1)
    return energies.mean(0) if energies.ndim == 2 else energies


def _with_total(parts: Uncertainty) -> Uncertainty:
    unknown = np.isnan(parts.epistemic)
    return parts._replace(total=np.where(unknown, parts.aleatoric, parts.total))


def _of_parts(parts: Uncertainty) -> Scores:
    scores = {"total": torch.from_numpy(parts.total)}
    if not np.isnan(parts.epistemic).any():
        scores["epistemic"] = torch.from_numpy(parts.epistemic)
    return scores
