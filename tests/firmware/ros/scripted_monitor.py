"""The real monitor node on an engine that does as it is told.

    python scripted_monitor.py BUNDLE GOOD FAULT [--ros-args ...]

After its warm-up the engine runs well GOOD times, and then has the fault for ever. With the fault "slow" it is slow.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

from edge_bdl.bundle import Bundle
from edge_bdl.engines.scripted import ScriptedEngine
from edge_bdl.runtime import Runtime
from edge_bdl_firmware.ros.monitor_node import MonitorNode
from edge_bdl_firmware.ros.process import run

_WARM_UP = 3
_SLOW_S = 0.05


def main(bundle: str, good: str, fault: str, *ros: str) -> int:
    def open_runtime(opened: Bundle, engine: str, threads: int, samples: int | None) -> Runtime:
        slow = fault == "slow"
        faults = itertools.chain(
            itertools.repeat(None, _WARM_UP + int(good)), itertools.repeat(None if slow else fault)
        )
        latency_s = {"fused": _SLOW_S if slow else 0.0}
        scripted = ScriptedEngine(opened.folder, opened.manifest, faults=faults, latency_s=latency_s)
        return Runtime(opened.manifest, scripted, opened.bank(), samples=samples)

    return run(lambda: MonitorNode(Path(bundle), open_runtime), ros)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
