"""BatchBALD: the batch whose labels together say most about the weights (Kirsch et al. 2019, arXiv 1906.08158).

BALD scores examples one by one, and so asks ten times the same. BatchBALD is the mutual information between the weights
and all labels of the batch, I(y_1..b; w) = H(y_1..b) - sum_i E_w H(y_i | w), made large greedily: it is submodular, so
that the greedy batch gets at least 1 - 1/e of the best one's.

So many members can tell no more than the logarithm of their number: 20 are exhausted after about four labels, and what
is chosen then is chance. Take hundreds for a batch of ten.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edge_bdl_train.active.acquisition import check_count, several

# Elements of the largest intermediate tensor, float64: 64 MiB.
_ELEMENTS = 2**23


@dataclass(frozen=True)
class Batch:
    """What was chosen.

    Attributes:
        chosen: positions, in the order in which they were chosen.
        scores: mutual information in nats of the batch up to and with each of them.
    """

    chosen: tuple[int, ...]
    scores: tuple[float, ...]


def batch_bald(probabilities: Any, count: int, generator: torch.Generator, *, configurations: int = 10_000) -> Batch:
    """A batch of different examples, chosen one after the other.

    Args:
        probabilities: [S, N, K] of the members for every candidate.
        count: examples in the batch.
        generator: draws configurations of labels where there are too many.
        configurations: of the labels of a batch that are summed over. As long as there are no more, the joint entropies
            are exact; beyond, so many are drawn from the members, and the entropies estimated.

    Raises:
        InputError: these are no probabilities, of a single member, or of too few candidates.
    """
    members = several(probabilities)
    check_count(count, members.shape[1])
    conditional = torch.special.entr(members).sum(-1).mean(0)
    joint = _Joint(len(members), members.shape[2], configurations)
    chosen: list[int] = []
    scores: list[float] = []
    spent = 0.0
    for _ in range(count):
        gains = joint.entropies_with(members) - conditional - spent
        gains[chosen] = -torch.inf
        best = int(gains.argmax())
        chosen.append(best)
        scores.append(float(gains[best]))
        spent += float(conditional[best])
        joint.add(members[:, best], generator)
    return Batch(tuple(chosen), tuple(scores))


class _Joint:
    """Members' probabilities of configurations of the chosen examples' labels.

    A configuration's probability is the mean over the members of the product of its labels' probabilities.
    Configurations are all that there are, or so many drawn ones; then each counts by 1 / (their number times its
    probability).
    """

    def __init__(self, members: int, classes: int, most: int) -> None:
        self._classes = classes
        self._most = most
        self._likelihoods = torch.ones(members, 1, dtype=torch.float64)  # [S, C]
        self._weights: Tensor | None = None  # [C]; None where all configurations are there
        self._chosen: list[Tensor] = []

    def entropies_with(self, members: Tensor) -> Tensor:
        """Joint entropy [N], in nats, of the chosen examples' labels and that of each candidate [S, N, K] in turn."""
        configurations = self._likelihoods.shape[1]
        weights = torch.ones(configurations, dtype=torch.float64) if self._weights is None else self._weights
        rows = max(1, _ELEMENTS // (configurations * self._classes))
        parts = []
        for candidates in members.split(rows, dim=1):
            flat = candidates.reshape(len(members), -1)
            probability = (self._likelihoods.T @ flat / len(members)).view(configurations, -1, self._classes)
            parts.append(torch.einsum("cnk,c->n", torch.special.entr(probability), weights))
        return torch.cat(parts)

    def add(self, chosen: Tensor, generator: torch.Generator) -> None:
        """Takes one more example [S, K] into the batch."""
        self._chosen.append(chosen)
        exact = self._weights is None and self._likelihoods.shape[1] * self._classes <= self._most
        if exact:
            self._likelihoods = (self._likelihoods[:, :, None] * chosen[:, None, :]).flatten(1)
        else:
            self._draw(generator)

    def _draw(self, generator: torch.Generator) -> None:
        """New configurations of all chosen examples, as nearly equally many from each member as can be."""
        members = len(self._chosen[0])
        drawn_from = torch.randperm(members, generator=generator)[torch.arange(self._most) % members]
        self._likelihoods = torch.ones(members, self._most, dtype=torch.float64)
        for chosen in self._chosen:
            labels = torch.multinomial(chosen[drawn_from], 1, replacement=True, generator=generator)[:, 0]
            self._likelihoods *= chosen[:, labels]
        self._weights = 1.0 / (self._most * self._likelihoods.mean(0))
