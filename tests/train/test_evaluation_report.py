"""The whole evaluation: what is in it, that it is JSON, reads as a table and is drawn."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib
import msgspec
import numpy as np
import pytest
from matplotlib import image

from edge_bdl.errors import InputError
from edge_bdl_train.evaluation.classification import nll
from edge_bdl_train.evaluation.evaluate import evaluate_classes, evaluate_gaussians
from edge_bdl_train.evaluation.ood import separation
from edge_bdl_train.evaluation.plots import plot
from edge_bdl_train.evaluation.report import FIGURES, Evaluation, table
from edge_bdl_train.evaluation.scores import class_scores, gaussian_scores
from edge_bdl_train.evaluation.selective import aurc

MEMBERS, EXAMPLES, CLASSES = 8, 400, 5


def logits(seed: int, signal: float, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Members' logits [S, N, K]; with a signal of 1 and no spread their softmax is how likely the labels are."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, EXAMPLES)
    shared = signal * np.eye(CLASSES)[labels] + rng.normal(size=(EXAMPLES, CLASSES))
    return shared + rng.normal(0.0, spread, (MEMBERS, EXAMPLES, CLASSES)), labels


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def of_classes(**changes: Any) -> Evaluation:
    known, labels = logits(0, 1.0, 0.3)
    noise, _ = logits(1, 0.0, 2.0)
    other, other_labels = logits(2, 1.0, 0.3)
    arguments = {
        "scores": class_scores(softmax(known), known),
        "outsiders": {"noise": class_scores(softmax(noise), noise)},
        "calibration": (softmax(2.0 * other), other_labels),
        **changes,
    }
    return evaluate_classes(softmax(2.0 * known), labels, **arguments)


def of_gaussians(members: int = MEMBERS, **changes: Any) -> Evaluation:
    rng = np.random.default_rng(3)
    targets = rng.normal(size=EXAMPLES)
    mean = targets + rng.normal(0.0, 0.5, (1, EXAMPLES)) + rng.normal(0.0, 0.1, (members, EXAMPLES))
    variance = rng.uniform(0.2, 0.3, (members, EXAMPLES))
    far = gaussian_scores(rng.normal(0.0, 2.0, (members, 100)), np.ones((members, 100)))
    return evaluate_gaussians(mean, variance, targets, unit="m/s", **{"outsiders": {"far": far}, **changes})


@pytest.fixture(scope="module")
def classes() -> Evaluation:
    return of_classes()


@pytest.fixture(scope="module")
def gaussians() -> Evaluation:
    return of_gaussians()


def test_it_holds_what_the_metrics_say(classes: Evaluation, gaussians: Evaluation) -> None:
    known, labels = logits(0, 1.0, 0.3)
    noise, _ = logits(1, 0.0, 2.0)
    assert (classes.examples, classes.members, classes.task) == (EXAMPLES, MEMBERS, "classification")
    assert classes.figures["nll"] == pytest.approx(nll(softmax(2.0 * known), labels))
    inside, outside = class_scores(softmax(known), known), class_scores(softmax(noise), noise)
    wrong = softmax(2.0 * known).mean(0).argmax(-1) != labels
    for name in ("total", "epistemic", "max_probability", "energy"):
        assert classes.outsiders["noise"][name] == separation(inside[name], outside[name])
        assert classes.aurc[name] == pytest.approx(aurc(wrong.astype(float), inside[name]))
    assert set(gaussians.aurc) == set(gaussians.outsiders["far"]) == {"total", "epistemic"}
    assert gaussians.interval_coverage is not None
    assert gaussians.interval_coverage.y[17] == gaussians.figures["coverage_90"]


def test_its_parts_add_up(classes: Evaluation, gaussians: Evaluation) -> None:
    for evaluation in (classes, gaussians):
        figures = evaluation.figures
        assert figures["total"] == pytest.approx(figures["aleatoric"] + figures["epistemic"])
        assert all(math.isfinite(value) for value in figures.values())
        for histogram in evaluation.histograms.values():
            assert all(sum(shares) == pytest.approx(1.0) for shares in histogram.shares.values())
        for curve in evaluation.risk_coverage.values():
            assert curve.x[-1] == 1.0
            assert curve.y[-1] == pytest.approx(evaluation.risk_coverage["best possible"].y[-1])


def test_a_temperature_fitted_elsewhere_helps_here(classes: Evaluation) -> None:
    # The logits were doubled in both sets, which 400 labels tell to about 10 %; the spread makes it a little less.
    assert 1.4 < classes.figures["temperature"] < 2.6
    assert classes.figures["nll_tempered"] < classes.figures["nll"]
    assert set(classes.reliability) == {"as it is", "tempered"}


def test_without_calibration_outsiders_and_disagreement_they_are_left_out() -> None:
    bare = of_classes(calibration=None, outsiders=None, scores=None)
    assert "temperature" not in bare.figures
    assert (bare.outsiders, bare.histograms, bare.roc) == ({}, {}, {})
    single = of_gaussians(members=1)
    assert "epistemic" not in single.figures
    assert set(single.aurc) == {"total"}


def test_it_is_json_and_comes_back(classes: Evaluation, gaussians: Evaluation) -> None:
    for evaluation in (classes, gaussians):
        encoded = msgspec.json.encode(evaluation)
        assert msgspec.json.decode(encoded, type=Evaluation) == evaluation
        assert len(encoded) < 100_000


def test_the_table_has_every_figure_with_its_unit_and_meaning(classes: Evaluation, gaussians: Evaluation) -> None:
    for evaluation, uncertainty_unit in ((classes, "nats"), (gaussians, "(m/s)²")):
        lines = table(evaluation).splitlines()
        assert lines[0].startswith(f"{EXAMPLES} ")
        assert lines[0].endswith(f"{MEMBERS} members")
        for name, value in evaluation.figures.items():
            line = next(line for line in lines if line.split()[:1] == [name])
            assert f"{value:.4g}" in line
            assert FIGURES[name].label in line
        assert f"  {uncertainty_unit} " in next(line for line in lines if "mean epistemic" in line)
    assert "noise AUROC" in table(classes)
    assert table(of_gaussians(members=1)).splitlines()[0].endswith("1 member")


def test_plots_are_drawn_800_pixels_wide_and_show_something(
    classes: Evaluation, gaussians: Evaluation, tmp_path: Path
) -> None:
    drawn = {path.stem: path for path in plot(classes, tmp_path / "new" / "classes")}
    assert set(drawn) == {"reliability", "risk_coverage", "accuracy_rejection", "ood_histograms", "ood_roc"}
    others = {path.stem: path for path in plot(gaussians, tmp_path)}
    assert set(others) == {"risk_coverage", "intervals", "ood_histograms", "ood_roc"}
    for path in (*drawn.values(), *others.values()):
        pixels = image.imread(path)
        assert 600 <= pixels.shape[1] <= 810
        assert 0.005 < (pixels[..., :3].min(-1) < 0.7).mean() < 0.5


def test_what_is_not_there_is_not_drawn_and_nothing_is_left_in_pyplot(tmp_path: Path) -> None:
    bare = of_classes(calibration=None, outsiders=None, scores=None)
    assert {path.stem for path in plot(bare, tmp_path)} == {"reliability", "risk_coverage", "accuracy_rejection"}
    assert matplotlib.pyplot.get_fignums() == []


def test_scores_that_differ_between_the_sets_are_refused() -> None:
    with pytest.raises(
        InputError, match="outsiders 'noise' have the scores total, the known examples total, epistemic"
    ):
        of_classes(outsiders={"noise": {"total": np.ones(3)}})
    with pytest.raises(InputError, match="belong together, got 400 and 3"):
        of_gaussians(scores={"total": np.ones(3)}, outsiders=None)


def test_a_folder_that_cannot_be_is_refused(gaussians: Evaluation, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write plots to"):
        plot(gaussians, tmp_path / "file")
