"""How much is to be gained from the label of one example, by what the members predict for it.

The four scores of Gal et al. 2017 (arXiv 1703.02910, section 4). Each takes the members' class probabilities [S, N, K]
and gives scores [N], float64; the largest is asked first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from edge_bdl.errors import InputError
from edge_bdl_train.evaluation.checks import member_probabilities
from edge_bdl_train.evaluation.scores import decompose_classes

Acquisition = Callable[[Any], Tensor]


def predictive_entropy(probabilities: Any) -> Tensor:
    """Entropy of the members' average, in nats.

    Args:
        probabilities: [S, N, K] or [N, K].

    Raises:
        InputError: these are no probabilities.
    """
    return torch.from_numpy(decompose_classes(probabilities, unbiased=False).total)


def bald(probabilities: Any) -> Tensor:
    """Mutual information of label and weights, in nats (Houlsby et al. 2011, arXiv 1112.5745, equation 2).

    The plug-in estimate, as published: the correction for few members multiplies all scores by the same factor.

    Args:
        probabilities: [S, N, K], of at least 2 members.

    Raises:
        InputError: these are no probabilities, or of a single member.
    """
    return torch.from_numpy(decompose_classes(several(probabilities), unbiased=False).epistemic)


def variation_ratios(probabilities: Any) -> Tensor:
    """1 less the likeliest class's average probability.

    Freeman 1965 counts votes; Gal et al. 2017 take the members' average, which has no ties.

    Args:
        probabilities: [S, N, K] or [N, K].

    Raises:
        InputError: these are no probabilities.
    """
    return 1.0 - member_probabilities(probabilities).mean(0).max(-1).values


def mean_standard_deviation(probabilities: Any) -> Tensor:
    """Standard deviation of a class's probability over the members, averaged over classes.

    Args:
        probabilities: [S, N, K], of at least 2 members.

    Raises:
        InputError: these are no probabilities, or of a single member.
    """
    return several(probabilities).std(0, correction=0).mean(-1)


ACQUISITIONS: Mapping[str, Acquisition] = {
    "bald": bald,
    "entropy": predictive_entropy,
    "mean_standard_deviation": mean_standard_deviation,
    "variation_ratios": variation_ratios,
}
"""By their names in tables and plots. Chance, which needs no predictions, is ``choose_at_random``."""


def choose_best(scores: Tensor, count: int) -> Tensor:
    """Positions int64 [count] of the largest scores, the largest first and of equal ones the earlier.

    Raises:
        InputError: more are asked for than there are.
    """
    check_count(count, len(scores))
    return torch.sort(scores, descending=True, stable=True).indices[:count]


def choose_at_random(candidates: int, count: int, generator: torch.Generator) -> Tensor:
    """Positions int64 [count] of different candidates, each as likely as any other.

    Raises:
        InputError: more are asked for than there are.
    """
    check_count(count, candidates)
    return torch.randperm(candidates, generator=generator)[:count]


def several(probabilities: Any) -> Tensor:
    """Float64 [S, N, K] of members that can disagree.

    Raises:
        InputError: these are no probabilities, or of a single member.
    """
    members = member_probabilities(probabilities)
    if len(members) < 2:
        raise InputError("a single member cannot disagree with itself: predict with at least 2")
    return members


def check_count(count: int, candidates: int) -> None:
    """Refuses to choose none, or more than there are.

    Raises:
        InputError: that was asked for.
    """
    if not 1 <= count <= candidates:
        raise InputError(f"choose at least 1 and at most all of {candidates} candidates, got count={count}")
