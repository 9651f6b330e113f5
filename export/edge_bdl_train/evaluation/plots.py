"""An evaluation's plots as PNG files, drawn from nothing but its struct."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edge_bdl.errors import InputError
from edge_bdl_train.canvas import Canvas
from edge_bdl_train.evaluation.report import SCORES, Evaluation, unit_of

_WIDE, _HALF = (6.6, 4.6), (3.35, 2.9)  # inches; two halves are as wide as one, and that is 800 pixels
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito 2008
_REFERENCE = {"color": "0.45", "linestyle": "--", "linewidth": 1.0}
_BEST = "best possible"


def plot(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Draws what the evaluation holds.

    Args:
        evaluation: what to draw.
        folder: is made where it does not exist; files of the same names are replaced.

    Returns:
        The files.

    Raises:
        InputError: the folder cannot be written to.
        MissingExtraError: matplotlib is not installed.
    """
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, draw in _PLOTS.items():
            canvas = draw(evaluation)
            if canvas is not None:
                canvas.save(folder / f"{name}.png")
                written.append(folder / f"{name}.png")
    except OSError as error:
        raise InputError(f"cannot write plots to {folder} ({error.strerror}): give a folder") from error
    return written


def _reliability(evaluation: Evaluation) -> Canvas | None:
    if not evaluation.reliability:
        return None
    canvas = Canvas(panel=(5.4, 5.0))
    (axes,) = canvas.axes
    axes.plot([0, 1], [0, 1], label="calibrated", **_REFERENCE)
    for (name, diagram), colour in zip(evaluation.reliability.items(), _COLOURS, strict=False):
        figure = evaluation.figures["ece" if name == "as it is" else "ece_tempered"]
        axes.plot(diagram.confidence, diagram.accuracy, color=colour, label=f"{name}, ECE {figure:.3f}")
        # The area is the share of the examples.
        axes.scatter(diagram.confidence, diagram.accuracy, 20 + 400 * np.array(diagram.share), color=colour, alpha=0.6)
    _square(axes, "confidence (probability of the likeliest class)", "accuracy (share)")
    axes.legend(loc="upper left")
    axes.set_title(f"Reliability, {evaluation.examples} examples; areas show the bins' shares")
    return canvas


def _risk_coverage(evaluation: Evaluation) -> Canvas:
    canvas = Canvas(panel=_WIDE)
    (axes,) = canvas.axes
    for name, curve, style in _lines(evaluation):
        area = "" if name == _BEST else f", AURC {evaluation.aurc[name]:.3g}"
        axes.plot(curve.x, curve.y, label=f"{SCORES.get(name, name)}{area}", **style)
    is_classes = evaluation.task == "classification"
    axes.set(
        xlabel="coverage (share of the examples that are kept, the most certain first)",
        ylabel="error rate of those kept (share)"
        if is_classes
        else f"mean absolute error of those kept ({evaluation.unit})",
        xlim=(0, 1),
        title="Risk by coverage",
    )
    axes.set_ylim(bottom=0)
    return _finished(canvas)


def _accuracy_rejection(evaluation: Evaluation) -> Canvas | None:
    if evaluation.task != "classification":
        return None
    canvas = Canvas(panel=_WIDE)
    (axes,) = canvas.axes
    for name, curve, style in _lines(evaluation):
        axes.plot(1 - np.array(curve.x), 1 - np.array(curve.y), label=SCORES.get(name, name), **style)
    axes.set(
        xlabel="rejected (share of the examples, the most uncertain first)",
        ylabel="accuracy of the others (share)",
        xlim=(0, 1),
        title="Accuracy by rejection",
    )
    axes.set_ylim(top=1)
    return _finished(canvas)


