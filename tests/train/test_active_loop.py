"""The loop: it learns, chooses among what it has not asked, and ends the same after a kill; curves and their file."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from edge_bdl.errors import InputError
from edge_bdl_train.active.learner import Learner, Lesson, NetworkLearner
from edge_bdl_train.active.loop import STRATEGIES, Loop, balanced, draw
from edge_bdl_train.active.state import Curve, State, load_state, save_state
from edge_bdl_train.checkpoint import CheckpointError
from edge_bdl_train.fit import Data
from edge_bdl_train.methods import dropout
from edge_bdl_train.optimiser import Optimiser
from edge_bdl_train.recipes.base import seeded
from edge_bdl_train.recipes.fitting import mlp


def blobs(count: int, seed: int) -> Data:
    """Three classes of points around three corners."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (count,), generator=generator)
    corners = torch.tensor([[0.0, 2.0], [2.0, 0.0], [-2.0, -2.0]])
    return corners[y] + torch.randn(count, 2, generator=generator), y


POOL, TEST = blobs(300, 0), blobs(200, 1)


def a_learner(steps: int = 20) -> NetworkLearner:
    lesson = Lesson(
        method="dropout",
        config=dropout.Config(optimiser=Optimiser(learning_rate=1e-2)),
        classes=3,
        first_steps=50,
        steps=steps,
        members=5,
    )
    return NetworkLearner(seeded(0, lambda: mlp((2, 16, 3), 0.2)), lesson)


def run(path: Path, **settings: object) -> Curve:
    return Loop(**{"strategy": "bald", "start": 6, "batch": 4, "labels": 40, **settings}).run(
        a_learner(), POOL, TEST, path
    )


class Oracle(Learner):
    """Believes what it is told to; notes what it was taught."""

    def __init__(self) -> None:
        self.taught: list[Data] = []

    @property
    def settings(self) -> str:
        return "oracle"

    def learn(self, data: Data, generator: torch.Generator) -> None:
        self.taught.append(data)

    def probabilities(self, x: Tensor, generator: torch.Generator) -> Tensor:
        # Two members that disagree the more, the larger the first coordinate is.
        doubt = torch.sigmoid(x[:, 0].double())
        one = torch.stack([0.5 + 0.4 * doubt, 0.5 - 0.4 * doubt, torch.zeros_like(doubt)], -1)
        return torch.stack([one, one[:, [1, 0, 2]]])

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        pass


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_asks_for_the_stated_number_of_different_examples_and_learns(
    strategy: str, tmp_path: Path
) -> None:
    path = tmp_path / "state"
    curve = run(path, strategy=strategy, labels=21, candidates=100)
    assert curve.labels == (6, 10, 14, 18, 21)
    assert curve.accuracy[-1] > 0.75  # one class in three is chance
    with pytest.raises(InputError, match="another run"):
        load_state(path, "of another")


def test_it_asks_where_the_members_disagree_most(tmp_path: Path) -> None:
    oracle = Oracle()
    Loop(strategy="bald", start=3, batch=5, labels=8, candidates=300).run(oracle, POOL, TEST, tmp_path / "state")
    (first, _), (second, labels) = oracle.taught
    assert torch.equal(second[:3], first)
    rest = POOL[0][(POOL[0][:, None] != first).any(-1).all(1)]
    assert torch.equal(second[3:], rest[rest[:, 0].argsort(descending=True)[:5]])
    for row, label in zip(second, labels, strict=True):
        assert label == POOL[1][(POOL[0] == row).all(1)]


def test_it_chooses_among_the_candidates_only(tmp_path: Path) -> None:
    oracle = Oracle()
    Loop(strategy="bald", start=3, batch=1, labels=30, candidates=2).run(oracle, POOL, TEST, tmp_path / "state")
    # The larger of two random ones, not the largest of all.
    taught = oracle.taught[-1][0][3:, 0]
    assert taught.mean() < POOL[0][:, 0].sort(descending=True).values[:27].mean() - 1.0


def test_nothing_is_asked_twice_even_if_the_whole_pool_is(tmp_path: Path) -> None:
    oracle = Oracle()
    pool = (POOL[0][:50], POOL[1][:50])
    Loop(strategy="variation_ratios", start=3, batch=7, labels=50, candidates=300).run(
        oracle, pool, TEST, tmp_path / "state"
    )
    assert torch.equal(oracle.taught[-1][0].sort(dim=0).values, pool[0].sort(dim=0).values)


def test_the_same_seed_gives_the_same_curve_and_another_one_another(tmp_path: Path) -> None:
    first = run(tmp_path / "a", labels=30)
    assert run(tmp_path / "b", labels=30) == first
    assert run(tmp_path / "c", labels=30, seed=1) != first


SCRIPT = """
import sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, {folder!r})
from test_active_loop import POOL, TEST, a_learner
from edge_bdl_train.active.loop import Loop

Loop(strategy="bald", start=6, batch=4, labels=200).run(a_learner(), POOL, TEST, Path(sys.argv[1]))
"""


