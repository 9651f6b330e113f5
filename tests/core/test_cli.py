from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from edge_bdl import cli
from edge_bdl.errors import BundleError

BUNDLE = str(Path(__file__).parents[1] / "bundles" / "tiny_masks.ebdl")


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Sequence[str]], int]], None]:
    """Puts a function in the place of the verb ``run``."""

    def put(function: Callable[[Sequence[str]], int]) -> None:
        monkeypatch.setattr(cli, "_function", lambda name: function)

    return put


def raising(error: BaseException) -> Callable[[Sequence[str]], int]:
    def function(argv: Sequence[str]) -> int:
        raise error

    return function


@pytest.mark.parametrize("name", [name for name, verb in cli.VERBS.items() if verb.extra is None])
def test_every_verb_of_the_device_says_what_it_takes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        cli.main([name, "--help"])
    assert exited.value.code == 0
    assert f"usage: edge-bdl {name} " in capsys.readouterr().out


@pytest.mark.parametrize("name", [name for name, verb in cli.VERBS.items() if verb.extra is not None])
def test_every_verb_of_the_workstation_is_where_the_table_says(name: str) -> None:
    pytest.importorskip("torch", reason="the workstation's extras")
    assert callable(cli._function(name))


def test_help_lists_all_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in cli.VERBS)


def test_no_verb_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("usage: ")


def test_an_unknown_verb_is_one_line_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fly"]) == 2
    assert capsys.readouterr().err == f"edge-bdl: there is no verb 'fly': choose one of {', '.join(cli.VERBS)}\n"


def test_the_version_is_the_distributions(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"edge-bdl {importlib.metadata.version('edge-bdl')}\n"


@pytest.mark.parametrize(
    "argv", [[], [BUNDLE, "--nonsense"], [BUNDLE, "surplus"], [BUNDLE, "--js"]], ids=["none", "option", "more", "short"]
)
def test_arguments_that_cannot_be_parsed_are_one_line(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("edge-bdl: ")
    assert captured.err.endswith("see edge-bdl inspect --help\n")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("code", [0, 1])
def test_a_verbs_code_is_the_exit_code(code: int, verb: Callable[..., None]) -> None:
    verb(lambda argv: code)
    assert cli.main(["run"]) == code


def test_our_errors_become_one_line_and_code_2(verb: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    verb(raising(BundleError("the bundle is damaged; copy it again")))
    assert cli.main(["run"]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "edge-bdl: the bundle is damaged; copy it again\n")


def test_a_defect_of_ours_is_not_hidden(verb: Callable[..., None]) -> None:
    verb(raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        cli.main(["run"])


def test_an_interrupt_ends_quietly(verb: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    verb(raising(KeyboardInterrupt()))
    assert cli.main(["run"]) == 130
    assert capsys.readouterr().err == ""


def test_a_missing_extra_answers_with_its_pip_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] in ("torch", "edge_bdl_train")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert cli.main(["train"]) == 2
    assert capsys.readouterr().err == (
        "edge-bdl: torch is not installed, needed by edge-bdl train: pip install 'edge-bdl[train]'\n"
    )


def test_a_broken_installation_is_not_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.VERBS, "train", cli.Verb("edge_bdl_train.no_such_module:train", "", "train"))
    with pytest.raises(ModuleNotFoundError):
        cli.main(["train"])


def test_a_reader_that_leaves_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "edge_bdl.cli", "inspect", BUNDLE]
    with os.fdopen(write, "wb") as pipe:
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (141, b"")


def test_the_installed_command_is_this_one() -> None:
    (command,) = (
        entry for entry in importlib.metadata.entry_points(group="console_scripts") if entry.name == "edge-bdl"
    )
    assert command.load() is cli.main


def test_a_prediction_imports_no_more_than_it_needs(tmp_path: Path) -> None:
    # What a cold start pays for. Timing it is the profile's business.
    code = (
        "import sys, numpy; numpy.save(sys.argv[2], numpy.zeros((16, 16, 3), numpy.uint8))\n"
        "from edge_bdl import cli\n"
        "assert cli.main(['predict', sys.argv[1], '--input', sys.argv[2]]) == 0\n"
        "heavy = {'torch', 'onnx', 'PIL', 'rich', 'cryptography', 'edge_bdl.policy', 'edge_bdl.profiling'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    command = [sys.executable, "-c", code, BUNDLE, str(tmp_path / "frame.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
