"""Checkpoints: round trip, and every way in which a file can be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edge_bdl_train.checkpoint import CheckpointError, CheckpointInfo, read_info, restore, save_checkpoint

INFO = CheckpointInfo(recipe="toy", model="Linear", arguments={"dropout": 0.2}, figures={"mae": 0.1}, seed=3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "toy.safetensors"
    save_checkpoint(path, nn.Linear(3, 2), INFO)
    return path


def rewrite(path: Path, tensors: dict | None = None, **changes: object) -> None:
    """Writes the checkpoint again, with other tensors or other JSON values in its header."""
    with safetensors.safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["edge_bdl_checkpoint"])
        if tensors is None:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    safetensors.torch.save_file(tensors, path, {"edge_bdl_checkpoint": json.dumps({**header, **changes})})


def test_weights_and_info_come_back_as_they_were(path: Path) -> None:
    first, second = nn.Linear(3, 2), nn.Linear(3, 2).train()
    save_checkpoint(path, first, INFO)
    assert restore(path, second, recipe="toy") == INFO == read_info(path)
    assert torch.equal(first.weight, second.weight)
    assert not second.training


def test_writing_replaces_a_file_whole_and_leaves_nothing_else_behind(path: Path) -> None:
    save_checkpoint(path, nn.Linear(3, 2), INFO)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_weights_that_are_not_finite_are_neither_written_nor_read(path: Path) -> None:
    before = path.read_bytes()
    broken = nn.Linear(3, 2)
    broken.weight.data[0, 0] = float("inf")
    with pytest.raises(CheckpointError, match="not finite in weight"):
        save_checkpoint(path, broken, INFO)
    assert path.read_bytes() == before
    rewrite(path, {"weight": broken.weight.data, "bias": broken.bias.data})
    with pytest.raises(CheckpointError, match="not finite in weight"):
        restore(path, nn.Linear(3, 2), recipe="toy")


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="choose a folder"):
        save_checkpoint(tmp_path / "nowhere" / "a.safetensors", nn.Linear(3, 2), INFO)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        read_info(tmp_path / "none.safetensors")


def test_another_recipes_checkpoint_is_refused_by_name(path: Path) -> None:
    with pytest.raises(CheckpointError, match="recipe 'toy', expected 'carracing'"):
        restore(path, nn.Linear(3, 2), recipe="carracing")


def test_missing_strange_and_misshapen_tensors_are_all_named_and_the_model_is_untouched(path: Path) -> None:
    rewrite(path, {"weight": torch.zeros(2, 4), "extra": torch.zeros(1)})
    model = nn.Linear(3, 2).train()
    before = model.weight.detach().clone()
    with pytest.raises(CheckpointError, match=r"bias is missing; extra is not the model's; weight is .*\[2, 4\]"):
        restore(path, model, recipe="toy")
    assert torch.equal(model.weight, before)
    assert model.training


def test_weights_of_another_precision_are_refused(path: Path) -> None:
    rewrite(path, {"weight": torch.zeros(2, 3, dtype=torch.float16), "bias": torch.zeros(2)})
    with pytest.raises(CheckpointError, match=r"weight is torch.float16"):
        restore(path, nn.Linear(3, 2), recipe="toy")


def test_a_newer_format_and_an_unknown_field_are_refused(path: Path) -> None:
    rewrite(path, format_version=2)
    with pytest.raises(CheckpointError, match="format version 2"):
        read_info(path)
    rewrite(path, format_version=1, surprise=True)
    with pytest.raises(CheckpointError, match="surprise"):
        read_info(path)


@pytest.mark.parametrize("header", ["", "not json", "[" * 100_000, '{"recipe": 3}'])
def test_a_header_that_cannot_be_read_is_refused(path: Path, header: str) -> None:
    safetensors.torch.save_file({"weight": torch.zeros(1)}, path, {"edge_bdl_checkpoint": header})
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_info(path)


def test_another_programs_safetensors_file_is_refused(path: Path) -> None:
    safetensors.torch.save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="no edge-bdl checkpoint"):
        read_info(path)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_refused_or_restores_finite_weights(tmp_path_factory: pytest.TempPathFactory, data) -> None:
    path = tmp_path_factory.mktemp("damaged") / "toy.safetensors"
    save_checkpoint(path, nn.Linear(3, 2), INFO)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    model = nn.Linear(3, 2)
    try:
        restore(path, model, recipe="toy")
    except CheckpointError:
        return
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
