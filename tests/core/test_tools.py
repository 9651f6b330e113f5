from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = [ROOT / "tools" / name for name in ("setup", "check", "test")] + [ROOT / ".ci" / "run"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_can_be_run_and_stops_at_the_first_error(script: Path) -> None:
    assert os.access(script, os.X_OK)
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    subprocess.run(["bash", "-n", script], check=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """As much of a checkout as tools/setup looks at."""
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "setup", tmp_path / "tools")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def setup(checkout: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [checkout / "tools" / "setup", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_setup_says_what_to_install_where_no_python_will_do(checkout: Path) -> None:
    done = setup(checkout, EDGE_BDL_PYTHON="/bin/false")
    assert done.returncode == 1
    assert "no usable Python found (EDGE_BDL_PYTHON=/bin/false)" in done.stderr
    assert "apt-get install python3.11" in done.stderr
    assert not (checkout / ".venv" / "bin").exists()


def test_setup_refuses_a_python_that_is_too_old(checkout: Path) -> None:
    old = checkout / "python"
    pretends = "import sys; sys.version_info = (3, 9, 0); exec(sys.argv[1])"
    old.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{pretends}" "$2"\n')
    old.chmod(0o755)
    done = setup(checkout, EDGE_BDL_PYTHON=str(old))
    assert done.returncode == 1
    assert "it takes 3.10 to 3.13" in done.stderr
