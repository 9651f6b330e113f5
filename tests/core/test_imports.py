"""The device packages import on a machine that has none of the heavy or optional packages."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = {"edge_bdl": ROOT, "edge_bdl_firmware": ROOT / "firmware_py"}
RECORDING = ("record", "replay", "recover")
BLOCKED = ("torch", "onnx", "onnxruntime", "ai_edge_litert", "tflite_runtime", "rclpy")

IMPORT_ALL = """
import importlib, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"blocked: {name}", name=name)

sys.meta_path.insert(0, Blocker())
for module in MODULES:
    importlib.import_module(module)
assert not set(BLOCKED) & set(sys.modules)
"""


def modules() -> list[str]:
    """Every module of the device packages. Left out: the ROS nodes, and the recorder where its file format is not."""
    left_out = ["edge_bdl_firmware.ros"]
    if importlib.util.find_spec("mcap") is None:
        left_out += ["edge_bdl_firmware.recorder", *(f"edge_bdl_firmware.commands.{verb}" for verb in RECORDING)]
    found = []
    for package, root in SOURCES.items():
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            if not name.startswith(tuple(left_out)):
                found.append(name)
    return found


def import_in_a_fresh_process(names: list[str]) -> subprocess.CompletedProcess[str]:
    code = f"MODULES = {names!r}\nBLOCKED = {BLOCKED!r}\n{IMPORT_ALL}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_every_device_module_imports_without_torch_engines_and_ros() -> None:
    names = modules()
    assert {"edge_bdl", "edge_bdl.runtime", "edge_bdl.engines.ort", "edge_bdl.engines.tflite"} <= set(names)
    result = import_in_a_fresh_process(names)
    assert result.returncode == 0, result.stderr


def test_the_block_holds() -> None:
    result = import_in_a_fresh_process(["onnxruntime"])
    assert "blocked: onnxruntime" in result.stderr
