"""Choose: which bank an export gets, what may influence it, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from edge_bdl import sampling
from edge_bdl.errors import ExportError
from edge_bdl.manifest import Selection
from edge_bdl.uncertainty import classification
from edge_bdl_export.capture import capture
from edge_bdl_export.choose import Chosen, choose
from edge_bdl_export.cut import cut
from edge_bdl_export.draws import POOL
from edge_bdl_export.fidelity import Reading
from edge_bdl_export.forms import weight_bank
from edge_bdl_export.frames import FIGURES, SELECTION, THRESHOLDS, CalibrationFrames
from edge_bdl_export.graphs import Network

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


# --- weights ----------------------------------------------------------------------------------------------------------


def drawn_weights(count: int, seed: int) -> dict[str, np.ndarray]:
    """Members of a Gaussian around a last layer."""
    weights = np.random.Generator(np.random.Philox(seed)).normal(size=(count, 3, 24)).astype(np.float32)
    return {"weight_0": weights}


def last_layer_net() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 24), nn.ReLU(), nn.Linear(24, 3)).eval()


@pytest.fixture(scope="module")
def bank_of() -> Callable[..., Chosen]:
    """Chooses sets of weights for the last layer of a small network."""
    model = last_layer_net()
    captured = capture(model, (torch.zeros(1, 5),))

    def run(how: Selection, frames: CalibrationFrames | None, **changed: Any) -> Chosen:
        pool = changed.pop("pool", drawn_weights(POOL, 1))
        members = [{"2.weight": torch.from_numpy(values)} for values in pool["weight_0"]]
        posterior = weight_bank.posterior(model, captured, members)
        network = Network(cut(captured, posterior.stochastic), (torch.zeros(1, 5),), ["input"], posterior.inputs)
        options: dict[str, Any] = {"samples": 6, "chunk": 4, "seed": 3, "head_work": 1000} | changed
        return choose(posterior, network, frames, Reading("classification", 1), how=how, **options)

    return run


@pytest.mark.parametrize("how", ["iid", "balanced"])
def test_weights_that_are_not_selected_are_the_first_ones(bank_of: Callable[..., Chosen], how: Selection):
    bank = bank_of(how, None)
    assert (bank.bank.selection, bank.bank.members, bank.fidelity) == ("given", 6, ())
    assert np.array_equal(bank.inputs["weight_0"], drawn_weights(POOL, 1)["weight_0"][:6])


def test_of_fewer_weights_than_asked_for_the_bank_is_all(bank_of: Callable[..., Chosen], frames: CalibrationFrames):
    for how in ("iid", "selected"):
        bank = bank_of(how, frames, pool=drawn_weights(4, 1))
        assert bank.bank.members == 4
        # They are the posterior themselves.
        assert bank.fidelity[-1].kl == pytest.approx(0.0, abs=1e-9)
        assert bank.fidelity[-1].reference_members == 4


def test_four_selected_weights_are_worth_eight_first_ones_on_frames_they_were_not_selected_on(
    bank_of: Callable[..., Chosen], frames: CalibrationFrames
):
    others = [drawn_weights(POOL // 2, 2), drawn_weights(POOL // 2, 3)]
    selected = bank_of("selected", frames, others=lambda: others)
    assert selected.bank.selection == "selected"
    assert {row.reference_members for row in selected.fidelity} == {POOL}
    pool = drawn_weights(POOL, 1)["weight_0"]
    assert all((pool == row).all((1, 2)).any() for row in selected.inputs["weight_0"])
    first = [
        bank_of("iid", frames, samples=8, pool=drawn_weights(8, seed), others=lambda: others).fidelity[-1].kl
        for seed in range(10, 20)
    ]
    assert selected.fidelity[2].samples == 4
    assert selected.fidelity[2].kl < np.median(first)


@pytest.mark.parametrize(("part", "matters"), [(SELECTION, True), (THRESHOLDS, False), (FIGURES, False)])
def test_weights_are_selected_on_their_own_frames_only_and_without_labels(
    bank_of: Callable[..., Chosen], frames: CalibrationFrames, part: int, matters: bool
):
    other = frames.inputs["input"].copy()
    other[frames.split == part] *= -1.5
    labelled = replace(frames, inputs={"input": other}, labels=np.arange(COUNT) % 3)
    before, after = bank_of("selected", frames), bank_of("selected", labelled)
    assert np.array_equal(before.inputs["weight_0"], after.inputs["weight_0"]) is not matters


# --- fidelity ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["balanced", "selected"])
def test_what_a_selection_does_on_its_own_frames_is_told_beside_it(chosen: Callable[..., Chosen], how: Selection):
    for row in chosen(how).fidelity:
        assert isinstance(row.seen_kl, float) == isinstance(row.seen_epistemic_spearman, float) == (how == "selected")
        assert row.auroc_lost is msgspec.UNSET


def test_what_few_members_lose_in_telling_outsiders_is_their_auroc_less(
    bank_of: Callable[..., Chosen], frames: CalibrationFrames
):
    far = np.random.Generator(np.random.Philox(5)).normal(size=(60, 1, 5)).astype(np.float32) * 3.0
    outsiders = CalibrationFrames(inputs={"input": far}, split=np.zeros(60, np.int64))
    pool = drawn_weights(POOL, 1)
    bank = bank_of("iid", frames, outsiders=outsiders)
    model = last_layer_net()

    def score(values: np.ndarray, count: int) -> np.ndarray:
        with torch.no_grad():
            features = model[:2](torch.from_numpy(values)[:, 0])
            logits = torch.einsum("nf,pof->npo", features, torch.from_numpy(pool["weight_0"][:count])) + model[2].bias
        return np.array([float(classification(row, 0, unbiased=False).epistemic) for row in logits.numpy()])

    def auroc(count: int) -> float:
        known, outside = (score(values, count) for values in (frames.part(FIGURES).inputs["input"], far))
        return float((outside[:, None] > known[None]).mean())

    lost = {row.samples: row.auroc_lost for row in bank.fidelity}
    for count in (2, 6):
        assert lost[count] == pytest.approx(auroc(POOL) - auroc(count), abs=1e-3)


# --- as few as will do ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["iid", "selected"])
def test_auto_is_the_smallest_bank_that_is_faithful_enough(
    bank_of: Callable[..., Chosen], frames: CalibrationFrames, how: Selection
):
    bank = bank_of(how, frames, samples="auto", least=0.9)
    assert bank.bank.members == len(bank.inputs["weight_0"]) == bank.fidelity[-1].samples
    ranks = [row.epistemic_spearman for row in bank.fidelity]
    assert ranks[-1] >= 0.9 > max(ranks[:-1])
    assert bank.bank.chunk == min(4, bank.bank.members)


def test_auto_of_masks_is_the_beginning_of_a_larger_bank(chosen: Callable[..., Chosen]):
    bank = chosen("iid", samples="auto", least=0.5)
    assert bank.fidelity[-1].epistemic_spearman >= 0.5
    stream = sampling.pack(sampling.draw_keep(bank.bank, 0, bank.bank.members))
    assert all(np.array_equal(bank.stored[name], stream[name]) for name in stream)


def test_auto_that_no_bank_reaches_tells_how_far_one_came(bank_of: Callable[..., Chosen], frames: CalibrationFrames):
    with pytest.raises(ExportError, match=r"no bank of up to 64 members .* to 1, the best reaches 0\.9\d+; ask for"):
        bank_of("iid", frames, samples="auto", least=1.0)
    with pytest.raises(ExportError, match="samples='auto' needs calibration frames"):
        bank_of("iid", None, samples="auto")


def test_a_large_head_is_selected_with_less_work(chosen: Callable[..., Chosen]):
    bank = chosen("selected", head_work=10**12)
    assert not np.array_equal(bank.stored["mask_0"], chosen("balanced").stored["mask_0"])
    assert len(bank.fidelity) == 5
