"""How well a score tells outsiders, inputs that have no right answer, from what the network knows."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import msgspec
import torch
from torch import Tensor

from edge_bdl.errors import require
from edge_bdl_train.evaluation.checks import finite

_KEPT = 0.95


class Separation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How well one score does.

    Attributes:
        auroc: probability that an outsider scores higher than a known example; half of it where they score the same.
        fpr95: share of the outsiders that pass where 95 % of the known examples do.
    """

    auroc: float
    fpr95: float


class Roc(NamedTuple):
    """Float64 [T] each, both rising from 0 to 1.

    Attributes:
        false_alarms: share of the known examples that are flagged.
        detected: share of the outsiders that are.
    """

    false_alarms: Tensor
    detected: Tensor


def separation(known: Any, outside: Any) -> Separation:
    """AUROC and FPR95 of a score.

    Args:
        known: [N], larger is worse; only the order counts.
        outside: [M], the outsiders'.

    Raises:
        InputError: one of them is empty or not finite.
        MissingExtraError: torchmetrics is not installed.
    """
    ranks, is_outside = _ranked(known, outside)
    auroc = _torchmetrics().binary_auroc(ranks, is_outside)
    return Separation(auroc=float(auroc), fpr95=fpr95(known, outside))


def fpr95(known: Any, outside: Any) -> float:
    """Share of the outsiders that pass where 95 % of the known examples do.

    The known ones are the positives (Liang et al. 2018, arXiv 1706.02690, section 3.2); others count the other way
    round.
    """
    kept, outsiders = finite("scores", known, "[N]", (1,)), finite("scores of outsiders", outside, "[M]", (1,))
    # Rounded first: 0.95 times 100 is a little more than 95.
    threshold = kept.sort().values[math.ceil(round(_KEPT * len(kept), 9)) - 1]
    return float((outsiders <= threshold).double().mean())


def roc(known: Any, outside: Any) -> Roc:
    """Detected outsiders against false alarms, for every threshold; arguments of ``separation``."""
    ranks, is_outside = _ranked(known, outside)
    false_alarms, detected, _ = _torchmetrics().binary_roc(ranks, is_outside)
    return Roc(false_alarms.double(), detected.double())


def _ranked(known: Any, outside: Any) -> tuple[Tensor, Tensor]:
    """All scores as ranks in [0, 1], and which of them are outsiders'.

    torchmetrics takes what lies beyond [0, 1] for logits, and a sigmoid makes large scores all the same.
    """
    inside, outsiders = finite("scores", known, "[N]", (1,)), finite("scores of outsiders", outside, "[M]", (1,))
    _, rank = torch.cat([inside, outsiders]).unique(return_inverse=True)
    is_outside = torch.arange(len(rank)) >= len(inside)
    return rank.double() / len(rank), is_outside.long()


def _torchmetrics() -> Any:
    # Imported when it is needed: it takes seconds, for it imports much that it finds.
    return require("torchmetrics.functional.classification", "train", "to tell outsiders from known examples")
