"""``edge-bdl evaluate``: a checkpoint or a posterior, judged on what the recipe kept; and what is refused."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from edge_bdl import cli
from edge_bdl.errors import InputError
from edge_bdl_train.checkpoint import Origin, read_info
from edge_bdl_train.evaluation.judge import as_posterior, judge
from edge_bdl_train.evaluation.report import table
from edge_bdl_train.held_out import HeldOut
from edge_bdl_train.likelihoods.base import Likelihood, RegressionLikelihood
from edge_bdl_train.likelihoods.categorical import Categorical
from edge_bdl_train.likelihoods.gaussian import Gaussian, HeteroscedasticGaussian
from edge_bdl_train.likelihoods.histogram import Histogram
from edge_bdl_train.likelihoods.mixture_density import MixtureDensity
from edge_bdl_train.likelihoods.student_t import StudentT
from edge_bdl_train.methods import ensemble, point
from edge_bdl_train.methods.described import settings_of
from edge_bdl_train.methods.ensemble import EnsemblePosterior
from edge_bdl_train.methods.point import PointPosterior
from edge_bdl_train.posterior_file import load_posterior, save_posterior
from edge_bdl_train.recipes.base import Recipe
from edge_bdl_train.recipes.carracing import OUTSIDERS, SHIPPED_CHECKPOINT, CarRacingConfig, CarRacingRecipe
from edge_bdl_train.recipes.rc_car import RcCarConfig, RcCarRecipe

QUICK = ["--recipe", "carracing", "--quick", "--json"]


@pytest.fixture(scope="module")
def drives() -> HeldOut:
    """What the real recipe keeps, of drives as short as a density allows."""
    config = CarRacingConfig(selection_drives=(2, 60), calibration_drives=(1, 2), test_drives=(1, 15))
    recipe = CarRacingRecipe(config)
    return recipe.held_out(recipe.load(SHIPPED_CHECKPOINT))


@pytest.fixture
def short(drives: HeldOut, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drives once for all tests."""
    monkeypatch.setattr(CarRacingRecipe, "held_out", lambda self, model, stage: drives)


