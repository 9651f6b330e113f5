"""What the camera sees: frames of a drive that the bundle finds good, slightly odd, and alarming, by its own word."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_bdl import Runtime
from edge_bdl.errors import InputError
from edge_bdl_train.carracing.environment import DrivingEnvironment
from edge_bdl_train.carracing.expert import Expert
from edge_bdl_train.carracing.weather import apply_weather

Pixels = NDArray[np.uint8]

SENSOR_NOISE = 2  # largest change of a value by the camera's own noise
_TRACK, _SPEED = 7001, 20.0
_FIRST_STEP, _STEPS, _EVERY = 100, 700, 6  # the camera zooms in for the first two seconds
_WANTED, _TRIES = 40, 3
_GOOD, _CLEARLY = 0.8, 1.15  # share of a threshold that counts as well below, and as well above it


class Scenery(NamedTuple):
    """Frames, uint8 [n, height, width, 3] each.

    Attributes:
        good: Below every SLOW threshold.
        odd: Over a SLOW threshold and below every HANDOFF threshold.
        alarming: Over a HANDOFF threshold.
    """

    good: Pixels
    odd: Pixels
    alarming: Pixels


def noisy(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """The same picture as the camera would take it again: never twice the same."""
    noise = rng.integers(-SENSOR_NOISE, SENSOR_NOISE + 1, pixels.shape, dtype=np.int16)
    return np.clip(pixels.astype(np.int16) + noise, 0, 255).astype(np.uint8)


def prepare(bundle: Path, path: Path) -> None:
    """Render, judge and keep the scenery of a bundle.

    Raises:
        InputError: The bundle does not tell good frames from bad ones.
    """
    rng = np.random.default_rng(1)
    critic = _Critic(Runtime.open(bundle), rng)
    rng.shuffle(frames := _drive())
    good = [frame for frame in frames if critic.worst_slow(frame) < _GOOD][:_WANTED]
    odd, alarming = [], []
    for frame in good:
        for severity in np.linspace(0.02, 0.4, 39):
            foggy = apply_weather("fog", frame, float(severity), rng)
            if critic.between(foggy):
                odd.append(foggy)
                break
        thick = apply_weather("fog", frame, 0.85, rng)
        if critic.least_handoff(thick) > _CLEARLY:
            alarming.append(thick)
    if min(len(good), len(odd), len(alarming)) < 5:
        raise InputError(
            f"{bundle} tells too little apart: {len(good)} good, {len(odd)} odd and {len(alarming)} alarming frames; "
            "make it anew with tools/demo --quick"
        )
    np.savez(path, good=np.stack(good), odd=np.stack(odd), alarming=np.stack(alarming))


def load(path: Path) -> Scenery:
    """What `prepare` kept."""
    with np.load(path) as arrays:
        return Scenery(*(arrays[name] for name in Scenery._fields))


class _Critic:
    """Asks the bundle's own thresholds, several times with other sensor noise."""

    def __init__(self, runtime: Runtime, rng: np.random.Generator) -> None:
        self._runtime, self._rng = runtime, rng
        scores = runtime.manifest.policy.scores
        self._limits = {score.name: limit for score in scores if (limit := score.at(runtime.samples)) is not None}

    def worst_slow(self, frame: Pixels) -> float:
        return max(self._ratios(frame, "slow"))

    def least_handoff(self, frame: Pixels) -> float:
        return min(self._ratios(frame, "handoff"))

    def between(self, frame: Pixels) -> bool:
        return min(self._ratios(frame, "slow")) > _CLEARLY and max(self._ratios(frame, "handoff")) < _GOOD

    def _ratios(self, frame: Pixels, name: str) -> list[float]:
        """The worst score's share of its threshold, once for each try."""
        ratios = []
        for _ in range(_TRIES):
            scores = self._runtime.predict(noisy(frame, self._rng)).scores()
            ratios.append(max(scores[score] / getattr(limit, name) for score, limit in self._limits.items()))
        return ratios


def _drive() -> list[Pixels]:
    environment, expert, frames = DrivingEnvironment(), Expert(), []
    environment.reset(_TRACK)
    for step in range(_FIRST_STEP + _STEPS):
        frame = environment.step(expert.control(environment.car, environment.track, _SPEED))
        if step >= _FIRST_STEP and step % _EVERY == 0:
            frames.append(frame.copy())
    environment.close()
    return frames
