"""Latency and size of PilotNet's bundles, as Markdown: R(16), speed-up, overhead, what the density costs, files.

    .venv/bin/python tools/bench/latency.py [--seconds 20]

Two networks: dropout in the three head layers, and dropout in every block, where nothing can be shared. What is
compared runs interleaved in one process, 1 thread. Weights are untrained: time does not depend on them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edge_bdl import Bundle
from edge_bdl.profiling import profile
from edge_bdl_export import export
from edge_bdl_train.models.pilotnet import PILOTNET_SIZE, PilotNet
from edge_bdl_train.preprocess import Preprocess
from interleaved import interleaved, passes


def main() -> None:
    """Print every table."""
    parser = argparse.ArgumentParser(description="Latency and size of PilotNet's bundles.")
    parser.add_argument("--seconds", type=float, default=20.0, help="measuring time per engine (default: 20)")
    seconds = parser.parse_args().seconds
    frames = np.random.default_rng(0).integers(0, 256, (400, *PILOTNET_SIZE, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        torch.manual_seed(0)
        head = PilotNet(preprocess=Preprocess(PILOTNET_SIZE)).eval()
        every = PilotNet(preprocess=Preprocess(PILOTNET_SIZE), dropout_everywhere=True).eval()
        export(head, frames[:1], here / "head.ebdl", task="heteroscedastic", calibration=frames)
        export(head, frames[:1], here / "plain.ebdl", task="heteroscedastic")
        export(every, frames[:1], here / "everywhere.ebdl", task="heteroscedastic")
        for name in ("head", "everywhere"):
            _latency(name, here / f"{name}.ebdl", seconds)
        _density(here / "head.ebdl", here / "plain.ebdl")
        _sizes(head, frames[:1], here)


def _latency(name: str, bundle: Path, seconds: float) -> None:
    report = profile(bundle, samples=[1, 4, 16, 30], seconds=seconds, cold_starts=7)
    machine = report.machine
    print(
        f"\n### PilotNet, dropout: {name}\n\n{machine.processor}, {machine.cores} cores, {time.strftime('%Y-%m-%d')}; "
    )
    print(f"cold start {report.cold_start_ms:.0f} ms, peak RSS {report.peak_rss_mb:.0f} MB\n")
    print("| engine | S | n | p50 ms | p99 ms | T_det ms | R(S) | naive/shared | overhead us |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in report.rows:
        tail = "n too small" if row.p99_ms is None else f"{row.p99_ms:.3f}"
        print(
            f"| {row.engine} | {row.samples} | {row.n} | {row.p50_ms:.3f} | {tail} | {row.det_p50_ms:.3f} "
            f"| {row.ratio:.3f} | {row.speedup:.1f} | {row.overhead_us:.0f} |"
        )
    for warning in report.warnings:
        print(f"\nwarning: {warning}")


def _density(with_density: Path, without: Path, rounds: int = 3000) -> None:
    print("\n### What the density costs\n")
    print("| engine | n | with, p50 ms | without, p50 ms | T_det ms | share of T_det | R(16) |")
    print("|---|---|---|---|---|---|---|")
    for engine in ("onnxruntime", "tflite"):
        (_, scored_pass), (once, plain_pass) = (passes(Bundle.open(path), engine) for path in (with_density, without))
        assert "density" in scored_pass()
        assert "density" not in plain_pass()
        calls = [scored_pass, plain_pass, once]
        scored, plain, det_ms = np.median(interleaved(calls, rounds), axis=0) * 1e3
        print(
            f"| {engine} | {rounds} | {scored:.4f} | {plain:.4f} | {det_ms:.4f} | {(scored - plain) / det_ms:+.1%} "
            f"| {scored / det_ms:.3f} |"
        )


def _sizes(model: nn.Module, example: np.ndarray, here: Path) -> None:
    """Against what the plain exporters write for the deterministic network."""
    import litert_torch

    tensor = torch.from_numpy(example)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(model, (tensor,), dynamo=True, verbose=False)
        assert program is not None
        program.save(str(here / "plain.onnx"), external_data=False)
        litert_torch.convert(model, (tensor,)).export(str(here / "plain.tflite"))
    print("\n### Size\n\n| side | bundle, bytes | deterministic model, bytes | ratio |\n|---|---|---|---|")
    for bundle in ("head", "plain"):
        files = Bundle.open(here / f"{bundle}.ebdl").manifest.files
        onnx = sum(entry.bytes for name, entry in files.items() if name.endswith((".onnx", "weights.bin")))
        sides = {"ONNX": (onnx, "plain.onnx"), "TFLite": (files["graph.tflite"].bytes, "plain.tflite")}
        note = "with density" if bundle == "head" else "without density"
        for side, (ours, plain) in sides.items():
            theirs = (here / plain).stat().st_size
            print(f"| {side}, {note} | {ours} | {theirs} | {ours / theirs:.3f} |")
        print(f"| bank, {note} | {files['bank.safetensors'].bytes} | | |")


if __name__ == "__main__":
    main()
