"""Weather that no training frame has seen: fog, night and snow, painted over camera frames.

Every function takes a uint8 [96, 96, 3] frame, a severity in [0, 1] (0 leaves the frame as it is) and a random
generator, and returns a new frame. All that is random in it is drawn anew for every frame. The camera looks down on the
car from behind and above: what is further up in the frame is further ahead.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edge_bdl.errors import InputError

Frame = NDArray[np.uint8]
Weather = Callable[[Frame, float, np.random.Generator], Frame]

_CAR_ROW, _CAR_COLUMN = 70.0, 47.5
_FOG_COLOUR = np.array([196.0, 200.0, 204.0])
_SNOW_COLOUR = np.array([236.0, 240.0, 246.0])
_MOONLIGHT = np.array([0.55, 0.65, 1.0])
_HEADLIGHT = np.array([1.0, 0.93, 0.75])


def fog(frame: Frame, severity: float, rng: np.random.Generator) -> Frame:
    """A veil that thickens with the distance from the car (Koschmieder's law), in slow patches."""
    rows, columns = _grid(frame)
    distance = np.hypot(rows - _CAR_ROW, columns - _CAR_COLUMN) / frame.shape[0]
    density = severity * (0.6 + 4.0 * distance) * (0.8 + 0.4 * _patches(frame, rng))
    seen = np.exp(-density)[..., None]
    return _to_frame(frame * seen + _FOG_COLOUR * (1.0 - seen), frame, severity)


def night(frame: Frame, severity: float, rng: np.random.Generator) -> Frame:
    """Moonlight, two headlights' cone, and the noise of a sensor that lacks light."""
    rows, columns = _grid(frame)
    ahead, aside = _CAR_ROW - rows, np.abs(columns - _CAR_COLUMN)
    reach = np.exp(-np.where(ahead > 0.0, ahead / 30.0, -ahead / 3.0))
    cone = np.exp(-((aside / (5.0 + 0.35 * np.maximum(ahead, 0.0))) ** 2)) * reach
    dark = 0.08 * _MOONLIGHT + 0.8 * cone[..., None] * _HEADLIGHT
    light = (1.0 - severity) + severity * dark
    noise = rng.normal(0.0, 6.0 * severity, frame.shape)
    return _to_frame(frame * light + noise, frame, severity)


def snow(frame: Frame, severity: float, rng: np.random.Generator) -> Frame:
    """Snow that lies, in patches, and flakes that fall."""
    lying = np.clip(severity * (0.5 + 0.7 * _patches(frame, rng)), 0.0, 0.95)[..., None]
    painted = frame * (1.0 - lying) + _SNOW_COLOUR * lying
    height, width = frame.shape[:2]
    for size, number in ((1, 300), (2, 60)):
        for row, column in rng.integers(0, (height - size, width - size), (round(number * severity), 2)):
            painted[row : row + size, column : column + size] = 250.0
    return _to_frame(painted, frame, severity)


WEATHERS: dict[str, Weather] = {"fog": fog, "night": night, "snow": snow}


def apply_weather(name: str, frame: Frame, severity: float, rng: np.random.Generator) -> Frame:
    """Paints the named weather over a frame; see the module for the arguments.

    Raises:
        InputError: unknown name, or a severity outside [0, 1].
    """
    if name not in WEATHERS:
        raise InputError(f"unknown weather {name!r}: expected one of {', '.join(WEATHERS)}")
    if not 0.0 <= severity <= 1.0:
        raise InputError(f"the severity of {name} is {severity}: expected a number in [0, 1]")
    return WEATHERS[name](frame, severity, rng)


def _grid(frame: Frame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rows, columns = np.mgrid[0 : frame.shape[0], 0 : frame.shape[1]]
    return rows.astype(np.float64), columns.astype(np.float64)


def _patches(frame: Frame, rng: np.random.Generator) -> NDArray[np.float64]:
    """A smooth random field in [0, 1], float64 [H, W]: bilinear between 6 x 6 random heights."""
    coarse = rng.random((7, 7))
    rows, columns = (np.linspace(0.0, 5.999, size) for size in frame.shape[:2])
    r, c = rows.astype(int), columns.astype(int)
    down, right = (rows - r)[:, None], (columns - c)[None, :]
    top = coarse[r][:, c] * (1 - right) + coarse[r][:, c + 1] * right
    bottom = coarse[r + 1][:, c] * (1 - right) + coarse[r + 1][:, c + 1] * right
    return top * (1 - down) + bottom * down


def _to_frame(painted: NDArray[np.float64], frame: Frame, severity: float) -> Frame:
    if severity == 0.0:
        return frame.copy()
    return np.clip(np.rint(painted), 0, 255).astype(np.uint8)
