"""``edge-bdl export``: one line for every bad input, one JSON object for machines, a bundle for a good model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edge_bdl.bundle import Bundle
from edge_bdl.errors import EdgeBdlError
from edge_bdl_export.cli import _model, export
from edge_bdl_train.checkpoint import CheckpointInfo, save_checkpoint
from edge_bdl_train.methods.laplace import LaplacePosterior
from edge_bdl_train.posterior_file import save_posterior
from edge_bdl_train.recipes import open_recipe

NETS = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))

def random():
    return nn.Sequential(nn.Linear(4, 8), nn.RReLU(), nn.Dropout(0.3), nn.Linear(8, 2))

def plain():
    return nn.Linear(4, 2)

def text():
    return "a model"

def needs(width):
    return nn.Linear(width, 2)

def fails():
    raise RuntimeError("no\\nweights")

class Holder:
    model = 3

class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.drop = nn.Linear(4, 2), nn.Dropout(0.2)

    def forward(self, x):
        return self.layer(self.drop(x)) if x.sum() > 0 else x

def branches():
    return Branches()

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x):
        return self.layer(x), x

def two():
    return Two()

def apart():
    model = nn.Sequential(nn.Linear(4, 2))
    return model, [model.state_dict(), {"0.weight": torch.zeros(3, 4), "0.bias": torch.zeros(2)}]

def numbers():
    return plain(), [1, 2]

def ensemble():
    model = plain()
    return model, [nn.Linear(4, 2).state_dict() for _ in range(3)]

def posterior():
    from edge_bdl_train.methods.mean_field import MeanFieldPosterior
    return MeanFieldPosterior(plain(), {}, {"weight": torch.full((2, 4), 0.1)})
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module, weights and frames, as the working directory."""
    (tmp_path / "adversary_nets.py").write_text(NETS)
    (tmp_path / "broken_nets.py").write_text("def build(:\n")
    (tmp_path / "raising_nets.py").write_text("raise ValueError('on import')\n")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    save_file({"0.weight": torch.zeros(8, 5)}, tmp_path / "other.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:50])
    x = np.linspace(-1.0, 1.0, 4, dtype=np.float32).reshape(1, 4)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "double.npy", x.astype(np.float64))
    np.save(tmp_path / "wide.npy", np.zeros((1, 9), np.float32))
    np.save(tmp_path / "nan.npy", np.full((1, 4), np.nan, np.float32))
    np.save(tmp_path / "none.npy", np.zeros((0, 4), np.float32))
    np.save(tmp_path / "text.npy", np.array([["a", "b", "c", "d"]]))
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "archive.npz", x=x)
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-8])
    (tmp_path / "cut.npz").write_bytes((tmp_path / "archive.npz").read_bytes()[:60])
    np.savez(tmp_path / "few.npz", inputs=np.zeros((5, 4), np.float32))
    np.savez(tmp_path / "other.npz", inputs=np.zeros((50, 5), np.float32))
    generator = np.random.Generator(np.random.Philox(0))
    some = generator.normal(size=(60, 4)).astype(np.float32)
    np.savez(tmp_path / "some.npz", inputs=some)
    np.savez(tmp_path / "wide.npz", inputs=some.astype(np.float64))
    np.savez(tmp_path / "holes.npz", inputs=np.where(some > 2.0, np.nan, some).astype(np.float32))
    np.savez(tmp_path / "same.npz", inputs=np.zeros((60, 4), np.float32))
    monkeypatch.chdir(tmp_path)
    # The working directory is where a caller's own modules are.
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


GOOD = ["adversary_nets:build", "--example", "x.npy", "--out", "out.ebdl", "--formats", "onnx"]