def test_a_run_that_was_killed_and_started_again_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", labels=200)
    path = tmp_path / "killed"
    script = SCRIPT.format(folder=str(Path(__file__).parent))
    with subprocess.Popen([sys.executable, "-c", script, str(path)]) as process:
        deadline = time.monotonic() + 60.0
        # Killed in the middle of whatever it does after its first rounds.
        while not path.exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    steps = []

    def stage(label: str, total: int):
        assert total == len(whole.labels)
        return lambda: steps.append(1)

    resumed = Loop(strategy="bald", start=6, batch=4, labels=200)
    with path.open("rb") as file:
        before = file.read()
    assert resumed.run(a_learner(), POOL, TEST, path, stage) == whole
    assert len(steps) == len(whole.labels)
    assert before != path.read_bytes()  # it was not over when it was killed
    assert path.read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_run_that_is_over_only_tells_its_curve_again(tmp_path: Path) -> None:
    first = run(tmp_path / "state", labels=10)
    before = (tmp_path / "state").stat().st_mtime_ns
    assert run(tmp_path / "state", labels=10) == first
    assert (tmp_path / "state").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategy": "guess"}, "expected one of .*bald"),
        ({"start": 0}, "1 <= start"),
        ({"start": 41}, "start <= labels"),
        ({"batch": 0}, "1 <= batch"),
        ({"candidates": 3}, "batch <= candidates"),
        ({"labels": 301}, "pool of 300"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        run(tmp_path / "state", **settings)
    assert not (tmp_path / "state").exists()


def test_another_runs_state_other_data_and_damage_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    run(path, labels=10)
    for other in ({"labels": 14}, {"labels": 10, "seed": 1}, {"labels": 10, "strategy": "random"}):
        with pytest.raises(InputError, match="another run"):
            run(path, **other)
    loop = Loop(strategy="bald", start=6, batch=4, labels=10)
    with pytest.raises(InputError, match="another run"):
        loop.run(a_learner(), (POOL[0] + 1.0, POOL[1]), TEST, path)
    with pytest.raises(InputError, match="another run"):
        loop.run(a_learner(steps=21), POOL, TEST, path)
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:20], b"", b"{}"):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="remove it to start again"):
            loop.run(a_learner(), POOL, TEST, path)


def test_a_state_of_another_network_is_refused(tmp_path: Path) -> None:
    save_state(tmp_path / "state", State(torch.arange(3), Curve(), {}), "run")
    state = load_state(tmp_path / "state", "run")
    assert state is not None
    with pytest.raises(InputError, match="is missing"):
        a_learner().load_state_dict(state.learner)


def test_a_state_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="choose a folder that exists"):
        run(tmp_path / "missing" / "state", labels=10)
    assert not list(tmp_path.iterdir())


def test_the_first_labels_are_balanced(tmp_path: Path) -> None:
    y = torch.tensor([0] * 50 + [1] * 5 + [2] * 45)
    chosen = balanced(y, 14, torch.Generator().manual_seed(0))
    assert torch.bincount(y[chosen]).tolist() == [5, 5, 4]
    assert len(set(chosen.tolist())) == 14
    with pytest.raises(InputError, match="6 examples of class 1"):
        balanced(y, 18, torch.Generator().manual_seed(0))


def test_a_learner_that_has_not_learned_says_so() -> None:
    with pytest.raises(InputError, match="call learn first"):
        a_learner().probabilities(TEST[0], torch.Generator())


def test_a_lesson_has_at_least_one_of_everything() -> None:
    with pytest.raises(InputError, match="at least 1"):
        Lesson(method="dropout", config=dropout.Config(), classes=3, first_steps=0, steps=1)


def test_later_rounds_go_on_from_the_weights_of_the_one_before() -> None:
    generator = torch.Generator().manual_seed(0)
    learner = a_learner()
    learner.learn(POOL, generator)
    before = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
    frozen = NetworkLearner(
        mlp((2, 16, 3), 0.2),
        Lesson(
            method="dropout",
            config=dropout.Config(optimiser=Optimiser(learning_rate=1e-12)),
            classes=3,
            first_steps=1,
            steps=1,
        ),
    )
    frozen.load_state_dict(before)
    frozen.learn(POOL, generator)
    for name, tensor in frozen.state_dict().items():
        torch.testing.assert_close(tensor, before[name])


def test_labels_to_an_accuracy_is_where_it_was_first_reached() -> None:
    curve = Curve().then(20, 0.5).then(30, 0.91).then(40, 0.89).then(50, 0.95)
    assert [curve.labels_to(level) for level in (0.5, 0.9, 0.92, 0.96)] == [20, 30, 50, None]


def test_the_learning_curve_is_drawn(tmp_path: Path) -> None:
    draw(
        tmp_path / "curve.png", {"bald": Curve((1, 2), (0.5, 0.6)), "random": Curve((1, 2), (0.4, 0.5))}, {"goal": 0.6}
    )
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
