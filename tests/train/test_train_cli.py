"""``edge-bdl train``: what it prints, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_bdl.errors import EdgeBdlError
from edge_bdl_train import cli, recipes
from edge_bdl_train.checkpoint import read_info
from edge_bdl_train.imitation import ImitationConfig
from edge_bdl_train.recipes.carracing import CarRacingConfig, CarRacingRecipe


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real recipe, at the smallest size that runs."""
    config = CarRacingConfig(
        train_tracks=1, validation_tracks=1, demonstration_steps=40, drive_steps=5, imitation=ImitationConfig(epochs=1)
    )
    monkeypatch.setattr(CarRacingRecipe, "quick_config", classmethod(lambda cls: config))


@pytest.mark.usefixtures("tiny")
def test_json_is_one_object_and_says_what_the_checkpoint_says(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "net.safetensors"
    assert cli.train(["--recipe", "carracing", "--out", str(out), "--quick", "--seed", "4", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    info = read_info(out)
    assert (printed["recipe"], printed["seed"], printed["figures"]) == ("carracing", 4, info.figures)
    assert printed["bytes"] == out.stat().st_size


@pytest.mark.usefixtures("tiny")
def test_text_names_the_file_and_the_figures_and_bars_go_to_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "net.safetensors"
    assert cli.train(["--recipe", "carracing", "--out", str(out), "--quick"]) == 0
    printed = capsys.readouterr()
    assert str(out) in printed.out
    assert "validation_mae" in printed.out
    assert "the network learns" in printed.err
    assert "the network learns" not in printed.out


def test_usage_errors_exit_with_two(capsys: pytest.CaptureFixture) -> None:
    for arguments in ([], ["--recipe", "boat", "--out", "x"], ["--recipe", "carracing"]):
        with pytest.raises(SystemExit) as exit_:
            cli.train(arguments)
        assert exit_.value.code == 2
    assert "carracing" in capsys.readouterr().err


def test_what_a_recipe_refuses_is_an_edge_bdl_error(tmp_path: Path) -> None:
    with pytest.raises(EdgeBdlError, match="there is no folder"):
        cli.train(["--recipe", "carracing", "--out", str(tmp_path / "no" / "x.safetensors"), "--json"])
    assert sorted(recipes.RECIPES) == ["carracing", "rc_car"]
