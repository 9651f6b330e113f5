"""What the tests of the vehicle's processes share."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from edge_bdl.bundle import Bundle
from edge_bdl_firmware.messages import Assessment, boot_id

# A robot has what it needs and no more; what needs more is not even collected there.
collect_ignore = [
    *([] if importlib.util.find_spec("rclpy") else ["ros", "test_build_messages.py"]),
    *([] if importlib.util.find_spec("mcap") else ["recorder"]),
]

MASKS = Path(__file__).parents[1] / "bundles" / "tiny_masks.ebdl"

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def sockets() -> Iterator[Path]:
    """A folder with a short name: that of a Unix socket may have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="ebdl-") as folder:
        yield Path(folder) / "s"


@contextmanager
def process(*line: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "edge_bdl.cli", *map(str, line)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NOTIFY")}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as started:
        try:
            yield started
        finally:
            started.kill()


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts verbs of edge-bdl as processes; kills at the end what still runs."""
    with ExitStack() as stack:
        yield lambda *line: stack.enter_context(process(*line))


@pytest.fixture(scope="session")
def masks() -> Bundle:
    return Bundle.open(MASKS)


@pytest.fixture
def good(masks: Bundle) -> Callable[..., Assessment]:
    """Assessments below every threshold of ``tiny_masks``; fields may be overwritten."""
    limits = {score.name: score.at(masks.manifest.bank.members) for score in masks.manifest.policy.scores}
    scores = {name: limit.slow * 0.5 for name, limit in limits.items() if limit is not None}

    def build(sequence: int = 0, received_s: float | None = None, **fields: object) -> Assessment:
        received_s = time.monotonic() if received_s is None else received_s
        whole: dict[str, object] = {
            "sequence": sequence, "stamp_ns": sequence + 1, "received_s": received_s, "boot_id": boot_id(),
            "bundle": masks.digest, "scores": scores, "samples": masks.manifest.bank.members,
        }  # fmt: skip
        return Assessment(**{**whole, **fields})

    return build
