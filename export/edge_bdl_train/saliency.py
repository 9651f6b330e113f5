"""Where in its input a network is unsure: the gradient of its epistemic uncertainty.

Simonyan et al. 2014 (arXiv 1312.6034, section 3) take the gradient of a class score, which says what speaks for the
class. That of the members' disagreement says which entries, changed a little, would change the doubt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from edge_bdl.errors import InputError
from edge_bdl_train.attacks import gradient
from edge_bdl_train.posterior import Member, Posterior

Score = Callable[[Tensor], Tensor]
"""Members' raw outputs [S, N, ...] -> uncertainty [N], differentiable."""


def saliency(posterior: Posterior, members: Sequence[Member], x: Tensor, score: Score) -> Tensor:
    """The gradient of the score with respect to the input, [N, ...] as x.

    Args:
        posterior: whose members they are.
        members: at least two: one alone does not disagree.
        x: [N, ...].
        score: ``mutual_information``, ``predictive_entropy``, ``variance`` or another.

    Raises:
        InputError: there are fewer than two members.
    """
    if len(members) < 2:
        raise InputError(f"a disagreement takes at least 2 members, got {len(members)}")
    return gradient(lambda inputs: score(torch.stack([posterior.run(inputs, member) for member in members])), x)


def predictive_entropy(logits: Tensor) -> Tensor:
    """Entropy [N], in nats, of the class probabilities averaged over members' logits [S, N, K]."""
    averaged = torch.log_softmax(logits, -1).logsumexp(0) - math.log(len(logits))
    return -(averaged.exp() * averaged).sum(-1)


def mutual_information(logits: Tensor) -> Tensor:
    """Between class and member, [N] in nats, of members' logits [S, N, K] (Houlsby et al. 2011, arXiv 1112.5745).

    The plain estimate, as ``edge_bdl.uncertainty`` has it with ``unbiased=False``.
    """
    each = torch.log_softmax(logits, -1)
    return predictive_entropy(logits) + (each.exp() * each).sum(-1).mean(0)


def variance(outputs: Tensor) -> Tensor:
    """Variance over members [N], summed over the outputs, of members' means [S, N, D]; unbiased."""
    return outputs.var(0).flatten(1).sum(-1)
