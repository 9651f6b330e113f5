"""The zoo as Markdown: every network by every method, exported or refused, and what it costs.

    .venv/bin/python tools/bench/zoo.py [--network NAME ...] [--seconds 3] [--bundles FOLDER]

R is the time of the fused graph, all members, over T_det, that of the deterministic graph of the same bundle; the two
take turns in one process, each after a pass of its own, 1 thread, medians. Parity is the worst of the proof's
comparisons of members (or moments) with torch, as a share of the output's range. The fits are of a few steps on noise:
see ``edge_bdl_train.models.zoo``.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from edge_bdl import Bundle
from edge_bdl.errors import EdgeBdlError
from edge_bdl_export import export
from edge_bdl_train.models.zoo import METHODS_SHOWN, ZOO, Exhibit, posterior_of
from interleaved import interleaved, passes

_SAMPLES = 16
_ROUNDS = (50, 3000)
_HEADER = ("network", "method", "form", "members", "MB", "parity", "engine", "n", "T_det ms", "R")
_EQUALS = ("members_equal_torch", "mean_equals_posterior")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="The zoo: exported or refused, and what it costs.")
    parser.add_argument("--network", nargs="+", default=list(ZOO), choices=list(ZOO))
    parser.add_argument("--method", nargs="+", default=list(METHODS_SHOWN), choices=list(METHODS_SHOWN))
    parser.add_argument("--seconds", type=float, default=3.0, help="to time each engine for (default: 3)")
    parser.add_argument("--bundles", type=Path, help="where bundles are kept; those that are there are measured again")
    options = parser.parse_args()
    print(f"| {' | '.join(_HEADER)} |\n|{'---|' * len(_HEADER)}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.network:
            for method in options.method:
                out = (options.bundles or Path(scratch)) / f"{name}_{method.replace(' ', '_').replace(',', '')}.ebdl"
                try:
                    bundle = exported(ZOO[name], method, out)
                except EdgeBdlError as error:
                    print(f"| {name} | {method} | refused: {str(error)[:160]} {'| ' * 7}|", flush=True)
                    continue
                for engine in bundle.manifest.engines:
                    print(f"| {name} | {method} | {row(bundle, engine, options.seconds)} |", flush=True)


def exported(exhibit: Exhibit, method: str, out: Path) -> Bundle:
    """The bundle of this network and method, made if it is not there."""
    if not out.is_dir():
        generator = torch.Generator().manual_seed(1)
        export(
            posterior_of(exhibit, method), exhibit.inputs(1, generator), out,
            task=exhibit.task, class_axis=exhibit.class_axis, samples=_SAMPLES, deterministic=exhibit.deterministic,
        )  # fmt: skip
    return Bundle.open(out)


def row(bundle: Bundle, engine: str, seconds: float) -> str:
    """One engine's figures."""
    manifest, calls = bundle.manifest, passes(bundle, engine)
    rounds = int(np.clip(seconds / (2.0 * interleaved(calls, 5).mean(axis=0).sum()), *_ROUNDS))
    det_s, fused_s = np.median(interleaved(calls, rounds), axis=0)
    size = sum(entry.bytes for entry in manifest.files.values())
    parity = max(check.value for check in manifest.parity if check.engine == engine and check.check.startswith(_EQUALS))
    return (
        f"{manifest.form} | {manifest.bank.members if manifest.closed is None else 'closed form'} | {size / 1e6:.2f} | "
        f"{parity:.0e} | {engine} | {rounds} | {det_s * 1e3:.3f} | {fused_s / det_s:.3f}"
    )


if __name__ == "__main__":
    main()