def answer(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert cli.main(["evaluate", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.usefixtures("short")
def test_a_checkpoint_and_its_posterior_are_judged_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = answer([str(SHIPPED_CHECKPOINT), *QUICK, "--samples", "3", "--seed", "7"], capsys)
    assert (checkpoint["kind"], checkpoint["members"], checkpoint["examples"], checkpoint["seed"]) == (
        "dropout",
        3,
        15,
        7,
    )
    assert set(checkpoint["outsiders"]) == set(OUTSIDERS)
    assert set(checkpoint["aurc"]) == {"total", "epistemic", "density"}
    # The shipped network knows the road, and its features know the weather.
    assert checkpoint["figures"]["rmse"] < 0.2
    assert checkpoint["outsiders"]["snow"]["density"]["auroc"] == 1.0

    network = CarRacingRecipe().load(SHIPPED_CHECKPOINT)
    frame = torch.zeros(1, 96, 96, 3, dtype=torch.uint8)
    path = tmp_path / "posterior.safetensors"
    save_posterior(path, as_posterior(network, frame, torch.zeros(1)))
    posterior = answer([str(path), *QUICK, "--samples", "3", "--seed", "7"], capsys)
    assert posterior["figures"] == checkpoint["figures"]
    assert posterior["outsiders"] == checkpoint["outsiders"]


@pytest.mark.usefixtures("short")
def test_a_file_names_its_recipe_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = CarRacingRecipe().load(SHIPPED_CHECKPOINT)
    path = tmp_path / "posterior.safetensors"
    save_posterior(path, PointPosterior(network, {}), origin=read_info(SHIPPED_CHECKPOINT).origin)
    for file, kind, members in ((SHIPPED_CHECKPOINT, "dropout", 2), (path, "point", 2)):
        result = answer([str(file), "--quick", "--json", "--samples", "2"], capsys)
        assert (result["recipe"], result["kind"], result["members"]) == ("carracing", kind, members)
    # Of one point there is nothing to draw: a single member is enough.
    assert answer([str(path), "--quick", "--json"], capsys)["members"] == 1
    save_posterior(path, PointPosterior(network, {}))
    assert cli.main(["evaluate", str(path), "--quick"]) == 2
    assert "does not say which recipe built its network" in capsys.readouterr().err


@pytest.mark.usefixtures("short")
def test_a_posterior_of_few_members_gives_them_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = CarRacingRecipe().load(SHIPPED_CHECKPOINT)
    other = {name: tensor * 1.01 for name, tensor in network.state_dict().items()}
    save_posterior(tmp_path / "two.safetensors", EnsemblePosterior(network, {}, [network.state_dict(), other]))
    result = answer([str(tmp_path / "two.safetensors"), *QUICK], capsys)
    assert (result["kind"], result["members"]) == ("ensemble", 2)
    assert cli.main(["evaluate", str(tmp_path / "two.safetensors"), *QUICK, "--samples", "3"]) == 2
    assert "has 2 members, got n=3" in capsys.readouterr().err


@pytest.mark.usefixtures("short")
def test_text_has_the_table_and_names_the_plots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        str(SHIPPED_CHECKPOINT),
        "--recipe",
        "carracing",
        "--quick",
        "--samples",
        "2",
        "--plots",
        str(tmp_path),
    ]
    assert cli.main(["evaluate", *arguments]) == 0
    printed = capsys.readouterr()
    assert "dropout posterior of recipe carracing" in printed.out
    assert "root mean squared error" in printed.out
    assert "members predict" in printed.err
    for path in tmp_path.iterdir():
        assert f"wrote {path}\n" in printed.out
    assert {path.name for path in tmp_path.iterdir()} >= {"intervals.png", "ood_roc.png"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: CHECKPOINT"),
        (["x.safetensors"], "there is no checkpoint x.safetensors"),
        (["x.safetensors", "--recipe", "boat"], "there is no recipe 'boat': expected one of carracing, rc_car"),
        (["x.safetensors", "--recipe", "carracing"], "there is no checkpoint x.safetensors"),
        ([str(SHIPPED_CHECKPOINT), "--recipe", "rc_car"], "is a checkpoint of recipe 'carracing', expected 'rc_car'"),
        ([str(SHIPPED_CHECKPOINT), "--recipe", "carracing", "--samples", "0"], "--samples must be at least 1, got 0"),
        ([str(SHIPPED_CHECKPOINT), "--recipe", "carracing", "--samples", "few"], "invalid int value: 'few'"),
        ([str(SHIPPED_CHECKPOINT), "--recipe", "carracing", "--data", "."], "makes its own data"),
        ([str(Path(__file__)), "--recipe", "carracing"], "is not a whole safetensors file"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["evaluate", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert printed.err.count("\n") == 1


def test_a_recipe_that_keeps_nothing_says_so_by_name() -> None:
    class Bare(CarRacingRecipe):
        name = "bare"
        held_out = Recipe.held_out

    with pytest.raises(InputError, match="recipe 'bare' keeps no data to evaluate on"):
        Bare().held_out(nn.Identity())


def test_the_real_cars_outsiders_are_its_last_frames_in_the_dark(tmp_path: Path) -> None:
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        rows = [{"file": f"{i}.jpg", "angle": i / 40, "timestamp_ms": 50 * i, "kept": 1} for i in range(40)]
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    with tarfile.open(tmp_path / "frames.tar", "w") as archive:
        for i in range(40):
            content = io.BytesIO()
            Image.new("RGB", (160, 120), (200, 100, 5 * i)).save(content, "JPEG")
            member = tarfile.TarInfo(f"{i}.jpg")
            member.size = content.tell()
            content.seek(0)
            archive.addfile(member, content)
    recipe = RcCarRecipe(RcCarConfig(shares=(0.25, 0.25, 0.25, 0.25), guard_frames=2), tmp_path)
    held_out = recipe.held_out(nn.Identity())
    assert (held_out.targets * 40).round().int().tolist() == list(range(32, 40))
    assert (held_out.known_targets * 40).round().int().tolist() == list(range(12, 20))
    dark = held_out.outsiders["dark"]
    assert dark.dtype == torch.uint8
    np.testing.assert_allclose(dark.numpy(), 0.15 * held_out.inputs.numpy(), atol=1)


def classifier(dropout: float) -> nn.Module:
    torch_generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 3)).eval()
    if dropout == 0.0:
        net[2] = nn.Identity()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch_generator))
    return net


def classes_held_out(**changes: Any) -> HeldOut:
    generator = torch.Generator().manual_seed(1)
    parts = {
        "likelihood": Categorical(3),
        "inputs": torch.randn(60, 4, generator=generator),
        "targets": torch.randint(3, (60,), generator=generator),
        "known": torch.randn(80, 4, generator=generator),
        "known_targets": torch.randint(3, (80,), generator=generator),
        "outsiders": {"far": 10.0 * torch.randn(30, 4, generator=generator)},
    }
    return HeldOut(**{**parts, **changes})


def test_classes_are_judged_by_all_scores_and_tempered() -> None:
    held_out, net = classes_held_out(), classifier(0.5)
    posterior = as_posterior(net, held_out.known[:1], held_out.known_targets[:1])
    evaluation = judge(posterior, held_out, members=6, generator=torch.Generator().manual_seed(2))
    again = judge(posterior, held_out, members=6, generator=torch.Generator().manual_seed(2))
    assert evaluation == again
    assert set(evaluation.aurc) == {"total", "epistemic", "max_probability", "energy", "density"}
    assert "temperature" in evaluation.figures
    assert evaluation.outsiders["far"]["density"].auroc > 0.95


def test_a_network_without_dropout_is_one_point() -> None:
    held_out, net = classes_held_out(), classifier(0.0)
    posterior = as_posterior(net, held_out.known[:1], held_out.known_targets[:1])
    evaluation = judge(posterior, held_out, members=1, generator=torch.Generator())
    right = net(held_out.inputs).argmax(-1) == held_out.targets
    assert posterior.kind == "point"
    assert evaluation.figures["accuracy"] == pytest.approx(float(right.double().mean()))
    assert "epistemic" not in evaluation.aurc


def test_outputs_of_another_form_are_refused() -> None:
    held_out = classes_held_out(likelihood=HeteroscedasticGaussian())
    posterior = as_posterior(classifier(0.5), held_out.known[:1], held_out.known_targets[:1])
    with pytest.raises(InputError, match=r"gives \[60, 3\], expected \[N, 2\] .* likelihood HeteroscedasticGaussian"):
        judge(posterior, held_out, members=2, generator=torch.Generator())


REGRESSION = [
    Gaussian(0.3),
    HeteroscedasticGaussian(),
    StudentT(4.0),
    MixtureDensity(2),
    Histogram((-40.0, -2.0, 0.0, 1.0, 50.0)),
]


def members_of(likelihood: Likelihood) -> EnsemblePosterior:
    """Three linear networks that differ, fitted by this likelihood."""
    net = nn.Linear(4, likelihood.outputs)
    bank = [
        {
            name: 0.3 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed))
            for name, tensor in net.state_dict().items()
        }
        for seed in range(3)
    ]
    return EnsemblePosterior(net, settings_of(ensemble.Config(members=3), likelihood), bank)


