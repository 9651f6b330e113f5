"""Collecting drives: what is kept, and what its labels are."""

from __future__ import annotations

import numpy as np
import pytest

from edge_bdl_train.carracing.environment import DrivingEnvironment
from edge_bdl_train.carracing.episodes import collect_closed_loop, collect_demonstrations
from edge_bdl_train.carracing.expert import Expert
from edge_bdl_train.frames import LabelledFrames


@pytest.fixture(scope="module")
def environment() -> DrivingEnvironment:
    return DrivingEnvironment()


def demonstrations(environment: DrivingEnvironment, noise: float, seed: int = 0) -> LabelledFrames:
    return collect_demonstrations(
        environment,
        Expert(),
        seeds=(0, 1),
        steps=120,
        keep_every=3,
        speeds=(25.0, 30.0),
        noise=noise,
        rng=np.random.default_rng(seed),
    )


def test_demonstrations_keep_every_third_frame_of_each_track(environment: DrivingEnvironment) -> None:
    kept = demonstrations(environment, noise=0.3)
    assert len(kept) == 80
    assert kept.episode.tolist() == [0] * 40 + [1] * 40
    assert np.abs(kept.labels).max() <= 1.0


def test_demonstrations_repeat_with_their_generator(environment: DrivingEnvironment) -> None:
    first, again, other = (demonstrations(environment, 0.3, seed) for seed in (0, 0, 1))
    assert np.array_equal(first.frames, again.frames)
    assert np.array_equal(first.labels, again.labels)
    assert not np.array_equal(first.labels, other.labels)


@pytest.mark.parametrize("spread", [False, True])
def test_spread_episodes_begin_evenly_around_their_laps(environment: DrivingEnvironment, spread: bool) -> None:
    lines = [environment.reset(seed) for seed in (0, 1)]
    begins = [environment.reset(seed, share) for seed, share in ((0, 0.0), (1, 0.5))] if spread else lines
    shown = collect_demonstrations(
        environment, Expert(), seeds=(0, 1), steps=2, keep_every=2, speeds=(25.0, 30.0), noise=0.0,
        rng=np.random.default_rng(0), spread=spread,
    )  # fmt: skip
    driven, _ = collect_closed_loop(
        environment, lambda frame: 0.0, seeds=(0, 1), steps=1, target_speed=30.0, expert=Expert(), spread=spread
    )
    assert np.array_equal(shown.frames, np.stack(begins))
    assert np.array_equal(driven.frames, np.stack(begins))


def test_noise_shows_the_way_back(environment: DrivingEnvironment) -> None:
    calm, shaken = (np.abs(demonstrations(environment, noise).labels).mean() for noise in (0.0, 0.5))
    assert shaken > 2.0 * calm


def test_a_closed_loop_drives_what_steer_says_and_keeps_what_the_expert_would(environment: DrivingEnvironment) -> None:
    seen = []

    def straight_on(frame: np.ndarray) -> float:
        seen.append(frame)
        return 0.0

    kept, figures = collect_closed_loop(
        environment, straight_on, seeds=(0, 1), steps=250, target_speed=30.0, expert=Expert()
    )
    assert np.array_equal(kept.frames, np.stack(seen))
    assert kept.episode.tolist() == [0] * 250 + [1] * 250
    assert figures.steps == 500
    # Nobody steered: the car left the road, and the expert would have turned back.
    assert figures.off_track_share > 0.2
    assert figures.max_distance > 10.0
    assert np.abs(kept.labels[240:250]).min() > 0.1
