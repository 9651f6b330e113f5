"""What an evaluation found: a struct that is JSON for machines, and a table for people."""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec
from torch import Tensor

from edge_bdl.commands.output import columns
from edge_bdl_train.evaluation.ood import Separation

# Points of a curve that are kept: enough to draw it by, and few enough to print.
_POINTS = 101

Task = Literal["classification", "regression"]


class Curve(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Points of a line, in the order of x."""

    x: tuple[float, ...]
    y: tuple[float, ...]


class Diagram(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A reliability diagram: per bin, mean confidence, accuracy and share of the examples."""

    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    share: tuple[float, ...]


class Histogram(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A score's distribution.

    Attributes:
        edges: of the bins, one more than there are.
        shares: by the set's name, what share of it lies in each bin.
    """

    edges: tuple[float, ...]
    shares: dict[str, tuple[float, ...]]


class Evaluation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How good a predictive distribution is, and what its uncertainty is worth.

    Attributes:
        task: what was predicted.
        examples: labelled ones that it was judged by.
        members: of which each prediction is the average.
        unit: of the targets; nothing for classes.
        figures: one number each, by a name in ``FIGURES``.
        aurc: area under the risk-coverage curve, by score.
        outsiders: by their set's name, how well each score tells them.
        reliability: ``"as it is"``, and ``"tempered"`` where a temperature was fitted. Classes only.
        risk_coverage: by score, and ``"best possible"``. The risk is the error rate, or the absolute error.
        interval_coverage: share of the targets by what the interval claims to hold. Regression only.
        interval_width: mean width by the same.
        histograms: by score; ``"known"`` is the labelled set. Only with outsiders.
        roc: by set and score, detected outsiders by false alarms.
    """

    task: Task
    examples: int
    members: int
    unit: str = ""
    figures: dict[str, float]
    aurc: dict[str, float]
    outsiders: dict[str, dict[str, Separation]]
    reliability: dict[str, Diagram]
    risk_coverage: dict[str, Curve]
    interval_coverage: Curve | None = None
    interval_width: Curve | None = None
    histograms: dict[str, Histogram]
    roc: dict[str, dict[str, Curve]]


class Meaning(NamedTuple):
    """What a figure is, in which unit ("u" stands for the target's), and which way is good."""

    label: str
    unit: str = ""
    better: str = ""


FIGURES = {
    "accuracy": Meaning("accuracy", "", "higher"),
    "nll": Meaning("negative log-likelihood", "nats", "lower"),
    "brier": Meaning("Brier score", "", "lower"),
    "ece": Meaning("expected calibration error, bins of equal width", "", "lower"),
    "ece_adaptive": Meaning("expected calibration error, bins of equal mass", "", "lower"),
    "temperature": Meaning("temperature, fitted on other examples", "", "nearer to 1"),
    "nll_tempered": Meaning("negative log-likelihood with it", "nats", "lower"),
    "brier_tempered": Meaning("Brier score with it", "", "lower"),
    "ece_tempered": Meaning("expected calibration error with it", "", "lower"),
    "rmse": Meaning("root mean squared error", "u", "lower"),
    "mae": Meaning("mean absolute error", "u", "lower"),
    "log_likelihood": Meaning("log-likelihood", "nats", "higher"),
    "crps": Meaning("continuous ranked probability score", "u", "lower"),
    "coverage_90": Meaning("coverage of the 90 % interval", "", "nearer to 0.9"),
    "width_90": Meaning("width of the 90 % interval", "u", "lower"),
    "aleatoric": Meaning("mean aleatoric uncertainty", "u²"),
    "epistemic": Meaning("mean epistemic uncertainty", "u²"),
    "total": Meaning("mean total uncertainty", "u²"),
}

SCORES = {
    "total": "total",
    "epistemic": "epistemic",
    "max_probability": "1 - max probability",
    "energy": "energy",
    "density": "feature density",
}


def table(evaluation: Evaluation) -> str:
    """The evaluation as text: its figures, then one row per score."""
    what = "classes" if evaluation.task == "classification" else "targets"
    members = "1 member" if evaluation.members == 1 else f"{evaluation.members} members"
    lines = [f"{evaluation.examples} {what}, predicted by {members}"]
    rows = [(name, _number(value), *_notes(evaluation, name)) for name, value in evaluation.figures.items()]
    lines += [columns(rows), ""]
    sets = list(evaluation.outsiders)
    header = ["score", "AURC", *(f"{name} {what}" for name in sets for what in ("AUROC", "FPR95"))]
    scores = [
        [
            SCORES.get(score, score),
            _number(area),
            *(_number(value) for name in sets for value in msgspec.structs.astuple(evaluation.outsiders[name][score])),
        ]
        for score, area in evaluation.aurc.items()
    ]
    return "\n".join([*lines, columns([header, *scores])])


def unit_of(evaluation: Evaluation, unit: str) -> str:
    """A unit of ``FIGURES`` with the target's own put in; uncertainties of classes are in nats."""
    if evaluation.task == "classification":
        return "nats" if unit == "u²" else unit
    squared = f"{evaluation.unit}²" if evaluation.unit.isalpha() else f"({evaluation.unit})²"
    return {"u": evaluation.unit, "u²": squared}.get(unit, unit)


def curve(x: Tensor, y: Tensor) -> Curve:
    """At most so many points of a line, both ends among them."""
    count = len(x)
    chosen = sorted({round(i * (count - 1) / (_POINTS - 1)) for i in range(_POINTS)})
    return Curve(x=tuple(x[chosen].tolist()), y=tuple(y[chosen].tolist()))


def _notes(evaluation: Evaluation, name: str) -> tuple[str, str]:
    label, unit, better = FIGURES[name]
    return unit_of(evaluation, unit), f"{label}{f', {better} is better' if better else ''}"


def _number(value: float) -> str:
    return f"{value:.4g}"
