"""Does a confidence of 0.8 mean right in 8 cases of 10? The reliability diagram, and its expected calibration error.

torchmetrics has the second too, but sets a confidence of exactly 1, which saturated networks often have, into a bin
of its own, and gives no diagram. Here the number is always the diagram's.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from edge_bdl.errors import InputError
from edge_bdl_train.evaluation.checks import judged

BINS = 15  # of Guo et al. 2017


class Reliability(NamedTuple):
    """The bins that hold something, by rising confidence; float64 [B] each.

    Attributes:
        confidence: mean probability of the likeliest class.
        accuracy: how often that was the right one.
        share: of all examples.
    """

    confidence: Tensor
    accuracy: Tensor
    share: Tensor


def reliability(probabilities: Any, labels: Any, *, bins: int = BINS, equal_mass: bool = False) -> Reliability:
    """Confidence against accuracy (Guo et al. 2017, "On Calibration of Modern Neural Networks", equations 2 and 3).

    Args:
        probabilities: [S, N, K] or [N, K].
        labels: whole numbers [N] in [0, K).
        bins: (0, 1/bins], (1/bins, 2/bins], ...
        equal_mass: bins of as many examples each instead, as nearly as equal confidences, which stay together, allow
            (Nguyen and O'Connor 2015, arXiv 1508.05154, section 3.2).

    Raises:
        InputError: these are no probabilities and labels, or there is no bin.
    """
    if bins < 1:
        raise InputError(f"a reliability diagram has at least 1 bin, got {bins}")
    average, classes = judged(probabilities, labels)
    confidence, likeliest = average.max(-1)
    right = (likeliest == classes).double()
    if equal_mass:
        earlier = torch.searchsorted(confidence.sort().values, confidence)
        index = earlier * bins // len(confidence)
    else:
        index = torch.bucketize(confidence, torch.linspace(0.0, 1.0, bins + 1, dtype=torch.float64)[1:-1])
    count = torch.bincount(index, minlength=bins)
    held = count > 0
    count = count[held].double()
    return Reliability(
        confidence=torch.bincount(index, confidence, bins)[held] / count,
        accuracy=torch.bincount(index, right, bins)[held] / count,
        share=count / len(confidence),
    )


def ece(probabilities: Any, labels: Any, *, bins: int = BINS, equal_mass: bool = False) -> float:
    """Expected calibration error: how far the diagram is from its diagonal, weighted by share; as ``reliability``."""
    diagram = reliability(probabilities, labels, bins=bins, equal_mass=equal_mass)
    return float((diagram.share * (diagram.accuracy - diagram.confidence).abs()).sum())
