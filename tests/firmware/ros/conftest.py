"""What the tests of the nodes share: a ROS domain of their own, and a robot around the nodes under test."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edge_bdl_firmware.local.channel import Inbox

from .robot import Robot


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[int]:
    """A ROS domain that no other test of this machine uses now; processes inherit it."""
    folder = Path(tempfile.gettempdir()) / f"edge-bdl-domains-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for offset in range(100):
        # Domains from 102 on share their ports with whatever the kernel gives out.
        number = 1 + (os.getpid() + offset) % 100
        with (folder / str(number)).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            monkeypatch.setenv("ROS_DOMAIN_ID", str(number))
            monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
            monkeypatch.setenv("ROS_LOG_DIR", str(tmp_path))
            monkeypatch.setenv("OMP_NUM_THREADS", "1")
            monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
            yield number
            return
    raise AssertionError("every ROS domain is in use")


@pytest.fixture
def own_transports(domain: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our nodes choose their transports: within a discovery range of one machine ROS chooses."""
    monkeypatch.delenv("ROS_AUTOMATIC_DISCOVERY_RANGE")


@contextmanager
def node(name: str) -> Iterator[tuple[Any, Any]]:
    """A node of this process, with its executor."""
    import rclpy
    from rclpy.context import Context
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.node import Node

    context = Context()
    rclpy.init(context=context)
    made = Node(name, context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(made)
    try:
        yield made, executor
    finally:
        executor.shutdown(0.0)
        made.destroy_node()
        rclpy.shutdown(context=context)


@pytest.fixture
def robot(domain: int, sockets: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Robot]:
    monkeypatch.setenv("EDGE_BDL_SOCKETS", str(sockets))
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    with node("robot") as made, Inbox(sockets, "watch.robot") as inbox:
        robot = Robot(*made, tmp_path, inbox)
        try:
            yield robot
        finally:
            for process in robot.processes:
                process.kill()
                process.wait()
