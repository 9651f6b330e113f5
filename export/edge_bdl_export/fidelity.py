"""Fidelity: how close the averaged prediction of a few members is to the full posterior's.

The predictive distribution of a set of members depends on them only through the mean of a few statistics per output:
class probabilities and entropy, or first and second moment. Everything here is a function of such means.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_bdl.manifest import Task

_TINY = 1e-12


@dataclass(frozen=True)
class Reading:
    """How a network's output is read.

    Attributes:
        task: Of the manifest.
        class_axis: Of one output, for classification.
    """

    task: Task
    class_axis: int | None


def statistics(outputs: Tensor, reading: Reading) -> Tensor:
    """What of each member's output the predictive distribution averages.

    Args:
        outputs: [n, S, *output] of S members on n frames.
        reading: How an output is read.

    Returns:
        float64 [n, S, m, K]: m independent predictions (output positions) of K statistics each. Classification: class
        probabilities, then entropy. Regression: mean, second moment, aleatoric variance.
    """
    frames, members = outputs.shape[:2]
    values = outputs.double()
    if reading.task == "classification":
        assert reading.class_axis is not None
        scores = torch.movedim(values, 2 + reading.class_axis, -1)
        log_probability = scores.reshape(frames, members, -1, scores.shape[-1]).log_softmax(-1)
        probability = log_probability.exp()
        entropy = -(probability * log_probability).sum(-1, keepdim=True)
        return torch.cat([probability, entropy], dim=-1)
    mean, noise = values, torch.zeros_like(values)
    if reading.task == "heteroscedastic":
        mean, log_variance = values.chunk(2, dim=-1)
        noise = log_variance.exp()
    return torch.stack([mean, mean * mean, noise], dim=-1).reshape(frames, members, -1, 3)


def prefix_means(stats: Tensor) -> Tensor:
    """Mean statistics of the first 1, 2, ... S members, [n, S, m, K] from [n, S, m, K]."""
    counts = torch.arange(1, stats.shape[1] + 1, dtype=stats.dtype)
    return stats.cumsum(1) / counts[:, None, None]


def divergence(reference: Tensor, approximation: Tensor, task: Task) -> Tensor:
    """KL divergence in nats of the reference's predictive distribution from an approximation's.

    Regression compares Gaussians of the same mean and total variance.

    Args:
        reference: [..., m, K] mean statistics.
        approximation: [..., m, K] mean statistics; the leading axes broadcast.
        task: How they are read.

    Returns:
        [..., m].
    """
    if task == "classification":
        p, q = reference[..., :-1], approximation[..., :-1]
        return (p * ((p + _TINY).log() - (q + _TINY).log())).sum(-1)
    p_variance, q_variance = (epistemic(stats, task) + stats[..., 2] + _TINY for stats in (reference, approximation))
    distance = (reference[..., 0] - approximation[..., 0]) ** 2
    return 0.5 * ((q_variance / p_variance).log() + (p_variance + distance) / q_variance - 1.0)


def epistemic(stats: Tensor, task: Task) -> Tensor:
    """Epistemic uncertainty [..., m] of mean statistics [..., m, K]: mutual information, or variance of means."""
    if task == "classification":
        p = stats[..., :-1]
        return -(p * (p + _TINY).log()).sum(-1) - stats[..., -1]
    return (stats[..., 1] - stats[..., 0] ** 2).clamp_min(0.0)


@dataclass(frozen=True)
class Curve:
    """How close the first 2, 3, ... members are to a reference.

    Attributes:
        kl: Mean divergence in nats, by prefix.
        spearman: Rank correlation of the epistemic score, by prefix.
        scores: Epistemic score of each frame [n], by prefix.
    """

    kl: Sequence[float]
    spearman: Sequence[float]
    scores: Sequence[Tensor]


def curve(members: Iterable[Tensor], reference: Tensor, task: Task) -> Curve:
    """Compare every prefix of two or more members.

    Args:
        members: Statistics [n, m, K] of one after the other.
        reference: Mean statistics [n, m, K].
        task: How they are read.
    """
    expected = epistemic(reference, task)
    total, kl, spearman, scores = torch.zeros(()), [], [], []
    for count, stats in enumerate(members, start=1):
        total = total + stats
        if count >= 2:
            score = epistemic(total / count, task)
            kl.append(float(divergence(reference, total / count, task).mean()))
            spearman.append(rank_correlation(score.flatten().numpy(), expected.flatten().numpy()))
            scores.append(frame_scores(score))
    return Curve(kl, spearman, scores)


def frame_scores(score: Tensor) -> Tensor:
    """[n] of [n, m]: the largest, which is how the manifest reduces them."""
    return score.amax(-1)


def rank_correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Spearman's rank correlation of two vectors without many ties; 0 where one of them is constant."""
    if np.ptp(a) == 0.0 or np.ptp(b) == 0.0:
        return 0.0
    ranks = [np.argsort(np.argsort(values, kind="stable"), kind="stable").astype(np.float64) for values in (a, b)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
