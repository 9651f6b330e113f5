"""Whole networks: what counts as an ensemble, what it shares, and that it is no other network than its members."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edge_bdl import Runtime
from edge_bdl.errors import ExportError
from edge_bdl_export import export
from edge_bdl_export.forms import ensemble
from edge_bdl_export.given import take_apart
from edge_bdl_train.methods.ensemble import EnsemblePosterior
from edge_bdl_train.methods.mean_field import MeanFieldPosterior


class Camera(nn.Module):
    """uint8 image to logits; what it does before its first layer has no weights."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3, 2), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.Linear(9 * width, 3)
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image.float() / 255.0 - 0.5)


def networks(count: int, width: int = 4) -> list[nn.Module]:
    made = []
    for seed in range(count):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made.append(Camera(width).eval())
            made[-1].layers[1].running_mean.normal_(0.0, 0.3)
            made[-1].layers[1].running_var.uniform_(0.5, 2.0)
    return made


FRAME = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, list[nn.Module]]:
    folder, given = tmp_path_factory.mktemp("ensemble") / "ensemble.ebdl", networks(5)
    manifest = export(given, FRAME, folder, task="classification", samples=5, formats=("onnx",))
    return folder, manifest, given


def test_the_bundle_says_that_it_is_an_ensemble_of_all_of_them(exported: tuple[Path, Any, list[nn.Module]]) -> None:
    _, manifest, _ = exported
    assert (manifest.form, manifest.bank.members, manifest.bank.selection) == ("ensemble", 5, "given")
    assert (manifest.schema_version, manifest.graphs) == (2, ("det", "trunk", "head_0", "head_1", "fused"))
    # A norm's gain and offset are the same in untrained networks; all that differs is a member's own.
    sources = {item.source for item in manifest.bank.inputs}
    assert {"layers.0.weight", "layers.1.running_mean", "layers.1.running_var", "layers.4.bias"} <= sources


def test_preprocessing_is_shared_and_nothing_else_is(exported: tuple[Path, Any, list[nn.Module]]) -> None:
    import onnx

    folder, manifest, _ = exported
    assert [(spec.shape, spec.dtype) for spec in manifest.boundary] == [((1, 1, 8, 8), "float32")]
    assert manifest.flops.deterministic == 0
    fused = onnx.load(str(folder / "fused.onnx"), load_external_data=False).graph
    kinds = [node.op_type for node in fused.node]
    assert (kinds.count("Cast"), kinds.count("Conv")) == (1, 5)


def test_members_are_the_networks(exported: tuple[Path, Any, list[nn.Module]]) -> None:
    folder, _, given = exported
    with torch.no_grad():
        expected = torch.stack([network(FRAME).softmax(-1) for network in given])
    prediction = Runtime.open(folder).predict(FRAME.numpy())
    np.testing.assert_allclose(prediction.mean, expected.mean(0), atol=1e-6)
    first = Runtime.open(folder).predict(FRAME.numpy(), samples=1)
    np.testing.assert_allclose(first.mean, expected[0], atol=1e-6)


def test_a_trained_ensemble_and_a_list_of_networks_are_one_thing() -> None:
    given = networks(3)
    states = [network.state_dict() for network in given]
    for one in (given, tuple(given), EnsemblePosterior(given[0], {}, states)):
        taken = take_apart(one, None, (), 0)
        assert taken.whole is True
        assert taken.draws is not None
        # A posterior draws its members in an order of its own.
        pool, order = taken.draws.pool(3, 3), sorted if isinstance(one, EnsemblePosterior) else list
        drawn, meant = ([float(state["layers.4.bias"].sum()) for state in group] for group in (pool, states))
        assert order(drawn) == order(meant)


def test_state_dicts_are_an_ensemble_if_every_parameter_differs() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    members = [{name: value + i for name, value in model.state_dict().items()} for i in range(3)]
    assert ensemble.is_one(model, members)
    shared = [{**member, "0.bias": model.state_dict()["0.bias"]} for member in members]
    assert not ensemble.is_one(model, shared)
    assert not ensemble.is_one(model, [{"1.weight": member["1.weight"]} for member in members])
    assert take_apart(model, members, (), 0).whole is None
    # What a posterior draws around one network is no ensemble, however much of it is random.
    drawn = MeanFieldPosterior(model, {}, {name: torch.ones_like(value) for name, value in model.named_parameters()})
    assert take_apart(drawn, None, (), 0).whole is False


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (networks(1), "at least 2 networks, got 1"),
        ([*networks(2), *networks(1, width=5)], "network 2 is not of the first one's architecture"),
        ([*networks(1), nn.Linear(2, 2)], "network 1 is not of the first one's architecture"),
    ],
)
def test_networks_that_are_no_ensemble_are_refused(given: list[nn.Module], message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message) as caught:
        export(given, FRAME, tmp_path / "x.ebdl", formats=("onnx",))
    assert "\n" not in str(caught.value)
    assert not any(tmp_path.iterdir())
