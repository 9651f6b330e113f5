"""Which members a prediction uses, where they come from, and how many fit into the time there is.

Masks and normal draws beyond the bank come from Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2,
3"), a counter-based generator: member m of input i is a pure function of (seed, i, m), the same everywhere and in any
order.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_bdl.errors import InputError
from edge_bdl.manifest import Bank, Form
from edge_bdl.stored_tensors import floats

_PACE_WINDOW = 8


def draw_keep(bank: Bank, first: int, count: int) -> dict[str, NDArray[np.bool_]]:
    """Draw fresh masks.

    Member m of input number i keeps the units whose 64-bit draw is at least ``rate * 2**64``; the draws are
    ``numpy.random.Philox(key=seed, counter=[0, 0, i, m]).random_raw(n)``.

    Args:
        bank: Gives the seed, and per input the rate and the shape of one member.
        first: Index of the first member.
        count: How many members.

    Returns:
        By input name, bool [count, *shape]: True is a kept unit.
    """
    keep = {}
    for number, source in enumerate(bank.inputs):
        units = int(np.prod(source.shape, dtype=np.int64))
        threshold = np.uint64(round(source.rate * 2**64))
        rows = np.empty((count, units), np.bool_)
        for row, member in zip(rows, range(first, first + count), strict=True):
            draws = np.random.Philox(key=bank.seed, counter=[0, 0, number, member]).random_raw(units)
            np.greater_equal(draws, threshold, out=row)
        keep[source.name] = rows.reshape(count, *source.shape)
    return keep


def draw_normal(bank: Bank, first: int, count: int) -> dict[str, NDArray[np.float32]]:
    """Draw fresh numbers from N(0, 1).

    The 64-bit draws are those of `draw_keep`, their upper 53 bits a number in [0, 1). Two of them, u and v, give two
    normal numbers sqrt(-2 log(1 - u)) cos(2 pi v) and ... sin(2 pi v) (Box and Muller 1958): numpy's own normal draws
    may change from version to version.

    Args:
        bank: Gives the seed, and per input the shape of one member.
        first: Index of the first member.
        count: How many members.

    Returns:
        By input name, float32 [count, *shape].
    """
    drawn = {}
    for number, source in enumerate(bank.inputs):
        units = math.prod(source.shape)
        raw = np.empty((count, 2, -(-units // 2)), np.uint64)
        for row, member in zip(raw, range(first, first + count), strict=True):
            draws = np.random.Philox(key=bank.seed, counter=[0, 0, number, member]).random_raw(row.size)
            row[:] = draws.reshape(row.shape)
        uniform = (raw >> np.uint64(11)) * 2.0**-53
        radius, angle = np.sqrt(-2.0 * np.log1p(-uniform[:, 0])), 2.0 * math.pi * uniform[:, 1]
        normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)[:, :units]
        drawn[source.name] = normal.astype(np.float32).reshape(count, *source.shape)
    return drawn


def masks(bank: Bank, keep: Mapping[str, NDArray[np.bool_]]) -> dict[str, NDArray[np.float32]]:
    """Masks as the graphs take them: float32, ``scale`` where kept, 0 where dropped."""
    return {source.name: keep[source.name] * np.float32(source.scale) for source in bank.inputs}


def pack(keep: Mapping[str, NDArray[np.bool_]]) -> dict[str, NDArray[np.uint8]]:
    """Masks as the bundle stores them: uint8 [members, ceil(units / 8)], most significant bit first."""
    return {name: np.packbits(rows.reshape(len(rows), -1), axis=1) for name, rows in keep.items()}


def unpack(bank: Bank, packed: Mapping[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.bool_]]:
    """What `pack` packed, bool [members, *shape] by input name."""
    keep = {}
    for source in bank.inputs:
        rows = packed[source.name]
        units = int(np.prod(source.shape, dtype=np.int64))
        keep[source.name] = np.unpackbits(rows, axis=1, count=units).astype(np.bool_).reshape(len(rows), *source.shape)
    return keep


class Members:
    """The members of one bundle, float32: first those of the bank, then, but for weights, fresh ones.

    Args:
        form: Of the bundle.
        bank: Its description.
        stored: The arrays of ``bank.safetensors``.
    """

    def __init__(self, form: Form, bank: Bank, stored: Mapping[str, NDArray[Any]]) -> None:
        self.bank = bank
        self.weights = lru_cache(maxsize=32)(self._weights)
        self._fresh = None if bank.fixed else _FRESH.get(form)
        inputs = () if bank.built_in else bank.inputs
        self._names = tuple(source.name for source in inputs)
        self._stored = masks(bank, unpack(bank, stored)) if form == "mask_bank" else stored
        # Class probabilities of a Gaussian head need no samples at all.
        self._fewest = 0 if form in ("gaussian_head", "moments") and bank.inputs else 1

    def check(self, samples: int) -> None:
        """See that a prediction may use so many members.

        Raises:
            InputError: It is not a whole number of at least 1 (0 where a Gaussian head has classes), or more than a
                bank of weights or of fixed masks holds.
        """
        if isinstance(samples, bool) or not isinstance(samples, (int, np.integer)) or samples < self._fewest:
            raise InputError(f"samples must be a whole number of at least {self._fewest}, got {samples!r}")
        if samples > self.bank.members and self._fresh is None:
            what = "masks" if self.bank.fixed else "sets of weights"
            raise InputError(f"this bundle holds {self.bank.members} {what} and no more, asked for {samples}")

    def take(self, first: int, count: int) -> dict[str, NDArray[np.float32]]:
        """Members ``first`` to ``first + count - 1``, [count, *shape] by input name; none where graphs hold them.

        Past the end of a bank of weights or of fixed masks the last member repeats; such rows are padding, to be cut
        off.
        """
        stop = first + count
        inside = self._rows(slice(first, stop))
        missing = stop - max(first, self.bank.members)
        if missing <= 0:
            return inside
        if self._fresh is not None:
            more = self._fresh(self.bank, stop - missing, missing)
        else:
            more = {name: np.repeat(rows, missing, axis=0) for name, rows in self._rows(slice(-1, None)).items()}
        return {name: np.concatenate([inside[name], more[name]]) for name in inside}

    def _rows(self, rows: slice) -> dict[str, NDArray[np.float32]]:
        return {name: floats(self._stored, name, rows) for name in self._names}

    def _weights(self, samples: int) -> NDArray[np.float64]:
        """Weight of each of the first ``samples`` members, float64 [samples], sum 1."""
        given = np.asarray(self.bank.member_weights.get(samples, np.ones(samples)), np.float64)
        return given / float(given.sum())


def _fresh_masks(bank: Bank, first: int, count: int) -> dict[str, NDArray[np.float32]]:
    return masks(bank, draw_keep(bank, first, count))


_FRESH: dict[Form, Callable[[Bank, int, int], dict[str, NDArray[np.float32]]]] = {
    "mask_bank": _fresh_masks,
    "gaussian_head": draw_normal,
    "moments": draw_normal,
}


class Pace:
    """What one step has cost lately, in seconds: the slowest of the last few, because a deadline is a promise."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=_PACE_WINDOW)

    def record(self, seconds: float) -> None:
        """Take note of one step."""
        self._recent.append(seconds)

    @property
    def estimate_s(self) -> float:
        """Seconds to allow for the next step; 0 before the first."""
        return max(self._recent, default=0.0)
