"""The machine, the network, and evidence that will not settle."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from geometry_msgs.msg import Twist
from rclpy.qos import QoSProfile, ReliabilityPolicy

from edge_bdl_firmware.ros import topics
from fault_campaign.bounds import HANDOFF_S, NO_COMMAND_S, SILENCE_S, START_S
from fault_campaign.fault import HANDOFF, HOLD, NOMINAL, STOP, Fault
from fault_campaign.harness import Run, Setup
from fault_campaign.process import comes_up_stopped, restart_gate

_HANDOFF = "one camera period, the ramp of a second, one tick and the margin"
_LATE_S = 1.0
_WRITTEN_S = 1.5  # the gate tries once a second to write what it could not write
_MEMORY_MB = 1500
_SLOW_BUDGET_S = 3.0


def _disk_full(run: Run) -> None:
    """Nothing can be added to any file any more; then the robot must hand over, and dies of it: does it remember?"""
    for folder in (run.harness.state_folder, run.harness.recordings):
        _fill(folder / "fill")
    time.sleep(0.3)
    run.check(run.level() == "NOMINAL", f"a full disk alone led to {run.level()}")
    _hand_over_and_restart(run)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def _disk_freed(run: Run) -> None:
    for folder in (run.harness.state_folder, run.harness.recordings):
        (folder / "fill").unlink(missing_ok=True)


def _read_only(run: Run) -> None:
    for folder in (run.harness.state_folder, run.harness.recordings):
        _remount(folder, "ro")
    _hand_over_and_restart(run)


def _writable(run: Run) -> None:
    for folder in (run.harness.state_folder, run.harness.recordings):
        _remount(folder, "rw")
    time.sleep(_WRITTEN_S)
    run.harness.kill("gate")  # and the next one must still know


def _remount(folder: Path, mode: str) -> None:
    end_s = time.monotonic() + 5.0  # the recorder may still be writing
    while subprocess.run(["mount", "-o", f"remount,{mode}", str(folder)], capture_output=True).returncode:
        if time.monotonic() > end_s:
            raise TimeoutError(f"{folder} cannot be made {mode}")
        time.sleep(0.1)


def _hand_over_and_restart(run: Run) -> None:
    run.strike()
    run.robot.see(run.robot.scenery.alarming)
    if run.until_level("HANDOFF", within_s=1.0):
        time.sleep(0.5)
        comes_up_stopped(run, restart_gate(run))


def _children(*codes: str) -> Callable[[Run], None]:
    def inject(run: Run) -> None:
        run.strike()
        for code in codes:
            run.harness.run_extra("-c", code)

    return inject


_BUSY = "import time\nend = time.monotonic() + 20\nwhile time.monotonic() < end: pass"
_HUNGRY = (
    "import time\nblocks = []\n"
    f"for _ in range({_MEMORY_MB // 50}):\n blocks.append(bytearray(b'x') * (50 * 2**20)); time.sleep(0.01)\n"
    "end = time.monotonic() + 20\n"
    "while time.monotonic() < end:\n"
    " for block in blocks: block[::4096] = bytes(len(block[::4096]))"
)


def _qos_mismatch(run: Run) -> None:
    """The controller offers best effort from now on, and the gate asks for reliable: nothing arrives."""
    robot = run.robot
    best_effort = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
    run.strike()
    robot.heard = False
    old, robot.commands = robot.commands, robot.create_publisher(Twist, topics.CMD_VEL_IN.name, best_effort)
    robot.destroy_publisher(old)


def _qos_match(run: Run) -> None:
    robot = run.robot
    old, robot.commands = robot.commands, robot.create_publisher(Twist, *topics.CMD_VEL_IN)
    robot.destroy_publisher(old)


def _late_joiner(run: Run) -> None:
    """Whoever comes late to the gate's state learns at once how things stand, and a late base hears commands."""
    run.strike()
    joiner = run.harness.run_extra(str(Path(__file__).parent / "late_joiner.py"))
    run.until("a late joiner has heard state and commands", lambda: joiner.poll() is not None, 12.0)
    run.check(joiner.poll() == 0, "a late joiner heard nothing")


