"""tools/bench/figures.py: what is there is not run again, seeds are pooled, each figure is one row of the table."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from edge_bdl_train.recipes.study import FIGURES_FILE, Figure

TOOL = Path(__file__).parents[2] / "tools" / "bench" / "figures.py"


@pytest.fixture
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("figures", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def leave(folder: Path, *figures: Figure) -> None:
    folder.mkdir()
    (folder / FIGURES_FILE).write_bytes(msgspec.json.encode(list(figures)))


def test_runs_that_are_there_are_pooled_and_not_made_again(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for seed, value in enumerate((1.0, 2.0, 3.0)):
        error = Figure(
            what="error, %", values=(value,), better="lower", published=1.36, source="a paper", differs="ours"
        )
        leave(tmp_path / f"coin-{seed}", error, Figure(what="time, s", values=(5.0,)))
    tool.main(["--runs", str(tmp_path), "--recipes", "coin", "--seeds", "3"])
    header, rule, first, second = capsys.readouterr().out.splitlines()
    assert header.count("|") == rule.count("|") == first.count("|") == second.count("|")
    command = "`edge-bdl train --recipe coin --seed 0 to 2`"
    assert first == f"| coin | error, % | 1.36 | 2.00 ± 0.58 | 3 | **no** | a paper | ours | {command} |"
    assert second == f"| coin | time, s |  | 5.00 | 3 |  |  |  | {command} |"


def test_what_is_missing_is_run(tool: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    tool.main(["--runs", str(tmp_path), "--recipes", "coin", "--seeds", "1", "--quick"])
    printed = capfd.readouterr()
    assert "coin: share of 90 % intervals" in printed.out
    assert "train --recipe coin --seed 0" in printed.err
    assert (tmp_path / "coin-quick-0" / "coin.png").exists()
