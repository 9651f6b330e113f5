"""ONNX as it is shipped: weights once, old enough for old runtimes, nothing of this machine in it."""

from __future__ import annotations

import os
import site
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from edge_bdl.engines import open_engine
from edge_bdl.errors import ExportError
from edge_bdl_export.quiet import quiet
from edge_bdl_export.write_onnx import write_onnx

NAMES = ("det", "trunk", "head", "fused")


class Wide(nn.Module):
    """Large enough that weights, not graphs, are the size of its files."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 32, 3, 2), nn.ReLU(), nn.Conv2d(32, 64, 3, 2), nn.ReLU(), nn.Flatten())
        self.head = nn.Sequential(
            nn.Dropout(0.2), nn.Linear(64 * 9, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 3)
        )

    def forward(self, frame: Tensor) -> Tensor:
        return self.head(self.trunk(frame))


def graphs_of(networks: Callable[..., Any], model: nn.Module, example: tuple[Tensor, ...]) -> dict[str, Any]:
    network, posterior = networks(model, example)
    members = {i.name: torch.ones(4, *i.shape) for i in posterior.inputs}
    return network.graphs(members, 2, None)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory, networks: Callable[..., Any]) -> tuple[nn.Module, Tensor, Path]:
    torch.manual_seed(0)
    model, frame, folder = Wide().eval(), torch.rand(1, 3, 16, 16), tmp_path_factory.mktemp("wide")
    write_onnx(graphs_of(networks, model, (frame,)), folder)
    return model, frame, folder


def test_weights_are_stored_once(wide: tuple[nn.Module, Tensor, Path], tmp_path: Path):
    model, frame, folder = wide
    with quiet():
        torch.onnx.export(model, (frame,), tmp_path / "plain.onnx", dynamo=True, external_data=False)
    plain = (tmp_path / "plain.onnx").stat().st_size
    shipped = sum(path.stat().st_size for path in folder.iterdir())
    assert {path.name for path in folder.iterdir()} == {*(f"{name}.onnx" for name in NAMES), "weights.bin"}
    assert shipped <= 1.05 * plain
    weights = sum(value.numel() for value in model.parameters()) * 4
    assert (folder / "weights.bin").stat().st_size <= weights * 1.02


@pytest.mark.parametrize("name", NAMES)
def test_graphs_are_old_enough_for_onnxruntime_1_23(wide: tuple[nn.Module, Tensor, Path], name: str):
    proto = onnx.load(str(wide[2] / f"{name}.onnx"), load_external_data=False)
    assert proto.ir_version <= 10
    assert all(entry.domain in ("", "ai.onnx") and entry.version <= 20 for entry in proto.opset_import)
    assert not proto.functions


def test_nothing_of_this_machine_is_in_the_files(wide: tuple[nn.Module, Tensor, Path]):
    foreign = [
        str(Path.cwd()),
        str(Path.home()),
        *site.getsitepackages(),
        "site-packages",
        ".py",
        "Traceback",
        "/tmp",
        "File ",
    ]
    for path in wide[2].glob("*.onnx"):
        content = path.read_bytes()
        assert not [text for text in foreign if text.encode() in content]
        assert os.uname().nodename.encode() not in content


@pytest.mark.parametrize("name", NAMES)
def test_no_stack_trace_or_intermediate_shape_is_left(wide: tuple[nn.Module, Tensor, Path], name: str):
    proto = onnx.load(str(wide[2] / f"{name}.onnx"), load_external_data=False)
    assert not proto.graph.value_info
    assert not any(node.metadata_props or node.doc_string for node in proto.graph.node)


def test_the_same_network_gives_the_same_bytes(
    wide: tuple[nn.Module, Tensor, Path], networks: Callable[..., Any], tmp_path: Path
):
    model, frame, folder = wide
    write_onnx(graphs_of(networks, model, (frame,)), tmp_path)
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


@pytest.mark.parametrize("name", NAMES)
def test_external_data_stays_in_the_folder_and_inside_the_file(wide: tuple[nn.Module, Tensor, Path], name: str):
    size = (wide[2] / "weights.bin").stat().st_size
    proto = onnx.load(str(wide[2] / f"{name}.onnx"), load_external_data=False)
    external = [t for t in proto.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    assert external
    for tensor in external:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        assert entries["location"] == "weights.bin"
        assert int(entries["offset"]) % 64 == 0
        assert int(entries["offset"]) + int(entries["length"]) <= size


class Tied(nn.Module):
    """One Linear called twice in the head, once on a vector and once on a batch of them, and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.layer, self.last = nn.Dropout(0.3), nn.Linear(64, 64), nn.Linear(64, 2)
        self.attend = nn.MultiheadAttention(64, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.layer(torch.relu(self.layer(self.drop(x))))
        return self.last(self.attend(hidden, hidden, hidden, need_weights=False)[0][:, 0])


def test_a_layer_called_twice_and_attention_are_stored_once_too(networks: Callable[..., Any], tmp_path: Path):
    model = Tied().eval()
    write_onnx(graphs_of(networks, model, (torch.rand(1, 9, 64),)), tmp_path)
    weights = sum(value.numel() for value in model.parameters()) * 4
    assert (tmp_path / "weights.bin").stat().st_size <= weights * 1.02


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop, self.cell, self.last = nn.Dropout(0.3), nn.GRU(4, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.cell(self.drop(x))[0][:, -1])


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.drop = nn.Embedding(10, 8), nn.Dropout(0.3)
        self.attend, self.last = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.drop(self.embed(tokens))
        return self.last(self.attend(hidden, hidden, hidden, need_weights=False)[0].mean(1))


class Normalised(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(2, 4, 3), nn.Dropout2d(0.3), nn.BatchNorm2d(4), nn.PReLU(4), nn.Conv2d(4, 4, 3, groups=4),
            nn.FeatureAlphaDropout(0.2), nn.Upsample(scale_factor=2, mode="bilinear"),
            nn.ConvTranspose2d(4, 6, 2, 2, groups=2),
        )  # fmt: skip


@pytest.mark.parametrize("engine", ["onnxruntime", "reference"])
@pytest.mark.parametrize(
    ("build", "example"),
    [
        (Recurrent, torch.rand(1, 3, 4)),
        (Attending, torch.tensor([[1, 5, 2]])),
        (Normalised, torch.rand(1, 2, 8, 8)),
    ],
    ids=["recurrent", "attention over tokens", "normalised convolutions"],
)
def test_engines_give_what_torch_gives(
    build: Callable[[], nn.Module], example: Tensor, engine: str, networks: Callable[..., Any], tmp_path: Path
):
    torch.manual_seed(0)
    model = build().eval()
    network, posterior = networks(model, (example,))
    generator = torch.Generator().manual_seed(1)
    masks = {
        i.name: (torch.rand(4, *i.shape, generator=generator) >= i.rate) * torch.tensor(i.scale)
        for i in posterior.inputs
    }
    write_onnx({"fused": network.graphs(masks, 2, None)["fused"]}, tmp_path)
    feeds = {network.input_names[0]: example.numpy(), **{name: mask.numpy() for name, mask in masks.items()}}
    actual = open_engine(engine, tmp_path, None).graph("fused").run(feeds)["members"]
    expected = np.stack(
        [posterior.reference((example,), {n: m[i] for n, m in masks.items()}).numpy() for i in range(4)]
    )
    assert np.abs(actual - expected).max() <= 1e-5 * np.ptp(expected)


def test_an_operator_that_onnx_does_not_know_is_named_in_one_line(networks: Callable[..., Any], tmp_path: Path):
    class Distances(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cdist(self.drop(x), x)

    graphs = graphs_of(networks, Distances().eval(), (torch.rand(1, 4, 8),))
    with pytest.raises(ExportError, match=r"cannot be written as ONNX: .*cdist") as caught:
        write_onnx({"head": graphs["head"]}, tmp_path)
    assert "\n" not in str(caught.value)