@pytest.mark.parametrize("likelihood", REGRESSION, ids=lambda likelihood: type(likelihood).__name__)
def test_a_regression_is_judged_by_the_likelihood_that_it_was_fitted_by(
    likelihood: RegressionLikelihood, tmp_path: Path
) -> None:
    held_out = classes_held_out(
        likelihood=None, unit="m",
        targets=torch.randn(60, generator=torch.Generator().manual_seed(3)), known_targets=torch.zeros(80),
    )  # fmt: skip
    save_posterior(tmp_path / "p.safetensors", members_of(likelihood))
    posterior = load_posterior(tmp_path / "p.safetensors", nn.Linear(4, likelihood.outputs))
    evaluation = judge(posterior, held_out, members=3, generator=torch.Generator())
    outputs = posterior.predict(held_out.inputs, 3, torch.Generator()).double()
    y = held_out.targets.double()
    density = likelihood.log_prob(outputs, y).exp().mean(0).log().mean()
    assert evaluation.figures["log_likelihood"] == pytest.approx(float(density.detach()))
    means, variances = likelihood.predictive_mean(outputs)[..., 0], likelihood.predictive_variance(outputs)[..., 0]
    total = variances.mean(0) + means.var(0)
    assert evaluation.figures["total"] == pytest.approx(float(total.mean()))
    inside = ((y - means.mean(0)).abs() <= 1.6448536 * total.sqrt()).double().mean()
    assert evaluation.figures["coverage_90"] == pytest.approx(float(inside))
    assert evaluation.task == "regression"
    assert ("crps" in evaluation.figures) == isinstance(likelihood, (Gaussian, HeteroscedasticGaussian))
    assert "log_likelihood" in table(evaluation)


