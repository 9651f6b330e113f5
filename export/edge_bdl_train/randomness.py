"""Randomness from our own generators where torch only knows its global one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def lent(generator: torch.Generator) -> Iterator[None]:
    """Torch's global CPU generator, seeded from ours; afterwards it is as it was. On a GPU it is only seeded."""
    seed, lender = int(torch.randint(2**62, (), generator=generator)), torch.random.default_generator
    before = lender.get_state()
    # torch.manual_seed does the same, but until CUDA is in use it keeps a printed stack of every call: 0.8 ms, a leak.
    lender.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    try:
        yield
    finally:
        lender.set_state(before)
