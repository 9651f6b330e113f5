"""What every study offers: an experiment of this field, run again, with its figures beside the published ones.

A study's file declares its parts in one order: config, data, network, run, plots.
"""

from __future__ import annotations

import math
import statistics
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec

from edge_bdl.errors import InputError
from edge_bdl_train.progress import Stage, silent

FIGURES_FILE = "figures.json"


class Figure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One measured quantity.

    Attributes:
        what: what was measured, with its unit.
        values: one per repetition: seed, split or data set.
        better: which way is good; ``None`` where neither is, or where there is nothing to compare with.
        published: what to compare with.
        source: where that was published, or who set it as a goal.
        differs: how ours was measured otherwise.
    """

    what: str
    values: tuple[float, ...]
    better: Literal["lower", "higher"] | None = None
    published: float | None = None
    source: str = ""
    differs: str = ""

    def __post_init__(self) -> None:
        """Checks that there is something to average, and somewhere that a published number comes from."""
        if not self.values:
            raise InputError(f"figure {self.what!r} has no value: measure it at least once")
        if self.published is not None and not self.source:
            raise InputError(f"figure {self.what!r} has a published value: say where it comes from")

    @property
    def mean(self) -> float:
        """Mean over the repetitions."""
        return statistics.fmean(self.values)

    @property
    def standard_error(self) -> float | None:
        """Of the mean; ``None`` after a single repetition."""
        if len(self.values) < 2:
            return None
        return statistics.stdev(self.values) / math.sqrt(len(self.values))

    @property
    def reached(self) -> bool | None:
        """Is it as good as published, or within one standard error of that? ``None``: there is no such question."""
        if self.better is None or self.published is None:
            return None
        slack = self.standard_error or 0.0
        if self.better == "lower":
            return self.mean - slack <= self.published
        return self.mean + slack >= self.published


class Study(ABC):
    """An experiment that prints figures.

    Args:
        config: an instance of ``config_type``; its defaults when None.
        data: folder with the data, for a study with ``reads_data``.

    Raises:
        InputError: it makes its own data, or knows where it is, and was given some.
    """

    name: ClassVar[str]
    config_type: ClassVar[type]
    reads_data: ClassVar[bool] = False

    def __init__(self, config: Any = None, data: Path | None = None) -> None:
        if data is not None and not self.reads_data:
            raise InputError(f"recipe {self.name!r} finds its own data: leave {data} out")
        self.config = self.config_type() if config is None else config
        self.data = data

    @classmethod
    @abstractmethod
    def quick_config(cls) -> Any:
        """A config that takes seconds, to see that everything works; its figures mean nothing."""

    @abstractmethod
    def run(self, out: Path, seed: int, stage: Stage = silent) -> list[Figure]:
        """Runs the experiment.

        Args:
            out: an existing folder, for plots and whatever else is worth keeping.
            seed: the same one gives the same figures, on one machine with one number of threads.
            stage: opens a progress bar.
        """

    def record(self, out: Path, *, seed: int = 0, stage: Stage = silent) -> list[Figure]:
        """Runs the experiment and writes its figures to ``FIGURES_FILE`` in ``out``, which is made if need be."""
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write to {out} ({error.strerror}): give a folder") from error
        figures = self.run(out, seed, stage)
        (out / FIGURES_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(figures)))
        return figures


def read_figures(out: Path) -> list[Figure]:
    """The figures that a finished study left in its folder.

    Raises:
        InputError: there are none, or they cannot be read.
    """
    path = out / FIGURES_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Figure])
    except (OSError, msgspec.MsgspecError) as error:
        raise InputError(f"{path} holds no figures ({error}): run the study again") from error


def pool(runs: Sequence[Sequence[Figure]]) -> list[Figure]:
    """The figures of the same study under several seeds, the repetitions of each put together, in their first order."""
    pooled: dict[str, Figure] = {}
    for figure in (figure for run in runs for figure in run):
        seen = pooled.get(figure.what)
        values = figure.values if seen is None else seen.values + figure.values
        pooled[figure.what] = msgspec.structs.replace(seen or figure, values=values)
    return list(pooled.values())


def rounded(value: float | None, digits: int = 3) -> str:
    """A number for a table: so many significant digits, never in exponents; nothing for None."""
    if value is None or value == 0.0 or not math.isfinite(value):
        return "" if value is None else f"{value:g}"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def with_error(figure: Figure) -> str:
    """The mean, and its standard error to the same decimal place."""
    error = figure.standard_error
    if error is None or error == 0.0:
        return rounded(figure.mean)
    decimals = min(6, max(0, 1 - math.floor(math.log10(error))))
    return f"{figure.mean:.{decimals}f} ± {error:.{decimals}f}"
