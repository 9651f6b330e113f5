"""Choose: which bank an export gets, what may influence it, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edge_bdl import sampling
from edge_bdl.errors import ExportError
from edge_bdl.manifest import Selection
from edge_bdl_export.choose import POOL, Chosen, choose
from edge_bdl_export.fidelity import Reading
from edge_bdl_export.frames import FIGURES, SELECTION, THRESHOLDS, CalibrationFrames

COUNT = 160


@pytest.fixture(scope="module")
def frames() -> CalibrationFrames:
    values = np.random.Generator(np.random.Philox(0)).normal(size=(COUNT, 1, 5)).astype(np.float32)
    split = np.repeat([SELECTION, THRESHOLDS, FIGURES], [80, 40, 40])
    return CalibrationFrames(inputs={"input": values}, split=split)


@pytest.fixture
def chosen(networks: Callable[..., Any], frames: CalibrationFrames) -> Callable[..., Chosen]:
    """Chooses for a small network with two dropout layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(5, 40),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(40, 24),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(24, 1),
        ).eval()
    network, posterior = networks(model, (torch.zeros(1, 5),))

    def run(how: Selection, given: CalibrationFrames | None = frames, **changed: Any) -> Chosen:
        options: dict[str, Any] = {"samples": 6, "chunk": 4, "seed": 3, "head_work": 1000} | changed
        return choose(posterior, network, given, Reading("regression", None), how=how, **options)

    return run


def test_an_iid_bank_is_the_beginning_of_the_devices_own_stream(chosen: Callable[..., Chosen]):
    bank = chosen("iid", None)
    stream = sampling.pack(sampling.draw_keep(bank.bank, 0, 6))
    assert all(np.array_equal(bank.stored[name], stream[name]) for name in stream)
    assert bank.fidelity == ()


@pytest.mark.parametrize("how", ["iid", "balanced", "selected"])
def test_what_is_stored_is_what_the_graphs_take(chosen: Callable[..., Chosen], how: Selection):
    bank = chosen(how)
    assert bank.bank.selection == how
    masks = sampling.masks(bank.bank, sampling.unpack(bank.bank, bank.stored))
    assert all(np.array_equal(masks[name], bank.inputs[name]) for name in masks)
    assert [row.samples for row in bank.fidelity] == [2, 3, 4, 5, 6]
    assert {row.reference_members for row in bank.fidelity} == {POOL}


def test_selected_members_are_more_faithful_on_the_figures_frames(chosen: Callable[..., Chosen]):
    kl = {how: np.array([row.kl for row in chosen(how).fidelity]) for how in ("iid", "balanced", "selected")}
    rank = {how: chosen(how).fidelity[-1].epistemic_spearman for how in ("iid", "selected")}
    # Of two members the mean divergence of Gaussians has no expectation.
    assert (kl["selected"][1:] < 0.6 * kl["balanced"][1:]).all()
    assert (kl["selected"][1:] < 0.6 * kl["iid"][1:]).all()
    assert rank["selected"] > rank["iid"]


@pytest.mark.parametrize(("part", "matters"), [(SELECTION, True), (THRESHOLDS, False), (FIGURES, False)])
def test_selection_looks_at_its_own_frames_only(
    chosen: Callable[..., Chosen], frames: CalibrationFrames, part: int, matters: bool
):
    other = frames.inputs["input"].copy()
    other[frames.split == part] *= -1.5
    before, after = chosen("selected"), chosen("selected", replace(frames, inputs={"input": other}))
    same = all(np.array_equal(before.stored[name], after.stored[name]) for name in before.stored)
    assert same is not matters


def test_labels_are_not_looked_at(chosen: Callable[..., Chosen], frames: CalibrationFrames):
    labelled = replace(frames, labels=np.arange(COUNT, dtype=np.float32))
    bank, same = chosen("selected"), chosen("selected", labelled)
    assert all(np.array_equal(bank.stored[name], same.stored[name]) for name in bank.stored)
    assert bank.fidelity == same.fidelity


def test_selected_members_drop_as_many_units_as_the_balanced_ones_they_started_as(chosen: Callable[..., Chosen]):
    selected, start = chosen("selected"), chosen("balanced")
    for name, masks in selected.inputs.items():
        assert np.array_equal((masks > 0.0).reshape(6, -1).sum(1), (start.inputs[name] > 0.0).reshape(6, -1).sum(1))


class Lone(nn.Module):
    """A mask of one unit: a member that keeps so many of so many has no choice, and training nothing to find."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.drop, self.last = nn.Linear(5, 1), nn.Dropout(0.4), nn.Linear(1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.drop(torch.tanh(self.first(x))))


def test_a_bank_that_selection_could_not_better_is_the_balanced_one_and_says_so(
    networks: Callable[..., Any], frames: CalibrationFrames
):
    network, posterior = networks(Lone().eval(), (torch.zeros(1, 5),))
    selected, start = (
        choose(
            posterior, network, frames, Reading("regression", None),
            how=how, samples=6, chunk=4, seed=3, head_work=1000,
        )
        for how in ("selected", "balanced")
    )  # fmt: skip
    assert selected.bank == start.bank
    assert selected.bank.selection == "balanced"
    assert np.array_equal(selected.stored["mask_0"], start.stored["mask_0"])
    assert selected.fidelity == start.fidelity


def test_selection_without_frames_or_with_few_is_refused(chosen: Callable[..., Chosen], frames: CalibrationFrames):
    with pytest.raises(ExportError, match="needs calibration frames"):
        chosen("selected", None)
    few = replace(frames, split=np.repeat([SELECTION, THRESHOLDS, FIGURES], [39, 81, 40]))
    with pytest.raises(ExportError, match="at least 40 calibration frames to select on, got 39 of 160"):
        chosen("selected", few)


def test_one_sample_is_refused(chosen: Callable[..., Chosen]):
    with pytest.raises(ExportError, match="at least 2"):
        chosen("balanced", samples=1)


def test_a_large_head_is_selected_with_less_work(chosen: Callable[..., Chosen]):
    bank = chosen("selected", head_work=10**12)
    assert not np.array_equal(bank.stored["mask_0"], chosen("balanced").stored["mask_0"])
    assert len(bank.fidelity) == 5
