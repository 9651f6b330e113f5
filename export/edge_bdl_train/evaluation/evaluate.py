"""Everything at once: what members predicted of labelled examples, judged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edge_bdl.calibration import temper
from edge_bdl.errors import InputError
from edge_bdl.uncertainty import Uncertainty
from edge_bdl_train.evaluation.checks import finite, judged, member_gaussians, member_probabilities, targets_of
from edge_bdl_train.evaluation.classification import accuracy, brier, nll
from edge_bdl_train.evaluation.intervals import coverage, gaussian_interval, sharpness
from edge_bdl_train.evaluation.ood import roc, separation
from edge_bdl_train.evaluation.regression import crps_gaussian, log_likelihood, mae, rmse
from edge_bdl_train.evaluation.reliability import Reliability, ece, reliability
from edge_bdl_train.evaluation.report import Curve, Diagram, Evaluation, Histogram, curve
from edge_bdl_train.evaluation.scores import class_scores, decompose_classes, decompose_gaussians, gaussian_scores
from edge_bdl_train.evaluation.selective import aurc, risk_coverage
from edge_bdl_train.evaluation.temperature import fit_temperature

Scores = Mapping[str, Any]
"""Arrays [N] by the score's name, larger is worse."""

_LEVELS = tuple(level / 20.0 for level in range(1, 20))
_HISTOGRAM_BINS = 40
_WIDE = 100.0


def evaluate_classes(
    probabilities: Any,
    labels: Any,
    *,
    scores: Scores | None = None,
    outsiders: Mapping[str, Scores] | None = None,
    calibration: tuple[Any, Any] | None = None,
    unbiased: bool = True,
) -> Evaluation:
    """Judges class probabilities.

    Args:
        probabilities: [S, N, K] or [N, K].
        labels: whole numbers [N] in [0, K).
        scores: of these examples; what ``class_scores`` makes of the probabilities where there is nothing to add to it.
        outsiders: the same scores of inputs that are of no class, by their set's name.
        calibration: probabilities and labels of other examples, to fit a temperature on.
        unbiased: whether the members are independent draws; see ``edge_bdl.uncertainty``.

    Raises:
        InputError: something is not what it should be, or does not fit the rest.
    """
    members = member_probabilities(probabilities)
    average, classes = judged(members, labels)
    scores = class_scores(members, unbiased=unbiased) if scores is None else scores
    figures = {
        "accuracy": accuracy(average, classes),
        "nll": nll(average, classes),
        "brier": brier(average, classes),
        "ece": ece(average, classes),
        "ece_adaptive": ece(average, classes, equal_mass=True),
    }
    diagrams = {"as it is": _diagram(reliability(average, classes))}
    if calibration is not None:
        temperature = fit_temperature(*calibration)
        tempered = temper(average.numpy(), temperature)
        figures |= {
            "temperature": temperature,
            "nll_tempered": nll(tempered, classes),
            "brier_tempered": brier(tempered, classes),
            "ece_tempered": ece(tempered, classes),
        }
        diagrams["tempered"] = _diagram(reliability(tempered, classes))
    wrong = (average.argmax(-1) != classes).double()
    return Evaluation(
        task="classification",
        examples=len(classes),
        members=len(members),
        figures=figures | _means(decompose_classes(members, unbiased=unbiased)),
        reliability=diagrams,
        **_of_scores(wrong, scores, outsiders or {}),
    )


