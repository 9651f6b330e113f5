"""Without edge-bdl, a bundle's graphs give the numbers that edge-bdl gives."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_bdl.bundle import Bundle
from edge_bdl.runtime import Runtime

ROOT = Path(__file__).parents[2]
BUNDLES = ROOT / "tests" / "bundles"
SCRIPTS = {
    "onnxruntime": ("plain_onnxruntime.py", "onnxruntime"),
    "tflite": ("plain_tflite.py", "ai_edge_litert"),
}


@pytest.mark.parametrize("engine", SCRIPTS)
@pytest.mark.parametrize("name", ["tiny_masks", "tiny_weights"])
def test_the_plain_script_gives_the_runtimes_numbers(name: str, engine: str, tmp_path: Path) -> None:
    script, vendor = SCRIPTS[engine]
    pytest.importorskip(vendor)
    folder = BUNDLES / f"{name}.ebdl"
    (spec,) = Bundle.open(folder).manifest.inputs
    rng = np.random.default_rng(0)
    frame = (
        rng.integers(0, 256, spec.shape).astype(np.uint8)
        if spec.dtype == "uint8"
        else rng.normal(size=spec.shape).astype(spec.dtype)
    )
    np.save(tmp_path / "frame.npy", frame)
    line = [sys.executable, ROOT / "examples" / script, folder, tmp_path / "frame.npy"]
    said = json.loads(subprocess.run(line, check=True, capture_output=True, text=True, timeout=120).stdout)
    wanted = Runtime.open(folder, engine=engine).predict(frame[0])
    assert said.keys() >= {"mean", "aleatoric", "epistemic"}
    for part, value in said.items():
        np.testing.assert_allclose(
            np.squeeze(value), np.squeeze(getattr(wanted, part)), rtol=1e-4, atol=1e-7, err_msg=part
        )


@pytest.mark.parametrize("script", [script for script, _ in SCRIPTS.values()])
def test_it_imports_nothing_of_ours(script: str) -> None:
    assert "edge_bdl" not in (ROOT / "examples" / script).read_text()
