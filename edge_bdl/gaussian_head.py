"""From a Gaussian over the outputs to mean, aleatoric, epistemic and total uncertainty. Pure numpy.

Regression needs no samples: the law of total variance is in closed form. Classification is an integral of the softmax
over Gaussian logits. It is taken over as many logit samples as asked for, which are members like any other, or, with
none, by MacKay's probit approximation, which knows the class probabilities alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_bdl.errors import EngineError
from edge_bdl.manifest import Manifest
from edge_bdl.uncertainty import Uncertainty

Float = NDArray[np.floating[Any]]


class Moments(NamedTuple):
    """A Gaussian for each row of outputs.

    Attributes:
        mean: float64 [rows, outputs]; of independent outputs any shape.
        covariance: float64 [rows, outputs, outputs], or of independent outputs the variances, shaped as the mean.
    """

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]

    @property
    def variance(self) -> NDArray[np.float64]:
        """Of each output, shaped as the mean; never negative, whatever rounding did to it."""
        independent = self.covariance.ndim == self.mean.ndim
        variance = self.covariance if independent else np.diagonal(self.covariance, axis1=1, axis2=2)
        positive: NDArray[np.float64] = np.maximum(variance, 0.0)
        return positive

    @property
    def finite(self) -> bool:
        """Whether all numbers are."""
        return bool(np.isfinite(self.mean).all() and np.isfinite(self.covariance).all())


def read(manifest: Manifest, outputs: Mapping[str, NDArray[Any]]) -> Moments:
    """The moments among a graph's outputs.

    Raises:
        EngineError: They are missing, or not of the manifest's shapes.
    """
    arrays = []
    for spec in manifest.outputs[:2]:
        array = outputs.get(spec.name)
        if array is None or array.shape != spec.shape:
            got = "nothing of that name" if array is None else array.shape
            raise EngineError(f"the engine must return {spec.name} {spec.shape}, got {got}: export the bundle again")
        arrays.append(array.astype(np.float64))
    return Moments(*arrays)


def draw(moments: Moments, normals: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Outputs [S, *mean's shape] from draws of N(0, 1) of the same shape. The moments are finite."""
    if moments.covariance.ndim == moments.mean.ndim:
        deviation = np.sqrt(moments.variance) * normals
    else:
        deviation = np.einsum("nab,snb->sna", _root(moments.covariance), normals)
    drawn: NDArray[np.float64] = moments.mean + deviation
    return drawn


def _root(covariance: Float) -> Float:
    """The symmetric square root of each row's covariance.

    It is the only one that there always is and that rounding moves no further than itself, so that every engine's
    members are the same; centred logits, whose covariance is singular, have no Cholesky factor.
    """
    values, vectors = np.linalg.eigh(covariance)
    root: Float = (vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]) @ vectors.transpose(0, 2, 1)
    return root


def probit(moments: Moments, class_axis: int = 1) -> Uncertainty:
    """Class probabilities without samples; how their uncertainty splits is not known.

    The softmax of the mean logits, each divided by sqrt(1 + pi/8 variance) (MacKay 1992, "The evidence framework
    applied to classification networks"; for many classes Daxberger et al. 2021, arXiv 2106.14806, appendix B.3). Of a
    full covariance the logits' common shift is left out, on which no probability depends; the variance that is left in
    each of n independent logits is scaled by n / (n - 1), to what it was.

    Args:
        moments: Of the logits.
        class_axis: Where they are; 1 with a covariance.

    Returns:
        Mean, shaped as the logits; total, without that axis, its entropy in nats; aleatoric and epistemic are NaN.
    """
    own = _without_shift(moments)
    scores = own.mean / np.sqrt(1.0 + math.pi / 8.0 * own.variance)
    scores -= scores.max(axis=class_axis, keepdims=True)
    normaliser = np.log(np.exp(scores).sum(axis=class_axis, keepdims=True))
    mean = np.exp(scores - normaliser)
    total = -(mean * (scores - normaliser)).sum(axis=class_axis)
    unknown = np.full_like(total, np.nan)
    return Uncertainty(mean, unknown, unknown.copy(), total, np.full_like(mean, np.nan))


def _without_shift(moments: Moments) -> Moments:
    """Logits of a full covariance without what they share, each with its own variance."""
    if moments.covariance.ndim == moments.mean.ndim:
        return moments
    classes = moments.mean.shape[1]
    centring = np.eye(classes) - 1.0 / classes
    covariance = centring @ moments.covariance @ centring * (classes / max(classes - 1, 1))
    return Moments(moments.mean @ centring, np.diagonal(covariance, axis1=1, axis2=2))


def closed_form(manifest: Manifest, moments: Moments) -> Uncertainty:
    """Law of total variance over Gaussian outputs, without any samples.

    Heteroscedastic outputs are means, then log-variances: the expectation of exp(l) for l ~ N(m, v) is exp(m + v / 2).

    Returns:
        All [rows, targets]. The standard error is 0: nothing was drawn.
    """
    assert manifest.closed is not None
    mean, epistemic = moments.mean, moments.variance
    if manifest.task == "heteroscedastic":
        (mean, log_variance), (epistemic, spread) = np.split(mean, 2, axis=-1), np.split(epistemic, 2, axis=-1)
        with np.errstate(over="ignore"):
            aleatoric = np.exp(log_variance + spread / 2.0)
    else:
        aleatoric = np.full_like(mean, manifest.closed.noise_variance)
    return Uncertainty(mean, aleatoric, epistemic, aleatoric + epistemic, np.zeros_like(mean))
