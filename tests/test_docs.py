"""Every command and every Python example of README and docs runs.

``bash`` blocks are run line by line in a folder that holds what a reader would have; ``python`` blocks are executed
with the names that the text takes for given. ``sh`` blocks (installing, the tools themselves) are not: CI runs those.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("litert_torch")

import torch
from safetensors.torch import save_file
from torch import nn

torch.set_num_threads(1)  # the networks are small: a second thread would mostly wait

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)

_NETS = """
from torch import nn

def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2))
"""


def blocks(language: str) -> list[object]:
    found = []
    for page in PAGES:
        for number, match in enumerate(_BLOCK.finditer(page.read_text())):
            if match[1] == language:
                found.append(pytest.param(match[2], id=f"{page.stem}-{number}"))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader of the docs has: a bundle, frames, a model."""
    here = tmp_path_factory.mktemp("docs")
    rng = np.random.default_rng(0)
    shutil.copytree(ROOT / "tests/bundles/tiny_masks.ebdl", here / "pilot.ebdl")
    frames = rng.integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    np.save(here / "frame.npy", frames[0])
    (here / "frames").mkdir()
    for number, frame in enumerate(frames):
        np.save(here / "frames" / f"{number:04d}.npy", frame)
    (here / "mynets.py").write_text(_NETS)
    torch.manual_seed(0)
    save_file(namespace_model().state_dict(), here / "trained.safetensors")
    inputs = rng.normal(size=(400, 3, 4)).astype(np.float32)
    np.save(here / "example.npy", inputs[:1])
    np.savez(here / "calibration.npz", inputs=inputs, labels=rng.normal(size=(400, 1)).astype(np.float32))
    np.savez(here / "outsiders.npz", inputs=3.0 * rng.normal(size=(100, 3, 4)).astype(np.float32))
    return here


def namespace_model() -> nn.Module:
    names: dict[str, object] = {}
    exec(_NETS, names)
    return names["build"]()  # type: ignore[operator]


@pytest.mark.parametrize("text", blocks("bash"))
def test_every_command_of_the_docs_runs(text: str, folder: Path) -> None:
    for line in text.strip().splitlines():
        program, *arguments = shlex.split(line)
        assert program == "edge-bdl"
        done = subprocess.run(
            [sys.executable, "-m", "edge_bdl.cli", *arguments], cwd=folder, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        assert done.stdout.strip(), f"{line} printed nothing"


@pytest.mark.parametrize("text", blocks("python"))
def test_every_python_example_of_the_docs_runs(
    text: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    model = namespace_model()
    if "encoder.self_attn" in text:
        model = _Encoder()
    given = {
        "model": model.eval(),
        "example": np.load("example.npy"),
        "calibration": "calibration.npz",
        "frame": np.load("frame.npy"),
        "now_s": 0.0,
    }
    if "export(" in text and "import export" not in text:
        text = "from edge_bdl_export import export\n" + text
    exec(compile(text, "docs", "exec"), given)


class _Encoder(nn.Module):
    """A model whose attention has dropout in its arguments, below ``encoder.self_attn``."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1, batch_first=True)
        self.out = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.encoder(x)[:, 0])