def changed(*arguments: str) -> list[str]:
    """The good command line with options replaced; a first word without dashes replaces the factory."""
    words = list(GOOD)
    rest = list(arguments)
    if not rest[0].startswith("--"):
        words[0] = rest.pop(0)
    while rest:
        option, value = rest.pop(0), rest.pop(0)
        if option in words:
            words[words.index(option) + 1] = value
        else:
            words += [option, value]
    return words


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (changed("adversary_nets"), "'adversary_nets' is not MODULE:FACTORY"),
        (changed(":build"), "':build' is not MODULE:FACTORY, for example .*, nor a file"),
        (changed("adversary_nets:"), "'adversary_nets:' is not MODULE:FACTORY"),
        (changed("no_such_module_here:build"), "cannot be imported .*No module named"),
        (changed("adversary_nets:absent"), "cannot be imported .*no attribute 'absent'"),
        (changed("broken_nets:build"), "cannot be imported .*SyntaxError"),
        (changed("raising_nets:build"), "cannot be imported .*ValueError: on import"),
        (changed("adversary_nets:needs"), r"needs\(\) failed .*width.*without arguments"),
        (changed("adversary_nets:fails"), r"fails\(\) failed .*RuntimeError: no weights"),
        (changed("adversary_nets:text"), r"the model is a str; give a torch.nn.Module, .* Adapter \(docs/export.md"),
        (
            changed("adversary_nets:text", "--weights", "w.safetensors"),
            "gave a str; --weights are for a torch.nn.Module",
        ),
        (changed("adversary_nets:branches"), "torch.export cannot capture Branches .*; replace data-dependent Python"),
        (changed("adversary_nets:two"), "two passes|returns a tuple; a bundle has one output tensor"),
        (changed("adversary_nets:apart"), "member 1: '0.weight' has shape"),
        (changed("adversary_nets:numbers"), "members is a list of int; give a list of state dicts, or a function"),
        (changed("w.safetensors"), "w.safetensors .*(checkpoint|something else)"),
        (changed("adversary_nets:random"), "rrelu in 1 .* is random but not a dropout module"),
        (changed("adversary_nets:plain"), "depends on nothing stochastic"),
        (changed("--weights", "absent.safetensors"), "absent.safetensors cannot be read as safetensors"),
        (changed("--weights", "x.npy"), "x.npy cannot be read as safetensors"),
        (changed("--weights", "cut.safetensors"), "cut.safetensors cannot be read as safetensors"),
        (changed("--weights", "."), "cannot be read as safetensors"),
        (changed("--weights", "other.safetensors"), "other.safetensors does not fit the model: Missing key"),
        (changed("--example", "absent.npy"), r"absent.npy is not an .npy file"),
        (changed("--example", "w.safetensors"), r"w.safetensors is not an .npy file"),
        (changed("--example", "empty.npy"), r"empty.npy is not an .npy file"),
        (changed("--example", "cut.npy"), r"cut.npy is not an .npy file"),
        (changed("--example", "cut.npz"), r"cut.npz is not an .npy file"),
        (changed("--example", "object.npy"), r"object.npy is not an .npy file"),
        (changed("--example", "."), "is not an .npy file"),
        (changed("--example", "archive.npz"), "archive.npz is an archive; --example takes one array"),
        (changed("--example", "text.npy"), "not numbers that torch knows"),
        (changed("--example", "nan.npy"), "NaN or infinity"),
        (changed("--example", "none.npy"), "empty"),
        (changed("--example", "wide.npy"), r"does not run on the example input, torch.float32 \[1, 9\]"),
        (changed("--example", "double.npy"), r"does not run on the example input, torch.float64 \[1, 4\]"),
        (changed("--calibration", "absent.npz"), "absent.npz is not an .npz file"),
        (changed("--calibration", "x.npy"), "x.npy is not an .npz file"),
        (changed("--calibration", "cut.npz"), "cut.npz is not an .npz file"),
        (changed("--calibration", "archive.npz"), "calibration: 'x' is not known|has no 'input'"),
        (changed("--calibration", "few.npz"), "5 frames cannot be split three ways"),
        (changed("--calibration", "other.npz"), "have shape 5"),
        (changed("--calibration", "holes.npz"), "calibration: 'inputs' holds NaN or infinity"),
        (changed("--calibration", "wide.npz"), "calibration: 'inputs' is float64, the example is float32"),
        (
            changed("--calibration", "some.npz", "--selection", "selected"),
            "at least 40 calibration frames to select on",
        ),
        (changed("--outsiders", "other.npz"), "outsiders: frames of 'inputs' have shape 5"),
        (changed("--outsiders", "absent.npz"), "outsiders: absent.npz is not an .npz file"),
        (changed("--samples", "auto"), "samples='auto' needs calibration frames"),
        (
            changed("--samples", "auto", "--fidelity", "1.5"),
            "fidelity is a rank correlation above 0, at most 1, got 1.5",
        ),
        (changed("--stochastic-from", "3"), "stochastic_from='3' gives another posterior, and only calibration frames"),
        (
            changed("--stochastic-from", "nobody", "--calibration", "some.npz"),
            "stochastic_from='nobody' is not a module of Sequential; it has 0, 1, 2, 3",
        ),
        (changed("--stochastic-from", "3", "--calibration", "some.npz"), "nothing is random from it on"),
        (changed("--samples", "1"), "samples must be at least 2, got 1"),
        (changed("--samples", "-3"), "samples must be at least 2, got -3"),
        (changed("--seed", "-1"), "seed must be at least 0"),
        (changed("--formats", "tensorrt"), "formats are one or more of onnx, tflite"),
        (changed("--formats", ""), "formats are one or more of onnx, tflite"),
        (changed("--deterministic", "dropout"), "deterministic='dropout' is not a module of Sequential"),
        (changed("--task", "classification", "--class-axis", "5"), "class_axis 5 is no axis"),
        (changed("--selection", "selected"), "needs calibration frames"),
    ],
)
def test_bad_input_is_one_sentence(place: Path, arguments: list[str], message: str):
    before = sorted(path.name for path in place.iterdir() if path.name != "__pycache__")
    with pytest.raises(EdgeBdlError, match=message) as caught:
        export(arguments)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in place.iterdir() if path.name != "__pycache__") == before


