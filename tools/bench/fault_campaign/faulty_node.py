"""The real monitor or gate, with an engine and callbacks that do what a file says: ``faulty_node.py NODE FILE ...``.

Everything else in them is what ``edge-bdl ros-monitor`` and ``ros-gate`` run. A word in the file takes effect with the
next prediction, image or tick, and ends when the word does.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edge_bdl.engines.base import Array, Arrays, Engine, Graph, GraphName, Held
from edge_bdl.manifest import DENSITY_OUTPUT, MEMBERS_OUTPUT
from edge_bdl.runtime import Runtime

SLOW_S = 0.4


class Control:
    """The word in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def word(self) -> str:
        """The present one."""
        return self._path.read_text()

    def stick(self, word: str) -> None:
        """Do not return while this is the word."""
        while self.word() == word:
            time.sleep(0.01)

    def strike(self) -> None:
        """What a callback does wrong: never come back, or raise."""
        self.stick("stuck")
        if self.word() == "exception":
            raise RuntimeError("the fault campaign says so")


class SteppedClock:
    """A ROS clock that somebody has set by so many seconds: the word is ``clock SECONDS``."""

    def __init__(self, clock: Any, control: Control) -> None:
        self._clock, self._control = clock, control

    def __getattr__(self, name: str) -> Any:
        return getattr(self._clock, name)

    def now(self) -> Any:
        """The time, as it is told."""
        from rclpy.duration import Duration

        name, _, seconds = self._control.word().partition(" ")
        return self._clock.now() + Duration(seconds=float(seconds) if name == "clock" else 0.0)


class FaultyEngine:
    """A real engine whose runs go wrong."""

    def __init__(self, engine: Engine, control: Control) -> None:
        self.name, self.version = engine.name, engine.version
        self._engine, self._control = engine, control

    def graph(self, name: GraphName) -> Graph:
        """See `Engine.graph`."""
        return FaultyGraph(self._engine.graph(name), self._control)


class FaultyGraph:
    """A real graph whose outputs are spoilt."""

    def __init__(self, graph: Graph, control: Control) -> None:
        self._graph, self._control = graph, control

    def hold(self, constants: Arrays) -> Held:
        """See `Graph.hold`."""
        return self._graph.hold(constants)

    def run(self, inputs: Arrays, held: Held | None = None) -> Mapping[str, Array]:
        """See `Graph.run`."""
        word = self._control.word()
        self._control.stick("hang")
        if word == "slow":
            time.sleep(SLOW_S)
        if word == "raise":
            raise RuntimeError("the fault campaign says so")
        outputs = self._graph.run(inputs, held)
        if word == "nan":
            outputs[MEMBERS_OUTPUT].flat[-1] = np.nan
        elif word == "nan score":
            outputs[DENSITY_OUTPUT][:] = np.nan
        elif word == "identical":
            outputs[MEMBERS_OUTPUT][:] = outputs[MEMBERS_OUTPUT][0]
        return outputs


def make_node(name: str, control: Control) -> Any:
    """The node, which fails when it is told to."""
    if name == "gate":
        from edge_bdl_firmware.ros.gate_node import GateNode

        class FaultyGate(GateNode):
            def _tick(self) -> None:
                control.strike()
                super()._tick()

        return FaultyGate()

    from edge_bdl_firmware.ros.monitor_node import MonitorNode

    class FaultyMonitor(MonitorNode):
        def get_clock(self) -> Any:
            return SteppedClock(super().get_clock(), control)

        def _on_image(self, message: Any) -> None:
            control.strike()
            super()._on_image(message)

    def open_runtime(*arguments: Any, **options: Any) -> Runtime:
        runtime = Runtime.open(*arguments, **options)
        runtime.engine = FaultyEngine(runtime.engine, control)
        return runtime

    return FaultyMonitor(open_runtime=open_runtime)


if __name__ == "__main__":
    from edge_bdl_firmware.ros.process import run

    sys.exit(run(lambda: make_node(sys.argv[1], Control(Path(sys.argv[2]))), sys.argv[3:]))
