"""Seattle's weather, a row a day from 2012 to 2015, measured by NOAA; from npm's package vega-datasets.

Fetched once, into the user's cache:  python -m edge_bdl_train.data.weather
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_bdl_train.data.npm import CACHE, NpmPackage, read_checked

WEATHER_FOLDER = CACHE / "weather"
_FILE = "seattle-weather.csv"
_SHA256 = "0845078a290b48e3149ab8639966824110a251db4e06fc144c06ebb534af23be"
PACKAGE = NpmPackage(
    name="vega-datasets@2.11.0",
    sha256="d888f3d9f0a9799a2f6066e5dbe5ed40eb86f75b4568b493d9bdd55e9652050a",
    members={f"package/data/{_FILE}": _SHA256},
)
_COLUMNS = ("temp_max", "temp_min", "precipitation", "wind")


class Weather(NamedTuple):
    """One row per day.

    Attributes:
        days: datetime64[D] [N], without a gap.
        measured: float64 [N, 4]: highest and lowest temperature in degrees Celsius, precipitation in mm, wind in m/s.
    """

    days: NDArray[np.datetime64]
    measured: NDArray[np.float64]


def load_weather(folder: Path = WEATHER_FOLDER) -> Weather:
    """All 1,461 days.

    Raises:
        InputError: the file is missing or damaged.
    """
    remedy = "fetch it with `python -m edge_bdl_train.data.weather`, which needs npm"
    data = read_checked(folder / _FILE, _SHA256, remedy)
    rows = list(csv.DictReader(data.decode().splitlines()))
    days = np.array([row["date"].replace("/", "-") for row in rows], "datetime64[D]")
    return Weather(days, np.array([[float(row[column]) for column in _COLUMNS] for row in rows]))


if __name__ == "__main__":
    PACKAGE.fetch(WEATHER_FOLDER)
    weather = load_weather()
    print(f"{WEATHER_FOLDER}: {len(weather.days)} days, {weather.days[0]} to {weather.days[-1]}")