@pytest.mark.parametrize(
    "arguments",
    [[], ["adversary_nets:build"], [*GOOD, "--task", "detect"], [*GOOD, "--samples", "many"], [*GOOD, "--what"]],
)
def test_bad_usage_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        export(arguments)
    assert caught.value.code == 2
    assert "usage: edge-bdl export" in capsys.readouterr().err


def test_frames_that_are_all_alike_give_a_sentence(place: Path):
    with pytest.raises(EdgeBdlError) as caught:
        export(changed("--calibration", "same.npz"))
    assert "\n" not in str(caught.value)
    assert not (place / "out.ebdl").exists()


def run(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edge_bdl.cli", "export", *arguments],
        cwd=place, capture_output=True, text=True, timeout=180,
    )  # fmt: skip


def test_a_good_export_prints_one_json_object_and_nothing_else(place: Path):
    done = run(
        place, *GOOD, "--weights", "w.safetensors", "--samples", "4", "--selection", "iid", "--name", "tiny", "--json"
    )
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    manifest = Bundle.open(place / "out.ebdl").manifest
    assert told == {
        "bundle": "out.ebdl",
        "name": "tiny",
        "form": "mask_bank",
        "members": 4,
        "engines": ["onnxruntime"],
        "deterministic_flops_share": manifest.flops.deterministic_share,
        "checks": len(manifest.parity),
        "warnings": list(manifest.warnings),
    }
    assert manifest.bank.selection == "iid"
    # The weights are those of the file.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2)).eval()
    golden = Bundle.open(place / "out.ebdl").golden()
    with torch.no_grad():
        expected = model(torch.from_numpy(golden["input.input"][0])).numpy()
    np.testing.assert_allclose(golden["det.output"][0], expected, atol=1e-6)


def test_weights_may_be_a_posterior_of_this_network_and_of_no_other(place: Path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))
    posterior = LaplacePosterior(model, {"layer": "3", "noise": 0.1}, torch.full((2, 9), 0.01, dtype=torch.float64))
    save_posterior(place / "posterior.safetensors", posterior)
    assert export(changed("--weights", "posterior.safetensors")) == 0
    manifest = Bundle.open(place / "out.ebdl").manifest
    assert (manifest.form, manifest.gaussian.layer) == ("gaussian_head", "3")
    with pytest.raises(EdgeBdlError, match="a posterior of a Sequential that differs from this Linear"):
        export(changed("adversary_nets:plain", "--weights", "posterior.safetensors"))


def test_a_bad_export_is_exit_code_2_and_one_line(place: Path):
    done = run(place, *changed("adversary_nets:random"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("edge-bdl: rrelu in 1 (")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("factory", "options", "form", "members"),
    [
        ("adversary_nets:ensemble", [], "ensemble", (3, "given")),
        ("adversary_nets:posterior", [], "gaussian_head", (1, "closed_form")),
        ("adversary_nets:posterior", ["--form", "weight_bank"], "weight_bank", (16, "given")),
    ],
)
def test_a_factory_may_give_a_posterior_or_a_model_and_its_members(
    place: Path, factory: str, options: list[str], form: str, members: tuple[int, str]
):
    assert export([*changed(factory), *options]) == 0
    manifest = Bundle.open(place / "out.ebdl").manifest
    assert (manifest.form, (manifest.bank.members, manifest.bank.selection)) == (form, members)


# --- a disk that fills up ---------------------------------------------------------------------------------------------


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12k", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"only root may mount a small file system here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("where", ["temporary folder", "bundle"])
def test_a_disk_that_fills_up_is_one_sentence_and_leaves_nothing(
    place: Path, full_disk: Path, where: str, monkeypatch: pytest.MonkeyPatch
):
    staged = where == "temporary folder"
    if staged:
        monkeypatch.setenv("TMPDIR", str(full_disk))
    out = "out.ebdl" if staged else str(full_disk / "out.ebdl")
    done = run(place, *changed("--out", out))
    assert (done.returncode, done.stdout) == (2, "")
    message = "cannot be put together in" if staged else "cannot be written, and is as it was"
    assert done.stderr.startswith("edge-bdl: ")
    assert message in done.stderr
    assert "No space left on device" in done.stderr
    assert done.stderr.count("\n") == 1
    # The libraries keep a file of their own there.
    assert [path for path in full_disk.iterdir() if "edge" in path.name or path.suffix == ".ebdl"] == []
    assert not (place / "out.ebdl").exists()


def test_a_recipe_s_checkpoint_says_itself_how_its_network_is_built(tmp_path: Path):
    recipe = open_recipe("carracing", quick=True)
    network = recipe.build_model(seed=3)
    path = tmp_path / "car.safetensors"
    info = CheckpointInfo(**msgspec.structs.asdict(recipe.origin(3)), model=type(network).__name__, figures={})
    save_checkpoint(path, network, info)
    loaded, members = _model(str(path), None)
    assert members is None
    assert type(loaded) is type(network)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in loaded.state_dict().items())
