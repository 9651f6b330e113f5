"""Randomness from our own generators where torch only knows its global one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def lent(generator: torch.Generator) -> Iterator[None]:
    """Torch's global generators, seeded from ours; afterwards they are as they were."""
    with from_seed(int(torch.randint(2**62, (), generator=generator))):
        yield


@contextmanager
def from_seed(seed: int) -> Iterator[None]:
    """Torch's global generators, seeded; afterwards they are as they were."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        # As torch.manual_seed, which until CUDA is in use keeps a printed stack of every call: 0.8 ms, and a leak.
        torch.random.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed_all(seed)
        yield
