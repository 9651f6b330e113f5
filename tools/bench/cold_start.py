"""Cold start of ``edge-bdl predict`` on PilotNet, as Markdown: wall time and peak memory of whole processes.

    .venv/bin/python tools/bench/cold_start.py [--runs 20]

Each run is a fresh process that opens and verifies the bundle, predicts one frame with 16 members and prints it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from edge_bdl_export import export
from edge_bdl_train.models.pilotnet import PILOTNET_SIZE, PilotNet
from edge_bdl_train.preprocess import Preprocess


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Cold start of edge-bdl predict.")
    parser.add_argument("--runs", type=int, default=20, help="processes per engine (default: 20)")
    runs = parser.parse_args().runs
    frames = np.random.default_rng(0).integers(0, 256, (400, *PILOTNET_SIZE, 3), dtype=np.uint8)
    torch.manual_seed(0)
    print(f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, n = {runs} processes per engine\n")
    print("| engine | wall p50 ms | wall max ms | peak RSS MB, max |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        bundle, frame = Path(folder) / "pilot.ebdl", Path(folder) / "frame.npy"
        model = PilotNet(preprocess=Preprocess(PILOTNET_SIZE)).eval()
        export(model, frames[:1], bundle, task="heteroscedastic", calibration=frames)
        np.save(frame, frames[0])
        for engine in ("onnxruntime", "tflite"):
            took = [_run(bundle, frame, engine) for _ in range(runs + 1)][1:]
            walls, peaks = zip(*took, strict=True)
            print(f"| {engine} | {np.median(walls):.0f} | {max(walls):.0f} | {max(peaks):.0f} |")


# The command line, then the process's own high-water mark (ru_maxrss would start from its parent's).
_COMMAND = """
import sys
from edge_bdl.cli import main
code = main(sys.argv[1:])
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(float(status["VmHWM"].split()[0]) / 1024, file=sys.stderr)
sys.exit(code)
"""


def _run(bundle: Path, frame: Path, engine: str) -> tuple[float, float]:
    """Milliseconds from start to exit, and peak memory in MB."""
    arguments = ["predict", str(bundle), "--input", str(frame), "--engine", engine, "--json"]
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", _COMMAND, *arguments], capture_output=True, text=True, check=True)
    took_ms = (time.perf_counter() - began) * 1e3
    assert json.loads(done.stdout)["samples"] == 16
    return took_ms, float(done.stderr.split()[-1])


if __name__ == "__main__":
    main()
