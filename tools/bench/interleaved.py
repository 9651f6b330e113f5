"""Times of several calls that take turns in one process: what a noisy machine does to one, it does to all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_bdl.bundle import Bundle
from edge_bdl.engines import open_engine
from edge_bdl.sampling import Members


def interleaved(calls: Sequence[Callable[[], object]], rounds: int, in_a_row: int = 1) -> NDArray[np.float64]:
    """Seconds [rounds, calls] that each call took, after a tenth as many rounds of warming up.

    Every round begins with another call, so that none always runs behind the same neighbour; and each is called just
    before it is timed, so that none finds the caches full of what its neighbour left.

    Args:
        calls: What takes turns.
        rounds: How many.
        in_a_row: Times that a call is timed in its turn; the median of them counts.
    """
    took = np.empty((rounds, len(calls)))
    for number in range(-(rounds // 10) - 1, rounds):
        for place in range(len(calls)):
            column = (number + place) % len(calls)
            took[number, column] = np.median(_timed(calls[column], in_a_row))
    return took


def passes(bundle: Bundle, engine: str) -> tuple[Callable[[], dict[str, Any]], Callable[[], dict[str, Any]]]:
    """One deterministic pass, and one fused pass of the whole bank, over the first frame of a bundle's self-test."""
    manifest, golden = bundle.manifest, bundle.golden()
    opened = open_engine(engine, bundle.folder, manifest)
    frame = {spec.name: golden[f"input.{spec.name}"][0] for spec in manifest.inputs}
    det, fused = opened.graph("det"), opened.graph("fused")
    if manifest.closed is not None or manifest.bank.built_in:
        return lambda: det.run(frame), lambda: fused.run(frame)
    held = fused.hold(Members(manifest.form, manifest.bank, bundle.bank()).take(0, manifest.bank.members))
    return lambda: det.run(frame), lambda: fused.run(frame, held)


def _timed(call: Callable[[], object], times: int) -> list[float]:
    call()
    took = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        took.append(time.perf_counter() - start)
    return took
