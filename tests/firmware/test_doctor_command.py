"""The command line of the doctor where there is no ROS."""

from __future__ import annotations

import subprocess
import sys

import pytest

from edge_bdl.cli import main

WITHOUT_ROS = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "rclpy":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
from edge_bdl.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_without_ros_it_says_how_to_get_it() -> None:
    result = subprocess.run([sys.executable, "-c", WITHOUT_ROS, "doctor"], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "pip install 'edge-bdl[ros]'" in result.stderr
    assert "/opt/ros/" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "arguments", [["--duration", "0"], ["--only", "nonsense"], ["--speed", "-1"], ["--seconds", "inf"], ["unknown"]]
)
def test_bad_usage_is_told_before_ros_is_started(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", *arguments]) == 2
    assert capsys.readouterr().err.startswith("edge-bdl: ")
