"""One number that makes averaged class probabilities as sure as they are right; ``edge_bdl.calibration`` applies it."""

from __future__ import annotations

import math
from typing import Any

from edge_bdl_train.evaluation.checks import judged
from edge_bdl_train.evaluation.classification import SMALLEST_PROBABILITY

# As of the temperatures that an export fits.
LOWEST, HIGHEST = 0.05, 20.0
_HALVINGS = 50


def fit_temperature(probabilities: Any, labels: Any) -> float:
    """The temperature in [0.05, 20] under which the labels are likeliest, once it softened the members' average.

    The negative log-likelihood is convex in 1/T (Guo et al. 2017, section 4.2), so its slope has one sign on either
    side of the best: bisection finds it. Fit on other examples than those that you judge by.

    Args:
        probabilities: [S, N, K] or [N, K].
        labels: whole numbers [N] in [0, K).

    Raises:
        InputError: these are no probabilities and labels.
    """
    average, classes = judged(probabilities, labels)
    logits = average.clamp_min(SMALLEST_PROBABILITY).log()
    lead = logits - logits.gather(1, classes[:, None])

    def slope(inverse: float) -> float:
        """Of the loss by 1/T: by how much the expected logit lies above the right class's."""
        return float(((lead * inverse).softmax(-1) * lead).sum(-1).mean())

    low, high = math.log(1.0 / HIGHEST), math.log(1.0 / LOWEST)
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        if slope(math.exp(middle)) < 0.0:
            low = middle
        else:
            high = middle
    return math.exp(-0.5 * (low + high))
