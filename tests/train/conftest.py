"""What all tests of training share: one thread, and the same initial weights."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

# The networks here are small: a second thread would mostly wait, above all where other tests run beside it.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_initial_weights() -> Iterator[None]:
    """Networks that a test makes start the same way every time, and the global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
