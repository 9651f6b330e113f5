"""Studies: figures and what makes one reached, pooling over seeds, the table, and how `edge-bdl train` runs one."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from edge_bdl.errors import InputError
from edge_bdl_train import cli
from edge_bdl_train.recipes import RECIPES, STUDIES, open_study
from edge_bdl_train.recipes.study import FIGURES_FILE, Figure, Study, pool, read_figures, rounded, with_error


def figure(*values: float, better: str | None = None, published: float | None = None) -> Figure:
    return Figure(what="error", values=values, better=better, published=published, source="somebody")


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_every_study_in_the_table_opens_quick_and_long_under_its_own_name(name: str) -> None:
    for quick in (False, True):
        study = open_study(name, quick=quick)
        assert isinstance(study, Study)
        assert study.name == name
        assert isinstance(study.config, study.config_type)
    assert name not in RECIPES


def test_a_mean_has_the_standard_error_of_its_repetitions() -> None:
    assert figure(1.0, 2.0, 3.0).mean == 2.0
    assert figure(1.0, 2.0, 3.0).standard_error == pytest.approx(1.0 / math.sqrt(3.0))
    assert figure(1.0).standard_error is None


def test_reached_means_as_good_or_within_one_standard_error() -> None:
    # Mean 2.0, standard error 0.577.
    assert figure(1.0, 2.0, 3.0, better="lower", published=1.43).reached is True
    assert figure(1.0, 2.0, 3.0, better="lower", published=1.42).reached is False
    assert figure(1.0, 2.0, 3.0, better="higher", published=2.57).reached is True
    assert figure(1.0, 2.0, 3.0, better="higher", published=2.58).reached is False
    assert figure(2.0, better="higher", published=2.1).reached is False
    assert figure(2.0, better="higher").reached is None
    assert figure(2.0, published=2.0).reached is None


def test_a_figure_without_a_value_and_a_published_one_without_a_source_are_refused() -> None:
    with pytest.raises(InputError, match="no value"):
        figure()
    with pytest.raises(InputError, match="where it comes from"):
        Figure(what="error", values=(1.0,), published=2.0)


def test_seeds_are_pooled_by_figure_in_the_order_of_the_first() -> None:
    other = Figure(what="accuracy", values=(0.5,))
    pooled = pool([[figure(1.0, 2.0), other], [other, figure(3.0)]])
    assert [(each.what, each.values) for each in pooled] == [("error", (1.0, 2.0, 3.0)), ("accuracy", (0.5, 0.5))]


def test_numbers_are_printed_to_the_digits_that_mean_something() -> None:
    assert [rounded(value) for value in (0.012345, 1234.5, -2.46, 0.0, None, math.inf)] == [
        "0.0123",
        "1234",
        "-2.46",
        "0",
        "",
        "inf",
    ]
    assert with_error(figure(1.0, 2.0, 3.0)) == "2.00 ± 0.58"
    assert with_error(figure(100.0, 140.0)) == "120 ± 20"
    assert with_error(figure(0.5)) == "0.500"


def test_a_study_leaves_its_figures_in_its_folder_and_prints_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "new" / "coin"
    assert cli.train(["--recipe", "coin", "--out", str(out), "--quick", "--seed", "3", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["recipe"], printed["seed"]) == ("coin", 3)
    assert printed["figures"] == json.loads((out / FIGURES_FILE).read_text())
    assert [each.what for each in read_figures(out)] == [each["what"] for each in printed["figures"]]
    assert (out / "coin.png").read_bytes().startswith(b"\x89PNG")


def test_text_puts_the_figure_beside_the_published_one(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.train(["--recipe", "coin", "--out", str(tmp_path), "--quick"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "coin: share" in line)
    assert line.rstrip().endswith("0.900 (exact, for the prior is the truth here)")


def test_data_for_a_study_that_finds_its_own_and_a_folder_that_is_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="finds its own data"):
        open_study("coin", data=tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="give a folder"):
        open_study("coin", quick=True).record(tmp_path / "file")
    with pytest.raises(InputError, match="there is no recipe 'boat'"):
        open_study("boat")


def test_a_folder_without_figures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run the study again"):
        read_figures(tmp_path)
    (tmp_path / FIGURES_FILE).write_text('[{"what": "error"}]')
    with pytest.raises(InputError, match="run the study again"):
        read_figures(tmp_path)
