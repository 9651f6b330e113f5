"""Times of several calls that take turns in one process: what a noisy machine does to one, it does to all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray


def interleaved(calls: Sequence[Callable[[], object]], rounds: int) -> NDArray[np.float64]:
    """Seconds [rounds, calls] that each call took, after a tenth as many rounds of warming up.

    Every round begins with another call, so that none always runs behind the same neighbour.
    """
    took = np.empty((rounds, len(calls)))
    for number in range(-(rounds // 10) - 1, rounds):
        for place in range(len(calls)):
            column = (number + place) % len(calls)
            start = time.perf_counter()
            calls[column]()
            took[number, column] = time.perf_counter() - start
    return took
