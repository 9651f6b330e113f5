"""From member outputs to mean, aleatoric, epistemic and total uncertainty. Pure numpy, any trailing shape.

Classification, in nats: total = entropy of the mean prediction, aleatoric = mean entropy of the members, epistemic =
their difference, the mutual information between prediction and parameters (Houlsby et al. 2011, "Bayesian active
learning for classification and preference learning", eq. 2; Depeweg et al. 2018, eq. 2). Regression, in squared target
units: the law of total variance, total = mean of the variances + variance of the means (Depeweg et al. 2018, eq. 3).

With independent members the plug-in variance and, to first order in 1/S, the plug-in mutual information are too small
by the factor ``1 - 1/S``; with weights w it is ``1 - sum(w^2)``. Both are divided by it where `unbiased` is set.
``total = aleatoric + epistemic`` holds for what is returned, corrected or not. One member says nothing about the
others: with S = 1 epistemic, total and standard error are NaN.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_bdl.manifest import Task

Float = NDArray[np.floating[Any]]

# Small outputs are worked in float64; more elements than this (a dense output) keep their dtype, for memory's sake.
_WIDEN_UP_TO = 1 << 20


class Uncertainty(NamedTuple):
    """What the members say together.

    Attributes:
        mean: Mean prediction: class probabilities, or targets.
        aleatoric: What no amount of training data removes; nats, or squared target units.
        epistemic: What the members disagree about; same shape and units.
        total: The sum of both.
        standard_error: Monte-Carlo standard error of `mean` for independent members; same shape as `mean`.
    """

    mean: Float
    aleatoric: Float
    epistemic: Float
    total: Float
    standard_error: Float


def decompose(
    task: Task,
    members: Float,
    *,
    weights: NDArray[np.float64] | None = None,
    unbiased: bool = True,
    class_axis: int | None = None,
) -> Uncertainty:
    """Decompose by task; see `classification`, `regression` and `heteroscedastic`."""
    if task == "classification":
        return classification(members, class_axis or 0, weights=weights, unbiased=unbiased)
    if task == "regression":
        return regression(members, weights=weights, unbiased=unbiased)
    return heteroscedastic(members, weights=weights, unbiased=unbiased)


def classification(
    members: Float, class_axis: int, *, weights: NDArray[np.float64] | None = None, unbiased: bool = True
) -> Uncertainty:
    """Entropies of softmax outputs.

    The corrected mutual information is cut at ``log(classes)``, the largest there is. The total is not: an estimate of
    an entropy near that limit must be allowed to lie above it half of the time, or it is biased.

    Args:
        members: Finite logits [S, ...], float32 or float64.
        class_axis: Axis of one member's output that holds the classes.
        weights: Weight of each member, sum 1; None: equal.
        unbiased: Whether the members are independent draws.

    Returns:
        `mean` and `standard_error` of one member's shape, the others without the class axis.
    """
    shape = members.shape[1:]
    before, classes, after = shape[:class_axis], shape[class_axis], shape[class_axis + 1 :]
    scores, share = _working(members, weights)
    scores = scores.reshape(len(members), math.prod(before), classes, math.prod(after))
    scores = scores - np.maximum.reduce(scores, axis=2, keepdims=True)
    probabilities = np.exp(scores)
    normaliser = np.add.reduce(probabilities, axis=2, keepdims=True)
    probabilities /= normaliser
    scores -= np.log(normaliser)  # Log-probabilities, without the logarithm of anything that underflowed.
    scores *= probabilities
    aleatoric = -(share @ np.add.reduce(scores, axis=2).reshape(len(members), -1))
    mean, _, standard_error, inflation = _moments(probabilities.reshape(len(members), -1), share, unbiased)
    plain = mean.reshape(-1, classes, math.prod(after))
    surprise = np.log(np.maximum(plain, np.finfo(plain.dtype).tiny))  # 0 log 0 = 0
    entropy = -np.add.reduce(plain * surprise, axis=1).ravel()
    epistemic = np.minimum(np.maximum((entropy - aleatoric) * inflation, 0.0), math.log(classes))
    scalars = before + after
    return Uncertainty(
        mean=mean.reshape(shape),
        aleatoric=aleatoric.reshape(scalars),
        epistemic=epistemic.reshape(scalars),
        total=(aleatoric + epistemic).reshape(scalars),
        standard_error=standard_error.reshape(shape),
    )


def regression(members: Float, *, weights: NDArray[np.float64] | None = None, unbiased: bool = True) -> Uncertainty:
    """Variance of point predictions; nothing is known of the noise, so aleatoric is 0.

    Args:
        members: Finite targets [S, ...], float32 or float64.
        weights: Weight of each member, sum 1; None: equal.
        unbiased: Whether the members are independent draws.

    Returns:
        All of one member's shape.
    """
    shape = members.shape[1:]
    rows, share = _working(members, weights)
    mean, epistemic, standard_error, _ = _moments(rows.reshape(len(rows), -1), share, unbiased)
    return Uncertainty(
        mean=mean.reshape(shape),
        aleatoric=np.zeros(shape, mean.dtype),
        epistemic=epistemic.reshape(shape),
        total=epistemic.reshape(shape).copy(),
        standard_error=standard_error.reshape(shape),
    )


def heteroscedastic(
    members: Float, *, weights: NDArray[np.float64] | None = None, unbiased: bool = True
) -> Uncertainty:
    """Law of total variance over Gaussians.

    Args:
        members: Finite [S, ..., 2 n], float32 or float64: n means, then n logarithms of variances.
        weights: Weight of each member, sum 1; None: equal.
        unbiased: Whether the members are independent draws.

    Returns:
        All of shape [..., n]. A log-variance beyond the dtype's range gives an infinite aleatoric part.
    """
    targets = members.shape[-1] // 2
    shape = (*members.shape[1:-1], targets)
    rows, share = _working(members, weights)
    means, log_variances = rows[..., :targets].reshape(len(rows), -1), rows[..., targets:].reshape(len(rows), -1)
    mean, epistemic, standard_error, _ = _moments(means, share, unbiased)
    with np.errstate(over="ignore"):
        aleatoric = share @ np.exp(log_variances)
    return Uncertainty(
        mean=mean.reshape(shape),
        aleatoric=aleatoric.reshape(shape),
        epistemic=epistemic.reshape(shape),
        total=(aleatoric + epistemic).reshape(shape),
        standard_error=standard_error.reshape(shape),
    )


def _working(members: Float, weights: NDArray[np.float64] | None) -> tuple[Float, Float]:
    """Members and weights in the dtype to work in."""
    if members.size <= _WIDEN_UP_TO:
        members = members.astype(np.float64)
    if weights is None:
        weights = np.full(len(members), 1.0 / len(members))
    return members, weights.astype(members.dtype, copy=False)


def _moments(rows: Float, weights: Float, unbiased: bool) -> tuple[Float, Float, Float, float]:
    """Of [S, n]: mean, variance, standard error of the mean, each [n], and what plug-in spreads are multiplied by."""
    concentration = float(weights @ weights)  # 1/S for equal weights, 1 where one member holds all the weight
    correction = 1.0 / (1.0 - concentration) if concentration < 1.0 else math.nan
    mean = weights @ rows
    centred = rows - mean
    centred *= centred
    plug_in = weights @ centred
    standard_error = np.sqrt(plug_in * (correction * concentration))
    inflation = correction if unbiased or math.isnan(correction) else 1.0
    return mean, plug_in * inflation, standard_error, inflation
