"""What all tests share: the tiny real bundles, ways to damage them, and repeatable hypothesis runs."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

BUNDLES = Path(__file__).parent / "bundles"

# Nothing here may depend on luck or on how busy the machine is.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

# Where the tests were started with nohup, or behind a script's &, these are ignored, and every process under test would
# inherit that.
for number, usual in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)

# A robot's environment has no torch; what needs it is not even collected there.
collect_ignore = [] if importlib.util.find_spec("torch") else ["export", "train", "bundles"]


@pytest.fixture
def copy_bundle(tmp_path: Path) -> Callable[[str], Path]:
    """Copies a tiny bundle, by its name without suffix, to a place where it may be damaged."""

    def copy(name: str = "tiny_masks") -> Path:
        return Path(shutil.copytree(BUNDLES / f"{name}.ebdl", tmp_path / f"{name}.ebdl"))

    return copy


@pytest.fixture(scope="session")
def reseal() -> Callable[..., None]:
    """Makes a changed bundle consistent again, as somebody who means harm would: sizes, hashes, digest."""

    def sealed(folder: Path, edit: Callable[[dict[str, Any]], object] | None = None) -> None:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        for name in manifest["files"]:
            path = folder / name
            if path.is_file():
                data = path.read_bytes()
                manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        if edit is not None:
            edit(manifest)
        raw = json.dumps(manifest).encode()
        (folder / "manifest.json").write_bytes(raw)
        (folder / "manifest.sha256").write_text(f"{hashlib.sha256(raw).hexdigest()}  manifest.json\n")

    return sealed
