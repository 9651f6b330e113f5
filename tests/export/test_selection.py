"""Selected masks: better on frames they did not see, of dropout's own rate, repeatable, refused without a gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edge_bdl import sampling
from edge_bdl.errors import ExportError
from edge_bdl.manifest import Bank
from edge_bdl_export.fidelity import Reading, divergence, epistemic, prefix_means, statistics
from edge_bdl_export.member_axis import MemberAxis
from edge_bdl_export.members import balanced
from edge_bdl_export.selection import Target, error, select

SAMPLES = 6
READINGS = [Reading("classification", 1), Reading("regression", None), Reading("heteroscedastic", None)]


class Stage:
    """A head of two dropout layers with its posterior, on frames to select on and frames to judge by."""

    def __init__(self, networks: Callable[..., Any], reading: Reading, last: nn.Module | None = None) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            model = nn.Sequential(
                nn.Linear(5, 48), nn.Tanh(), nn.Dropout(0.3), nn.Linear(48, 32), nn.Tanh(), nn.Dropout(0.2),
                nn.Linear(32, 4), last or nn.Identity(),
            ).eval()  # fmt: skip
        self.network, self.posterior = networks(model, (torch.zeros(1, 5),))
        self.reading = reading
        self.inputs = self.posterior.inputs
        self.bank = Bank(members=SAMPLES, chunk=2, selection="selected", seed=1, inputs=self.inputs)
        generator = torch.Generator().manual_seed(0)
        frames = torch.randn(240, 1, 5, generator=generator)
        self.boundary = torch.stack([self.network.trunk((frame,))[0][0] for frame in frames])
        self.reference = self.run(sampling.draw_keep(self.bank, 1 << 32, 128)).mean(1)
        self.start = balanced(self.inputs, SAMPLES, np.random.Generator(np.random.Philox(0)))
        self.target = Target([self.boundary[:160]], self.reference[:160], reading)

    def run(self, keep: dict[str, np.ndarray]) -> Tensor:
        masks = [torch.from_numpy(value) for value in sampling.masks(self.bank, keep).values()]
        rows = [self.network.members([boundary], masks) for boundary in self.boundary]
        return statistics(torch.stack(rows), self.reading)

    def select(self, seed: int = 0, steps: int = 300, axis: MemberAxis | None = None) -> dict[str, np.ndarray]:
        axis = axis or self.network.axis
        return select(self.start, self.inputs, axis, self.target, steps=steps, batch=32, seed=seed)

    def unseen(self, keep: dict[str, np.ndarray]) -> np.ndarray:
        """KL of every prefix from two on, on frames that selection did not see."""
        means = prefix_means(self.run(keep)[160:])[:, 1:]
        return divergence(self.reference[160:, None], means, self.reading.task).mean((0, 2)).numpy()


@pytest.mark.parametrize("reading", READINGS, ids=lambda reading: reading.task)
def test_selected_members_beat_balanced_and_independent_ones_on_unseen_frames(
    networks: Callable[..., Any], reading: Reading
):
    stage = Stage(networks, reading)
    selected = stage.unseen(stage.select())
    independent = [stage.unseen(sampling.draw_keep(stage.bank, 1000 * i, SAMPLES)) for i in range(20)]
    # A factor over all prefixes: that is what selection reduces. Some are less lucky in what they started as.
    assert np.log(selected / stage.unseen(stage.start)).mean() < np.log(0.7)
    assert np.log(selected / np.mean(independent, axis=0)).mean() < np.log(0.5)


def test_every_member_keeps_as_many_units_as_it_was_drawn_with(networks: Callable[..., Any]):
    stage = Stage(networks, READINGS[0])
    selected = stage.select(steps=30)
    for item in stage.inputs:
        assert selected[item.name].shape == stage.start[item.name].shape
        assert selected[item.name].dtype == np.bool_
        assert not np.array_equal(selected[item.name], stage.start[item.name])
        counts = [keep.reshape(SAMPLES, -1).sum(1) for keep in (selected[item.name], stage.start[item.name])]
        assert np.array_equal(*counts)


def test_the_same_seed_selects_the_same_masks_and_leaves_torchs_own_generator_alone(networks: Callable[..., Any]):
    stage = Stage(networks, READINGS[1])
    before = torch.random.get_rng_state()
    first, again, other = (stage.select(seed, steps=20) for seed in (7, 7, 8))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert any(not np.array_equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("reading", READINGS, ids=lambda reading: reading.task)
def test_training_that_comes_no_closer_than_the_start_gives_nothing(networks: Callable[..., Any], reading: Reading):
    stage = Stage(networks, reading)
    assert stage.select(steps=0) is None
    # Members that are the posterior themselves: every change is for the worse.
    stage.target = Target([stage.boundary[:160]], stage.run(stage.start).mean(1)[:160], reading)
    assert stage.select() is None


def test_a_head_that_runs_member_by_member_is_selected_too(networks: Callable[..., Any]):
    stage = Stage(networks, READINGS[0])
    looped = MemberAxis(stage.network.axis.head, 1, "loop")
    gain = np.log(stage.unseen(stage.select(steps=50, axis=looped)) / stage.unseen(stage.start)).mean()
    assert gain < np.log(0.8)


def test_the_model_keeps_no_gradients(networks: Callable[..., Any]):
    stage = Stage(networks, READINGS[0])
    stage.select(steps=2)
    assert all(parameter.grad is None for parameter in stage.network.axis.parameters())


class Steps(nn.Module):
    """A decision: no gradient at all."""

    def forward(self, x: Tensor) -> Tensor:
        return (x > 0.0).to(x.dtype)


class Root(nn.Module):
    """A root whose slope at zero is infinite, and then multiplied by zero: not a number."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * (x > 0.0)).sqrt()


@pytest.mark.parametrize("last", [Steps(), Root()])
def test_a_head_without_a_usable_gradient_is_refused(networks: Callable[..., Any], last: nn.Module):
    stage = Stage(networks, READINGS[1], last)
    with pytest.raises(ExportError, match="gradient is missing or not finite"):
        stage.select()


@pytest.mark.parametrize("reading", READINGS, ids=lambda reading: reading.task)
def test_the_error_is_the_mean_logarithm_of_what_it_names(reading: Reading):
    generator = torch.Generator().manual_seed(0)
    members = statistics(torch.randn(11, 4, 1, 4, generator=generator), reading)
    reference = statistics(torch.randn(11, 50, 1, 4, generator=generator), reading).mean(1)
    total = 0.0
    for count in (2, 3, 4):
        mean = members[:, :count].mean(1)
        scores, expected = (epistemic(stats, reading.task) for stats in (mean, reference))
        roots = [(score / expected.mean(0) + 0.01).sqrt() for score in (scores, expected)]
        miss = ((roots[0] - roots[1]) ** 2).mean()
        total += divergence(reference, mean, reading.task).mean().log() + 0.3 * miss.log()
    assert float(error(reference, members, reading.task)) == pytest.approx(float(total) / 3, rel=1e-6)


def test_members_that_are_the_posterior_have_a_finite_error():
    members = statistics(torch.ones(3, 4, 1, 2), Reading("regression", None))
    assert torch.isfinite(error(members.mean(1), members, "regression"))