def _flapping(run: Run) -> None:
    """Odd and good by turns, so fast that SLOW is never released: somebody must be asked."""
    both = (run.robot.scenery.odd, run.robot.scenery.good)
    period = int(run.rng.integers(2, 9))
    run.strike()
    run.robot.frames = lambda index: (frames := both[index % period == 0])[index % len(frames)]
    run.until_level("HANDOFF", within_s=_SLOW_BUDGET_S + 2.0)


def _spike(run: Run) -> None:
    """One frame, a little odd."""
    robot, usual = run.robot, run.robot.frames
    odd = robot.scenery.odd[int(run.rng.integers(len(robot.scenery.odd)))]
    shown: list[int] = []

    def frames(index: int) -> np.ndarray:
        shown.append(index)
        return odd if len(shown) == 1 else usual(index)

    run.strike()
    robot.frames = frames


def _check_spike(run: Run) -> None:
    limits = run.harness.slow_limits
    odd = [said for _, said in run.log.assessments if any(said.scores.get(name, 0.0) > limits[name] for name in limits)]
    told = "; ".join(f"{said.received_s - run.fault_s:.3f} s, {said.scores}" for said in odd)
    run.check(len(odd) == 1, f"{len(odd)} frames were odd instead of one ({told}): the fault was none")


def _discovered_late(run: Run) -> None:
    """Everything is started anew, the camera and the monitor long after the gate; it must wait for them, standing."""
    harness, robot = run.harness, run.robot
    run.strike()
    for name in ("monitor", "gate"):
        harness.kill(name)
    robot.camera_paused = True
    known = len(run.log.steps)
    harness.start("gate")
    run.until("the gate speaks", lambda: len(run.log.steps) > known, START_S)
    time.sleep(float(run.rng.uniform(0.2, _LATE_S)))
    harness.start("monitor")
    time.sleep(float(run.rng.uniform(0.0, _LATE_S)))
    moved = [step for step in run.log.steps[known:] if any(step.output) or step.level != "HOLD"]
    run.check(not moved, f"the gate did not wait: {moved[:1]}")
    run.calm_s = time.monotonic()
    robot.camera_paused = False
    run.until_level("NOMINAL", within_s=START_S)


_DISKS = Setup(small_disks=True, recorder=True)

FAULTS = {
    "disk full": Fault(
        _disk_full, STOP, HANDOFF_S, _HANDOFF, watch_s=1.8, bad_evidence=True, cure=_disk_freed, setup=_DISKS
    ),
    "disk read-only": Fault(
        _read_only, STOP, HANDOFF_S, _HANDOFF, watch_s=1.8, bad_evidence=True, cure=_writable, setup=_DISKS
    ),
    "CPU hog": Fault(_children(_BUSY, _BUSY, _BUSY, _BUSY), NOMINAL | HOLD, watch_s=2.5, slow_machine=True),
    "memory pressure": Fault(_children(_HUNGRY), NOMINAL | HOLD, watch_s=2.5, slow_machine=True),
    "QoS mismatch": Fault(
        _qos_mismatch, NOMINAL, NO_COMMAND_S, "command timeout, one tick and the margin", cure=_qos_match
    ),
    "late joiner": Fault(_late_joiner, NOMINAL, watch_s=0.5, must_drive=True),
    "flapping evidence": Fault(_flapping, HANDOFF, watch_s=0.0),
    "one-frame spike": Fault(_spike, NOMINAL, watch_s=1.0, must_drive=True, check=_check_spike),
    "discovered late": Fault(
        _discovered_late, NOMINAL, SILENCE_S, "assessment timeout, one tick and the margin", watch_s=0.0
    ),
}