def test_what_a_posterior_was_fitted_by_counts_more_than_what_the_data_say_and_one_of_them_must() -> None:
    held_out = classes_held_out(likelihood=Gaussian(100.0), targets=torch.zeros(60), known_targets=torch.zeros(80))
    judged = judge(members_of(Gaussian(0.3)), held_out, members=3, generator=torch.Generator())
    assert judged.figures["aleatoric"] == pytest.approx(0.09)
    silent = members_of(Gaussian(0.3))
    del silent.settings["likelihood"]
    judged = judge(silent, held_out, members=3, generator=torch.Generator())
    assert judged.figures["aleatoric"] == pytest.approx(1e4)
    with pytest.raises(InputError, match="give HeldOut a likelihood"):
        judge(silent, classes_held_out(likelihood=None), members=3, generator=torch.Generator())


MYNETS = """
import torch
from torch import nn
from edge_bdl_train.held_out import HeldOut

def data():
    x = torch.arange(-150.0, 150.0)[:, None] / 50.0
    known, inputs = x[::2], x[1::2]
    return nn.Linear(1, 1), HeldOut(
        inputs=inputs, targets=2.0 * inputs[:, 0], known=known, known_targets=2.0 * known[:, 0],
        outsiders={"far": inputs + 100.0}, unit="m",
    )

def network():
    return nn.Linear(1, 1)

def other():
    return nn.Linear(1, 2), data()[1]

def broken():
    raise ValueError("no data here")
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The module with a network of the caller's, in the present folder, beside its posterior."""
    name = f"mynets_{abs(hash(tmp_path))}"  # imported once for each test
    (tmp_path / f"{name}.py").write_text(MYNETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    net = nn.Linear(1, 1)
    nn.init.constant_(net.weight, 2.0)
    nn.init.zeros_(net.bias)
    save_posterior("mine.safetensors", PointPosterior(net, settings_of(point.Config(), Gaussian(0.5))))
    return name


def test_a_network_of_ones_own_is_judged_by_a_function_of_ones_own(
    own: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = answer(["mine.safetensors", "--recipe", f"{own}:data", "--json", "--plots", "plots"], capsys)
    assert (result["kind"], result["task"], result["examples"]) == ("point", "regression", 150)
    # The network is the truth, with a noise of 0.5 that is not there.
    assert result["figures"]["rmse"] == pytest.approx(0.0, abs=1e-6)
    assert result["figures"]["width_90"] == pytest.approx(2 * 1.6448536 * 0.5)
    assert result["outsiders"]["far"]["density"]["auroc"] == 1.0
    assert {path.name for path in (tmp_path / "plots").iterdir()} >= {"intervals.png", "ood_roc.png"}


@pytest.mark.parametrize(
    ("function", "more", "message"),
    [
        ("network", [], "return a torch network and a HeldOut"),
        ("broken", [], "failed (ValueError: no data here)"),
        ("missing", [], "cannot be imported (AttributeError"),
        ("other", [], "differs from this Linear in bias, weight"),
        ("data", ["--quick"], "--quick and --data are for recipes of this package"),
        ("", [], "is not MODULE:FUNCTION"),
    ],
)
def test_a_function_that_gives_no_data_is_one_line_and_code_2(
    function: str, more: list[str], message: str, own: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", "mine.safetensors", "--recipe", f"{own}:{function}", *more]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_a_function_that_a_file_names_is_never_called(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    origin = Origin(recipe=f"{own}:data", arguments={}, seed=0)
    save_posterior("mine.safetensors", PointPosterior(nn.Linear(1, 1), {}), origin=origin)
    assert cli.main(["evaluate", "mine.safetensors"]) == 2
    assert f"there is no recipe '{own}:data'" in capsys.readouterr().err
    assert own not in sys.modules


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": torch.zeros(59)}, r"examples need one target each, got 60 inputs and \[59\]"),
        ({"known": torch.zeros(0, 4)}, "known examples need one target each, got 0"),
        ({"outsiders": {"wide": torch.zeros(3, 5)}}, r"'wide' are torch.float32 \[3, 5\]"),
        ({"outsiders": {"none": torch.zeros(0, 4)}}, "'none'"),
    ],
)
def test_held_out_data_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        classes_held_out(**changes)


def test_training_and_asking_for_help_import_neither_torchmetrics_nor_matplotlib() -> None:
    code = (
        "import sys\n"
        "import edge_bdl_train.cli, edge_bdl_train.evaluation.cli\n"
        "for verb in (edge_bdl_train.cli.train, edge_bdl_train.evaluation.cli.evaluate):\n"
        "    try:\n"
        "        verb(['--help'])\n"
        "    except SystemExit as exit_:\n"
        "        assert exit_.code == 0\n"
        "heavy = {'torchmetrics', 'matplotlib', 'scipy', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
