"""Exploration: decisions by posteriors that are known, the die, the memory, a short run."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edge_bdl.errors import InputError
from edge_bdl_train.data import bandit
from edge_bdl_train.data.bandit import ACTIONS, EAT, FEATURES, PASS
from edge_bdl_train.methods import ensemble, point
from edge_bdl_train.methods.ensemble import EnsemblePosterior
from edge_bdl_train.recipes import open_study
from edge_bdl_train.recipes.explore import ExploreConfig, ExploreStudy, Memory, Policy, decide, policies, questions


def favouring(*actions: int) -> EnsemblePosterior:
    """Members that each prefer one action, whatever the context."""
    members = []
    for action in actions:
        weight = torch.zeros(1, FEATURES + ACTIONS)
        weight[0, FEATURES + action] = 1.0
        members.append({"weight": weight, "bias": torch.zeros(1)})
    return EnsemblePosterior(nn.Linear(FEATURES + ACTIONS, 1), {}, members)


def test_a_question_is_the_context_with_each_action() -> None:
    asked = questions(np.array([[2, 3], [0, 1]]))
    assert asked.shape == (2, ACTIONS, FEATURES + ACTIONS)
    assert torch.equal(asked[0, :, FEATURES:], torch.eye(ACTIONS))
    assert (asked[0, :, 2] == 1.0).all()
    assert (asked.sum(-1) == 3.0).all()


def test_members_that_agree_decide_for_what_they_agree_on() -> None:
    contexts = bandit.mushrooms(20, np.random.default_rng(0))
    for action in (PASS, EAT):
        assert (decide(favouring(action, action), contexts, torch.Generator().manual_seed(0)) == action).all()


def test_thompson_sampling_takes_an_action_as_often_as_members_believe_in_it() -> None:
    count, share = 600, 0.75
    contexts = bandit.mushrooms(count, np.random.default_rng(0))
    taken = decide(favouring(EAT, EAT, EAT, PASS), contexts, torch.Generator().manual_seed(0))
    assert abs((taken == EAT).mean() - share) <= 5.0 * math.sqrt(share * (1.0 - share) / count)


def test_the_memory_keeps_what_was_chosen_and_what_it_paid() -> None:
    memory = Memory()
    memory.add(np.array([[1, 2], [0, 0]]), np.array([EAT, PASS]), np.array([-35.0, 0.0]))
    memory.add(np.array([[4, 4]]), np.array([EAT]), np.array([5.0]))
    assert memory.y[:, 0].tolist() == [-3.5, 0.0, 0.5]
    assert memory.x[:, FEATURES + EAT].tolist() == [1.0, 0.0, 1.0]
    assert torch.equal(memory.x[2], questions(np.array([[4, 4]]))[0, EAT])


def test_who_always_throws_the_die_does_as_well_as_that() -> None:
    study = ExploreStudy(ExploreConfig(rounds=400, every=100, steps=1, hidden=4))
    policy = Policy(label="die", method="point", config=point.Config(), epsilon=1.0)
    contexts = bandit.mushrooms(400, np.random.default_rng(0))
    eaten = (study.play(policy, contexts, 0) == EAT).mean()
    assert abs(eaten - 0.5) <= 5.0 * 0.5 / math.sqrt(400)


def test_the_prior_counts_once_for_all_that_is_remembered() -> None:
    study = ExploreStudy(ExploreConfig(rounds=60, every=20, steps=1, hidden=4))
    policy = Policy(label="two", method="ensemble", config=ensemble.Config(members=2))
    trainee = study._trainee(policy, 0, torch.Generator().manual_seed(0))
    memory = Memory()
    memory.add(np.zeros((7, 2), np.int64), np.zeros(7, np.int64), np.zeros(7))
    study._train(trainee, memory, torch.Generator().manual_seed(0))
    assert [part.n_data for part in trainee.parts] == [7, 7]


def test_a_network_learns_what_to_eat() -> None:
    config = ExploreConfig(rounds=300, every=100, steps=300, hidden=32)
    # The die still chooses, so that there is enough to learn from; what was learned shows in the other half.
    policy = Policy(label="half", method="point", config=policies()[0].config, epsilon=0.5)
    contexts = bandit.mushrooms(300, np.random.default_rng(0))
    taken = ExploreStudy(config).play(policy, contexts, 0)
    means = bandit.means(contexts)
    regret = means.max(1) - means[np.arange(300), taken]
    # Blindly 5 a decision; the half that the network decides should cost little of that.
    assert regret[200:].mean() < 4.0


def test_a_short_run_gives_two_figures_per_policy_and_the_same_ones_again(tmp_path: Path) -> None:
    figures = open_study("explore", quick=True).run(tmp_path, 3)
    assert [figure.what.split(":")[0] for figure in figures[::2]] == ["epsilon-greedy 0.1", "Thompson, mean field"]
    assert all(0.0 <= figure.mean <= 400.0 for figure in figures)
    assert (tmp_path / "explore.png").read_bytes().startswith(b"\x89PNG")
    again = open_study("explore", quick=True).run(tmp_path, 3)
    assert figures == again


def test_policies_that_do_not_exist_and_ranges_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected some of epsilon-greedy 0"):
        ExploreStudy(ExploreConfig(policies=("oracle",))).run(tmp_path, 0)
    with pytest.raises(InputError, match="at least 1"):
        ExploreConfig(rounds=0)
