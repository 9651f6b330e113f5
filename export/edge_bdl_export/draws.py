"""Draws: members of a posterior over weights, drawn when they are needed and held without what they share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

StateDict = Mapping[str, Tensor]

# Members to choose from, or to measure against.
POOL = 256
# What a pool may take in memory.
_MOST_BYTES = 2 << 30
# Members held at once of those that are only measured against.
_BLOCK = 16


class Draws:
    """Members, from first to last.

    Args:
        sample: Draws the next members: ``(generator, n) -> n state dicts``; of a finite posterior, all at once.
        size: How many there are; None if there is no end to them.
        seed: Of the generator.
        mean: The posterior's mean; None where its members alone tell it.
    """

    def __init__(
        self,
        sample: Callable[[torch.Generator, int], Sequence[StateDict]],
        size: int | None,
        seed: int = 0,
        mean: StateDict | None = None,
    ) -> None:
        self.size = size
        self.mean = mean
        self._sample = sample
        self._generator = torch.Generator().manual_seed(seed)
        self._first: StateDict | None = None

    @classmethod
    def of(cls, members: Sequence[StateDict]) -> Draws:
        """Members that a caller has listed, in their order."""
        return cls(lambda generator, count: members[:count], len(members))

    def pool(self, samples: int, wanted: int) -> list[StateDict]:
        """The first members.

        Args:
            samples: At least so many, if there are.
            wanted: So many, or fewer where they would take more than 2 GiB; of a finite posterior, all that do not.
        """
        if self.size is not None:
            samples, wanted = min(samples, self.size), self.size
        # In one go: a posterior may spread what is drawn at once over its parts.
        pool = self._next(wanted if self.size is not None else samples)
        each = sum(value.nbytes for name, value in pool[-1].items() if value is not pool[0].get(name)) if pool else 0
        wanted = max(samples, min(wanted, _MOST_BYTES // max(1, each)))
        while len(pool) < wanted:
            pool += self._next(1)
        return pool[:wanted]

    def others(self, pool: Sequence[StateDict], count: int = POOL) -> Iterator[Sequence[StateDict]]:
        """Members to measure against, a block at a time: ``count`` that are not in the pool, or all that there are."""
        if self.size is not None:
            yield from (pool[start : start + _BLOCK] for start in range(0, len(pool), _BLOCK))
        else:
            for start in range(0, count, _BLOCK):
                yield [member for _ in range(min(_BLOCK, count - start)) for member in self._next(1)]

    def _next(self, count: int) -> list[StateDict]:
        """The next members, each with the first one's tensors where they are equal: only what is random is held."""
        drawn = self._sample(self._generator, count)
        members = [{name: value.detach().cpu() for name, value in member.items()} for member in drawn]
        if self._first is None and members:
            self._first = members[0]
        return [{name: self._shared(name, value) for name, value in member.items()} for member in members]

    def _shared(self, name: str, value: Tensor) -> Tensor:
        first = self._first.get(name) if self._first else None
        same = first is not None and first.dtype == value.dtype and torch.equal(first, value)
        return first if same else value
