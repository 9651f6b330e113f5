"""Drives on seeded tracks in clear weather: the expert's, to learn from, and a network's, to calibrate on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edge_bdl_train.carracing.environment import STEPS_PER_SECOND, DrivingEnvironment
from edge_bdl_train.carracing.expert import Expert, hold_speed
from edge_bdl_train.carracing.track import HALF_ROAD_UNITS
from edge_bdl_train.frames import LabelledFrames
from edge_bdl_train.progress import Advance

Steer = Callable[[NDArray[np.uint8]], float]


@dataclass(frozen=True)
class DrivingFigures:
    """How a drive went.

    Attributes:
        steps: steps driven, 50 a second.
        off_track_share: share of the steps with the car's centre off the road.
        max_distance: furthest that the car was from the centre line, in units; the road ends at 6.67.
        mean_speed: in units a second.
    """

    steps: int
    off_track_share: float
    max_distance: float
    mean_speed: float


def collect_demonstrations(
    environment: DrivingEnvironment,
    expert: Expert,
    *,
    seeds: Sequence[int],
    steps: int,
    keep_every: int,
    speeds: tuple[float, float],
    noise: float,
    rng: np.random.Generator,
    spread: bool = False,
    advance: Advance = lambda: None,
) -> LabelledFrames:
    """Lets the expert drive while its hand is knocked off the wheel half of the time.

    What the expert would do is the label; what the car does has the noise in it. So the frames show the way back to the
    middle of the road, which undisturbed driving never would (Bojarski et al. 2016; Laskey et al. 2017).

    Args:
        environment: where to drive.
        expert: who drives.
        seeds: one episode on the track of each.
        steps: steps an episode.
        keep_every: one frame of so many is kept; neighbours hardly differ.
        speeds: an episode's speed is drawn between these, in units a second.
        noise: standard deviation of the steering added in a disturbed second.
        rng: draws speeds and noise.
        spread: episodes begin evenly spread around their laps instead of on the starting line.
        advance: called after each step.
    """
    frames, labels, episodes = [], [], []
    for episode, seed in enumerate(seeds):
        environment.reset(seed, _begin(episode, seeds, spread))
        speed = rng.uniform(*speeds)
        knock = 0.0
        for step in range(steps):
            if step % STEPS_PER_SECOND == 0:
                knock = rng.normal(0.0, noise) if rng.random() < 0.5 else 0.0
            control = expert.control(environment.car, environment.track, speed)
            if step % keep_every == 0:
                frames.append(environment.frame)
                labels.append(control.steering)
                episodes.append(episode)
            environment.step(replace(control, steering=control.steering + knock))
            advance()
    return LabelledFrames(np.stack(frames), np.array(labels, np.float32), np.array(episodes, np.int64))


def collect_closed_loop(
    environment: DrivingEnvironment,
    steer: Steer,
    *,
    seeds: Sequence[int],
    steps: int,
    target_speed: float,
    expert: Expert,
    spread: bool = False,
    until_off_track: bool = False,
    advance: Advance = lambda: None,
) -> tuple[LabelledFrames, DrivingFigures]:
    """Lets ``steer`` drive alone; every frame is kept, in sequence, with what the expert would have done.

    Args:
        environment: where to drive.
        steer: frame (uint8 [96, 96, 3]) -> steering in [-1, 1].
        seeds: one episode on the track of each.
        steps: steps an episode.
        target_speed: held throughout, in units a second.
        expert: labels the frames.
        spread: episodes begin evenly spread around their laps instead of on the starting line.
        until_off_track: end an episode where the car leaves the road.
        advance: called after each step.
    """
    frames, labels, episodes, distances, speeds = [], [], [], [], []
    for episode, seed in enumerate(seeds):
        environment.reset(seed, _begin(episode, seeds, spread))
        for _ in range(steps):
            frame, car = environment.frame, environment.car
            frames.append(frame)
            labels.append(expert.steering(car, environment.track))
            episodes.append(episode)
            environment.step(hold_speed(steer(frame), car, target_speed))
            distances.append(environment.distance_to_centre)
            speeds.append(car.speed)
            advance()
            if until_off_track and environment.off_track:
                break
    figures = DrivingFigures(
        steps=len(distances),
        off_track_share=float(np.mean(np.array(distances) > HALF_ROAD_UNITS)),
        max_distance=float(np.max(distances)),
        mean_speed=float(np.mean(speeds)),
    )
    return LabelledFrames(np.stack(frames), np.array(labels, np.float32), np.array(episodes, np.int64)), figures


def _begin(episode: int, seeds: Sequence[int], spread: bool) -> float:
    return episode / len(seeds) if spread else 0.0