def _intervals(evaluation: Evaluation) -> Canvas | None:
    covered, widths = evaluation.interval_coverage, evaluation.interval_width
    if covered is None or widths is None:
        return None
    canvas = Canvas(1, 2, panel=_HALF)
    held, wide = canvas.axes
    held.plot([0, 1], [0, 1], label="calibrated", **_REFERENCE)
    held.plot(covered.x, covered.y, color=_COLOURS[0], marker=".", label="measured")
    _square(held, "claimed (level of the interval)", "held (share of the targets)")
    held.legend(loc="lower right", fontsize="small")
    held.set_title("Interval coverage")
    wide.plot(widths.x, widths.y, color=_COLOURS[0], marker=".")
    wide.set(xlabel="level of the interval", ylabel=f"mean width ({evaluation.unit})", xlim=(0, 1), title="Sharpness")
    wide.set_ylim(bottom=0)
    wide.grid(alpha=0.3)
    return canvas


def _ood_histograms(evaluation: Evaluation) -> Canvas | None:
    if not evaluation.histograms:
        return None
    canvas = Canvas((len(evaluation.histograms) + 1) // 2, 2, panel=_HALF)
    for axes, (score, histogram) in zip(canvas.axes, evaluation.histograms.items(), strict=False):
        for (name, shares), colour in zip(histogram.shares.items(), _cycle(len(histogram.shares)), strict=True):
            axes.stairs(
                shares, histogram.edges, color=colour, label=name, fill=name == "known", alpha=0.75, linewidth=1.5
            )
        edges = np.array(histogram.edges)
        if not np.allclose(np.diff(edges), edges[1] - edges[0]):
            axes.set_xscale("log")
        axes.set(xlabel=_score_label(evaluation, score), ylabel="share of the set per bin")
        axes.grid(alpha=0.3)
    canvas.axes[0].legend()
    return canvas


def _ood_roc(evaluation: Evaluation) -> Canvas | None:
    if not evaluation.roc:
        return None
    canvas = Canvas(
        (len(evaluation.roc) + 1) // 2,
        min(2, len(evaluation.roc)),
        panel=_HALF if len(evaluation.roc) > 1 else (5.4, 5.0),
    )
    for axes, (name, curves) in zip(canvas.axes, evaluation.roc.items(), strict=False):
        axes.plot([0, 1], [0, 1], **_REFERENCE)
        for (score, curve), colour in zip(curves.items(), _cycle(len(curves)), strict=True):
            auroc = evaluation.outsiders[name][score].auroc
            axes.plot(curve.x, curve.y, color=colour, label=f"{SCORES.get(score, score)}, {auroc:.3f}")
        _square(axes, "false alarms (share of the known)", f"detected (share of {name})")
        axes.legend(loc="lower right", title="AUROC", fontsize="small", title_fontsize="small")
        axes.set_title(f"Outsiders: {name}")
    return canvas


_PLOTS: dict[str, Callable[[Evaluation], Canvas | None]] = {
    "reliability": _reliability,
    "risk_coverage": _risk_coverage,
    "accuracy_rejection": _accuracy_rejection,
    "intervals": _intervals,
    "ood_histograms": _ood_histograms,
    "ood_roc": _ood_roc,
}


def _lines(evaluation: Evaluation) -> list[tuple[str, Any, dict[str, Any]]]:
    """Each curve of risk by coverage with its name and how it is drawn."""
    scores = [name for name in evaluation.risk_coverage if name != _BEST]
    lines = [
        (name, evaluation.risk_coverage[name], {"color": colour})
        for name, colour in zip(scores, _cycle(len(scores)), strict=True)
    ]
    return [*lines, (_BEST, evaluation.risk_coverage[_BEST], _REFERENCE)]


def _cycle(count: int) -> list[str]:
    return [_COLOURS[index % len(_COLOURS)] for index in range(count)]


def _score_label(evaluation: Evaluation, score: str) -> str:
    unit = unit_of(evaluation, {"total": "u²", "epistemic": "u²", "energy": "nats"}.get(score, ""))
    return f"{SCORES.get(score, score)}{f', {unit}' if unit else ''}"


def _square(axes: Any, x: str, y: str) -> None:
    # A margin, for lines along the border.
    axes.set(xlabel=x, ylabel=y, xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    axes.grid(alpha=0.3)


def _finished(canvas: Canvas) -> Canvas:
    (axes,) = canvas.axes
    axes.grid(alpha=0.3)
    axes.legend()
    return canvas
