"""How right class probabilities are. Members, where there are several, are averaged first."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_bdl_train.evaluation.checks import judged

# A class that underflowed to 0 counts as the smallest float32, as where a temperature is fitted.
SMALLEST_PROBABILITY = float(np.finfo(np.float32).tiny)


def accuracy(probabilities: Any, labels: Any) -> float:
    """Share of the examples whose likeliest class is the right one.

    Args:
        probabilities: [S, N, K] or [N, K].
        labels: whole numbers [N] in [0, K).

    Raises:
        InputError: these are no probabilities and labels.
    """
    average, classes = judged(probabilities, labels)
    return float((average.argmax(-1) == classes).double().mean())


def nll(probabilities: Any, labels: Any) -> float:
    """Mean negative logarithm of the right class's probability, in nats; everything else as for ``accuracy``."""
    average, classes = judged(probabilities, labels)
    right = average.gather(1, classes[:, None])
    return float(-right.clamp_min(SMALLEST_PROBABILITY).log().mean())


def brier(probabilities: Any, labels: Any) -> float:
    """Mean squared distance to the right class's corner, in [0, 2] (Brier 1950, equation 2); as for ``accuracy``."""
    average, classes = judged(probabilities, labels)
    distance = average.clone()
    distance[range(len(classes)), classes] -= 1.0
    return float((distance**2).sum(-1).mean())
