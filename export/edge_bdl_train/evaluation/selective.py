"""What is gained by leaving the most uncertain examples to somebody else.

Examples that are equally uncertain come in no order: each of them counts as their mean, which is what drawing lots
between them gives on average.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from edge_bdl_train.evaluation.checks import paired


class RiskCoverage(NamedTuple):
    """Float64 [N] each, from the most certain example alone to all of them.

    Attributes:
        coverage: share of the examples that are kept.
        risk: mean loss of those.
    """

    coverage: Tensor
    risk: Tensor


class AccuracyRejection(NamedTuple):
    """Float64 [N] each, from nothing rejected to all but the most certain example.

    Attributes:
        rejected: share of the examples that are rejected.
        accuracy: of the others.
    """

    rejected: Tensor
    accuracy: Tensor


def risk_coverage(loss: Any, uncertainty: Any) -> RiskCoverage:
    """Mean loss of the most certain examples, by how many they are (El-Yaniv and Wiener 2010).

    Args:
        loss: [N], of any kind: 1 where the class was wrong, or a distance to the target.
        uncertainty: [N], larger is worse; only its order counts.

    Raises:
        InputError: the two do not fit each other.
    """
    losses, scores = paired("losses", loss, "uncertainties", uncertainty)
    _, group, size = scores.unique(return_inverse=True, return_counts=True)
    mean = torch.bincount(group, losses) / size
    kept = torch.arange(1, len(losses) + 1, dtype=torch.float64)
    return RiskCoverage(kept / len(losses), mean.repeat_interleave(size).cumsum(0) / kept)


def aurc(loss: Any, uncertainty: Any) -> float:
    """Area under that curve: its mean over all coverages (Geifman et al. 2019, arXiv 1805.08206, section 3).

    ``aurc(loss, loss)`` is the least there can be.
    """
    return float(risk_coverage(loss, uncertainty).risk.mean())


def accuracy_rejection(correct: Any, uncertainty: Any) -> AccuracyRejection:
    """Accuracy by the share of examples that were rejected (Nadeem et al. 2009).

    Args:
        correct: [N], 1 where the class was right and 0 where not.
        uncertainty: [N], larger is worse.

    Raises:
        InputError: the two do not fit each other.
    """
    right, scores = paired("answers", correct, "uncertainties", uncertainty)
    curve = risk_coverage(right, scores)
    return AccuracyRejection((1.0 - curve.coverage).flip(0), curve.risk.flip(0))
