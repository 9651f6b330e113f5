"""Select members: those few of a pool whose averaged prediction is closest to the full posterior's.

The predictive distribution of a set of members depends on them only through the mean of a few statistics per output
(class probabilities and entropy; first and second moment). Selection searches for the set, and its order, whose mean
statistics lie closest to those of a large reference pool, in KL divergence, on frames without labels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_bdl.manifest import Task

Array = NDArray[np.float64]
_TINY = 1e-12


def statistics(outputs: NDArray[np.floating], task: Task, class_axis: int | None = None) -> Array:
    """What of each member's output the predictive distribution averages.

    Args:
        outputs: [M, n, *output] outputs of M members on n frames.
        task: How an output is read.
        class_axis: Which axis of one output holds the classes (classification).

    Returns:
        [M, m, K]: m independent predictions (frames times output positions) of K statistics each. Classification: class
        probabilities, then entropy. Regression: mean, second moment, aleatoric variance.
    """
    values = outputs.astype(np.float64)
    if task == "classification":
        assert class_axis is not None
        values = np.moveaxis(values, 2 + class_axis, -1)
        values = values.reshape(values.shape[0], -1, values.shape[-1])
        shifted = values - values.max(-1, keepdims=True)
        log_probability = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        probability = np.exp(log_probability)
        entropy = -(probability * log_probability).sum(-1, keepdims=True)
        return np.concatenate([probability, entropy], axis=-1)
    mean, noise = values, np.zeros_like(values)
    if task == "heteroscedastic":
        mean, log_variance = np.split(values, 2, axis=-1)
        noise = np.exp(log_variance)
    return np.stack([mean, mean * mean, noise], axis=-1).reshape(len(values), -1, 3)


def divergence(reference: Array, approximation: Array, task: Task) -> Array:
    """KL divergence in nats of the reference's predictive distribution from an approximation's.

    Regression compares Gaussians of the same mean and total variance.

    Args:
        reference: [m, K] mean statistics.
        approximation: [..., m, K] mean statistics.

    Returns:
        [..., m].
    """
    if task == "classification":
        p, q = reference[..., :-1], approximation[..., :-1]
        return (p * (np.log(p + _TINY) - np.log(q + _TINY))).sum(-1)
    p_mean, p_variance = reference[..., 0], _total_variance(reference)
    q_mean, q_variance = approximation[..., 0], _total_variance(approximation)
    return 0.5 * (np.log(q_variance / p_variance) + (p_variance + (p_mean - q_mean) ** 2) / q_variance - 1.0)


def _total_variance(stats: Array) -> Array:
    return np.maximum(stats[..., 1] - stats[..., 0] ** 2, 0.0) + stats[..., 2] + _TINY


def epistemic(stats: Array, task: Task) -> Array:
    """Epistemic uncertainty [..., m] of mean statistics [..., m, K]: mutual information, or variance of means."""
    if task == "classification":
        p = stats[..., :-1]
        return -(p * np.log(p + _TINY)).sum(-1) - stats[..., -1]
    return np.maximum(stats[..., 1] - stats[..., 0] ** 2, 0.0)


def greedy(candidates: Array, reference: Array, samples: int, task: Task) -> list[int]:
    """An order of ``samples`` candidates in which each next one brings the mean closest to the reference.

    Args:
        candidates: [M, m, K] statistics of the pool.
        reference: [m, K] mean statistics of a disjoint pool.
        samples: How many to take.
        task: How an output is read.
    """
    chosen: list[int] = []
    total = np.zeros_like(reference)
    free = np.ones(len(candidates), dtype=bool)
    for count in range(1, samples + 1):
        losses = np.full(len(candidates), np.inf)
        for index in np.flatnonzero(free):
            losses[index] = divergence(reference, (total + candidates[index]) / count, task).mean()
        best = int(np.argmin(losses))
        chosen.append(best)
        free[best] = False
        total += candidates[best]
    return chosen


def rank_correlation(a: Array, b: Array) -> float:
    """Spearman's rank correlation of two vectors without many ties; 0 where one of them is constant."""
    ranks = [np.argsort(np.argsort(values, kind="stable"), kind="stable").astype(np.float64) for values in (a, b)]
    if np.ptp(a) == 0.0 or np.ptp(b) == 0.0:
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
