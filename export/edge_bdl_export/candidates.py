"""Candidates: which of many members make the bank whose every prefix predicts what all of them predict.

Where masks are trained, weights are chosen: a member of a posterior over weights is a draw of it and stays one. Greedy,
member by member, and then swaps as long as one of them helps. No label is looked at.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edge_bdl.manifest import Task
from edge_bdl_export.selection import errors

# Sweeps over the bank; it seldom takes as many. Prefixes beyond the first few have little to gain from a swap.
_SWEEPS, _SWAPPED = 3, 16


def pick(candidates: Tensor, reference: Tensor, count: int, task: Task) -> list[int]:
    """The bank as rows of the candidates, in its order.

    Args:
        candidates: Statistics float64 [n, P, m, K] of each on each frame.
        reference: Mean statistics [n, m, K] that every prefix of two or more is to have.
        count: Members of the bank, at most P.
        task: How statistics are read.
    """
    chosen: list[int] = []
    total = torch.zeros_like(reference)
    for size in range(1, count + 1):
        means = (total[:, None] + candidates) / size
        best = _best(errors(reference, means, task), chosen)
        chosen.append(best)
        total = total + candidates[:, best]
    for _ in range(_SWEEPS):
        before = list(chosen)
        for place in range(min(count, _SWAPPED)):
            _swap(chosen, place, candidates, reference, task)
        if chosen == before:
            break
    return chosen


def _best(error: Tensor, taken: list[int]) -> int:
    error = error.clone()
    error[taken] = torch.inf
    return int(error.argmin())


def _swap(chosen: list[int], place: int, candidates: Tensor, reference: Tensor, task: Task) -> None:
    """Put the candidate into a place that lowers the mean error of all prefixes it is in, if there is a better one."""
    counted = range(max(2, place + 1), min(len(chosen), _SWAPPED) + 1)
    error = torch.zeros(candidates.shape[1], dtype=candidates.dtype)
    for size in counted:
        rest = candidates[:, [row for i, row in enumerate(chosen[:size]) if i != place]].sum(1)
        error += errors(reference, (rest[:, None] + candidates) / size, task)
    others = [row for row in chosen if row != chosen[place]]
    best = _best(error, others)
    if error[best] < error[chosen[place]]:
        chosen[place] = best
