"""How long a prediction takes on this machine, and how sure that is.

One deterministic pass, predictions at every number of samples, and naive sampling (the whole network once per sample)
run interleaved on one engine, so that a clock that drifts drifts for all of them. A percentile is given only with
enough samples for it, by MLPerf's rule (Reddi et al. 2020, "MLPerf Inference Benchmark"; LoadGen's early stopping): so
many that fewer than two of them above it would be a 1 % accident.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_bdl.bundle import Bundle
from edge_bdl.errors import EngineError, InputError, MissingExtraError
from edge_bdl.machine import Machine, read_machine
from edge_bdl.manifest import Manifest
from edge_bdl.runtime import Runtime

_FEWEST_ROUNDS = 64  # enough for a p90
_MOST_ROUNDS = 6_700  # enough for a p99.9
_NAIVE_ROUNDS = 64  # naive sampling is slow and needs no more than its median
_WARM_UP_ROUNDS = 5
_BINS = 40

# What a process pays before its first answer. VmHWM is the child's alone; its ru_maxrss would start from its parent's.
_COLD_START = """
import json, sys
from edge_bdl.runtime import Runtime
import numpy
runtime = Runtime.open(sys.argv[1], sys.argv[2], int(sys.argv[3]))
runtime.predict({spec.name: numpy.zeros(spec.shape, spec.dtype) for spec in runtime.manifest.inputs})
import time
now = time.monotonic()
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps([now, float(status["VmHWM"].split()[0]) / 1024]))
"""


class Histogram(msgspec.Struct, frozen=True):
    """Counts between edges; the last bin also holds everything above the last edge."""

    edges_ms: list[float]
    counts: list[int]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Predictions of one engine, number of threads and number of samples.

    Attributes:
        engine: Its name.
        version: Library and version.
        threads: Threads that it may use.
        samples: Members per prediction.
        n: Predictions measured.
        p50_ms: Median of all that predict() takes; the others likewise, None with too few predictions.
        p50_low_ms: Lower end of the median's 95 % interval, from order statistics; predictions taken as independent.
        p50_high_ms: Upper end.
        p90_ms: See `p50_ms`.
        p99_ms: See `p50_ms`.
        p999_ms: See `p50_ms`.
        max_ms: The slowest.
        engine_p50_ms: Median of the engine's part.
        det_p50_ms: Median of one deterministic pass, T_det.
        ratio: R(S), engine time over T_det.
        naive_p50_ms: Median of as many deterministic passes as there are samples.
        speedup: Naive over engine time.
        overhead_us: Median of what predict() adds to the engine.
        stages_ms: Median per stage.
        histogram: Of predict().
    """

    engine: str
    version: str
    threads: int
    samples: int
    n: int
    p50_ms: float | None
    p50_low_ms: float | None
    p50_high_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    max_ms: float
    engine_p50_ms: float
    det_p50_ms: float
    ratio: float
    naive_p50_ms: float
    speedup: float
    overhead_us: float
    stages_ms: dict[str, float]
    histogram: Histogram


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What `profile` measured.

    Attributes:
        bundle: Its name.
        digest: Its identity.
        machine: Where it was measured.
        cold_start_ms: From starting a Python process to its first prediction on the first row's engine; median.
        peak_rss_mb: The most memory such a process held; median.
        rows: By engine, threads and samples.
        warnings: What a person should know.
    """

    bundle: str
    digest: str
    machine: Machine
    cold_start_ms: float | None
    peak_rss_mb: float | None
    rows: list[Row]
    warnings: list[str]


def profile(
    bundle: Bundle | str | PathLike[str],
    engines: Sequence[str] | None = None,
    samples: Sequence[int] | None = None,
    threads: Sequence[int] = (1,),
    *,
    rounds: int | None = None,
    seconds: float = 15.0,
    cold_starts: int = 5,
    progress: Callable[[str], None] = lambda line: None,
) -> Report:
    """Measure a bundle on this machine, with the frames of its self-test.

    Args:
        bundle: An open bundle or its folder.
        engines: Which; None: all that the bundle is made for and that are installed.
        samples: Numbers of members; None: 4 and all of the bank.
        threads: Numbers of threads.
        rounds: How often everything is measured; None: for `seconds`, within 64 and 6,700.
        seconds: Time for each engine and number of threads.
        cold_starts: How many fresh processes to start.
        progress: Told what is being measured.

    Raises:
        BundleError: The folder is not a sound bundle.
        InputError: A number of samples, threads or rounds is not possible.
        MissingExtraError: An engine that was asked for, or every engine, is not installed.
        EngineError: An engine failed.
    """
    bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    if rounds is not None and rounds < 1:
        raise InputError(f"rounds must be at least 1, got {rounds}")
    if not all(asked is None or len(asked) for asked in (engines, samples, threads)):
        raise InputError("name at least one engine, at least one number of samples and one of threads, or leave it out")
    members = bundle.manifest.bank.members
    counts = sorted({min(4, members), members} if samples is None else set(samples))
    frames = _frames(bundle)
    warnings = advice(bundle.manifest, max(counts))
    rows: list[Row] = []
    missing: list[MissingExtraError] = []
    for engine in dict.fromkeys(bundle.manifest.engines if engines is None else engines):
        for count in dict.fromkeys(threads):
            try:
                runtime = Runtime.open(bundle, engine, count)
            except MissingExtraError as error:
                if engines is not None:
                    raise
                missing.append(error)
                break
            progress(f"{engine}, {count} thread{'s' if count > 1 else ''}, {', '.join(map(str, counts))} samples")
            rows += _measure(runtime, count, counts, frames, rounds, seconds)
    if not rows:
        raise missing[0]
    warnings += [f"not measured: {error}" for error in missing]
    progress("cold start")
    took_ms, peak_mb = cold_start(bundle, rows[0].engine, rows[0].threads, cold_starts)
    return Report(
        bundle=bundle.manifest.name,
        digest=bundle.digest,
        machine=read_machine(),
        cold_start_ms=took_ms,
        peak_rss_mb=peak_mb,
        rows=rows,
        warnings=warnings,
    )


def advice(manifest: Manifest, samples: int) -> list[str]:
    """What to do about a network whose trunk is nearly empty."""
    share = manifest.flops.deterministic_share
    if share >= 0.5 or manifest.closed is not None:
        return []
    return [
        f"only {share:.0%} of this network's multiply-accumulates come before its first stochastic layer, so {samples} "
        f"samples cost about {share + samples * (1 - share):.1f} deterministic passes: keep dropout for the last "
        "layers, or export with deterministic=[names of the early ones]"
    ]


def cold_start(bundle: Bundle, engine: str, threads: int, times: int) -> tuple[float | None, float | None]:
    """Start fresh processes that predict once.

    Returns:
        Median milliseconds from start to first prediction, median peak resident memory in MB; None without any.

    Raises:
        EngineError: Such a process failed.
    """
    command = [sys.executable, "-c", _COLD_START, str(bundle.folder), engine, str(threads)]
    seen = []
    for _ in range(times):
        start = time.monotonic()
        child = subprocess.run(command, capture_output=True, text=True, check=False)
        if child.returncode:
            said = child.stderr.strip().splitlines()[-1:] or ["no message"]
            raise EngineError(f"a fresh process could not predict with {engine}: {said[0]}")
        end, peak_mb = json.loads(child.stdout.splitlines()[-1])
        seen.append(((end - start) * 1e3, peak_mb))
    if not seen:
        return None, None
    return float(np.median([took for took, _ in seen])), float(np.median([peak for _, peak in seen]))


def enough_for(percentile: float, n: int) -> bool:
    """Whether `n` samples carry a percentile: P(Binomial(n, 1 - p) <= 1) <= 1 %."""
    above = 1.0 - percentile / 100.0
    return (1.0 - above) ** n + n * above * (1.0 - above) ** (n - 1) <= 0.01


def percentile_ms(sorted_ms: NDArray[np.float64], percentile: float) -> float | None:
    """A percentile as the smallest measured value that so many do not exceed; None with too few."""
    if not enough_for(percentile, len(sorted_ms)):
        return None
    return float(sorted_ms[math.ceil(percentile / 100.0 * len(sorted_ms)) - 1])


def median_interval(sorted_ms: NDArray[np.float64]) -> tuple[float, float] | None:
    """Exact 95 % confidence interval of a median, from order statistics.

    The number of values below the true median is Binomial(n, 1/2), whatever their distribution; None for n < 6.
    """
    n = len(sorted_ms)
    below, ways, rank = 0, 1, 0
    while 40 * (below + ways) <= 2**n:  # 2.5 % on each side
        below += ways
        ways = ways * (n - rank) // (rank + 1)
        rank += 1
    return (float(sorted_ms[rank - 1]), float(sorted_ms[n - rank])) if rank else None


def _frames(bundle: Bundle) -> list[dict[str, NDArray[Any]]]:
    golden = bundle.golden()
    names = [spec.name for spec in bundle.manifest.inputs]
    columns = [golden[f"input.{name}"] for name in names]
    return [dict(zip(names, arrays, strict=True)) for arrays in zip(*columns, strict=True)]


class _Series:
    """What one number of samples took, round by round, in seconds."""

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.whole: list[float] = []
        self.engine: list[float] = []
        self.naive: list[float] = []
        self.stages: dict[str, list[float]] = {}


def _measure(
    runtime: Runtime,
    threads: int,
    counts: Sequence[int],
    frames: Sequence[dict[str, NDArray[Any]]],
    rounds: int | None,
    seconds: float,
) -> list[Row]:
    """Interleave one deterministic pass, predictions, and every so often naive sampling."""
    clock = time.perf_counter
    det = runtime.engine.graph("det")
    series = [_Series(count) for count in counts]
    deterministic: list[float] = []

    def one_round(frame: dict[str, NDArray[Any]], naive: bool, first: int) -> None:
        start = clock()
        det.run(frame)
        deterministic.append(clock() - start)
        for number in range(len(series)):
            entry = series[(first + number) % len(series)]  # Who follows whom changes with every round.
            start = clock()
            prediction = runtime.predict(frame, samples=entry.samples)
            entry.whole.append(clock() - start)
            entry.engine.append(prediction.engine_ms * 1e-3)
            for stage, took_ms in prediction.stages_ms.items():
                entry.stages.setdefault(stage, []).append(took_ms)
            if naive:
                start = clock()
                for _ in range(entry.samples):
                    det.run(frame)
                entry.naive.append(clock() - start)

    start = clock()
    for number in range(_WARM_UP_ROUNDS):
        one_round(frames[number % len(frames)], True, number)
    round_s = (clock() - start) / _WARM_UP_ROUNDS  # Naive sampling included, so an upper bound.
    planned = rounds or min(max(int(seconds / round_s), _FEWEST_ROUNDS), _MOST_ROUNDS)
    series = [_Series(count) for count in counts]
    deterministic = []
    stride, number, until = max(planned // _NAIVE_ROUNDS, 1), 0, clock() + seconds
    limit = rounds or _MOST_ROUNDS
    while number < limit and (rounds or number < _FEWEST_ROUNDS or clock() < until):
        one_round(frames[number % len(frames)], number % stride == 0, number)
        number += 1
    return [_row(runtime, threads, entry, np.median(deterministic)) for entry in series]


def _row(runtime: Runtime, threads: int, series: _Series, deterministic_s: np.floating[Any]) -> Row:
    whole_ms = np.sort(np.asarray(series.whole)) * 1e3
    engine_ms = float(np.median(series.engine)) * 1e3
    det_ms, naive_ms = float(deterministic_s) * 1e3, float(np.median(series.naive)) * 1e3
    low, high = median_interval(whole_ms) or (None, None)
    return Row(
        engine=runtime.engine.name,
        version=runtime.engine.version,
        threads=threads,
        samples=series.samples,
        n=len(whole_ms),
        p50_ms=percentile_ms(whole_ms, 50),
        p50_low_ms=low,
        p50_high_ms=high,
        p90_ms=percentile_ms(whole_ms, 90),
        p99_ms=percentile_ms(whole_ms, 99),
        p999_ms=percentile_ms(whole_ms, 99.9),
        max_ms=float(whole_ms[-1]),
        engine_p50_ms=engine_ms,
        det_p50_ms=det_ms,
        ratio=engine_ms / det_ms,
        naive_p50_ms=naive_ms,
        speedup=naive_ms / engine_ms,
        overhead_us=float(np.median(np.asarray(series.whole) - np.asarray(series.engine))) * 1e6,
        stages_ms={stage: float(np.median(took)) for stage, took in series.stages.items()},
        histogram=_histogram(whole_ms),
    )


def _histogram(sorted_ms: NDArray[np.float64]) -> Histogram:
    """Bins up to the 99th percentile: one straggler must not squeeze all others into a single bar."""
    low, high = float(sorted_ms[0]), float(np.quantile(sorted_ms, 0.99))
    high = high if high > low else low + 1e-6
    counts, edges = np.histogram(np.minimum(sorted_ms, high), bins=_BINS, range=(low, high))
    return Histogram([float(edge) for edge in edges], [int(count) for count in counts])