def evaluate_gaussians(
    mean: Any,
    variance: Any,
    targets: Any,
    *,
    unit: str,
    log_density: Any = None,
    scores: Scores | None = None,
    outsiders: Mapping[str, Scores] | None = None,
    unbiased: bool = True,
) -> Evaluation:
    """Judges predicted means and variances.

    Args:
        mean: [S, N] or [N].
        variance: the same shape, above 0: each member's own idea of the noise.
        targets: [N].
        unit: of the targets.
        log_density: the same shape: the logarithm of each member's density at the targets, where that is no Gaussian
            with this mean and variance. Then there is no CRPS.
        scores: of these examples; what ``gaussian_scores`` makes of them where there is nothing to add to it.
        outsiders: the same scores of inputs that have no target, by their set's name.
        unbiased: whether the members are independent draws; see ``edge_bdl.uncertainty``.

    Raises:
        InputError: something is not what it should be, or does not fit the rest.
    """
    means, variances = member_gaussians(mean, variance)
    y = targets_of(targets, means.shape[1])
    parts = decompose_gaussians(means, variances, unbiased=unbiased)
    scores = gaussian_scores(means, variances, unbiased=unbiased) if scores is None else scores
    intervals = {level: gaussian_interval(parts.mean, parts.total, level) for level in _LEVELS}
    figures = {
        "rmse": rmse(means, y),
        "mae": mae(means, y),
        **_densities(means, variances, y, log_density),
        "coverage_90": coverage(intervals[0.9], y),
        "width_90": sharpness(intervals[0.9]),
    }
    return Evaluation(
        task="regression",
        examples=len(y),
        members=len(means),
        unit=unit,
        figures=figures | _means(parts),
        reliability={},
        interval_coverage=Curve(x=_LEVELS, y=tuple(coverage(interval, y) for interval in intervals.values())),
        interval_width=Curve(x=_LEVELS, y=tuple(sharpness(interval) for interval in intervals.values())),
        **_of_scores((y - means.mean(0)).abs(), scores, outsiders or {}),
    )


def _densities(means: Tensor, variances: Tensor, y: Tensor, log_density: Any) -> dict[str, float]:
    """What asks for the whole distribution, not only for its mean and variance."""
    if log_density is None:
        return {"log_likelihood": log_likelihood(means, variances, y), "crps": crps_gaussian(means, variances, y)}
    given = torch.atleast_2d(finite("logarithms of densities", log_density, "[S, N] or [N]", (1, 2)))
    if given.shape != means.shape:
        raise InputError(f"every mean needs a density, got {list(means.shape)} and {list(given.shape)}")
    return {"log_likelihood": float((given.logsumexp(0) - math.log(len(given))).mean())}


def _means(parts: Uncertainty) -> dict[str, float]:
    """Means over the examples; one member says nothing of the epistemic part."""
    means = {name: float(np.mean(getattr(parts, name))) for name in ("aleatoric", "epistemic", "total")}
    return {name: value for name, value in means.items() if np.isfinite(value)}


def _of_scores(loss: Tensor, scores: Scores, outsiders: Mapping[str, Scores]) -> dict[str, Any]:
    known = {name: finite(f"scores {name!r}", values, "[N]", (1,)) for name, values in scores.items()}
    for name, others in outsiders.items():
        if others.keys() != known.keys():
            raise InputError(
                f"outsiders {name!r} have the scores {', '.join(others)}, the known examples {', '.join(known)}: "
                "give the same"
            )
    curves = {name: risk_coverage(loss, values) for name, values in known.items()}
    curves["best possible"] = risk_coverage(loss, loss)
    return {
        "aurc": {name: aurc(loss, values) for name, values in known.items()},
        "risk_coverage": {name: curve(*line) for name, line in curves.items()},
        "outsiders": {
            set_name: {name: separation(values, others[name]) for name, values in known.items()}
            for set_name, others in outsiders.items()
        },
        "histograms": {
            name: _histogram({"known": values, **{key: others[name] for key, others in outsiders.items()}})
            for name, values in known.items()
            if outsiders
        },
        "roc": {
            set_name: {name: curve(*roc(values, others[name])) for name, values in known.items()}
            for set_name, others in outsiders.items()
        },
    }


def _histogram(sets: Mapping[str, Any]) -> Histogram:
    """Between the lowest and the highest percentile of any set; what lies beyond is in the outermost bins.

    Scores over several orders of magnitude get bins of equal ratio.
    """
    values = {name: np.asarray(scores, np.float64) for name, scores in sets.items()}
    low = min(np.quantile(part, 0.01) for part in values.values())
    high = max(np.quantile(part, 0.99) for part in values.values())
    if not high > low:
        low, high = low - 0.5, low + 0.5
    spaced = np.geomspace if low > 0.0 and high > _WIDE * low else np.linspace
    edges = spaced(low, high, _HISTOGRAM_BINS + 1)
    return Histogram(
        edges=tuple(edges.tolist()),
        shares={
            name: tuple((np.histogram(part.clip(edges[0], edges[-1]), edges)[0] / len(part)).tolist())
            for name, part in values.items()
        },
    )


def _diagram(bins: Reliability) -> Diagram:
    return Diagram(**{name: tuple(values.tolist()) for name, values in bins._asdict().items()})
