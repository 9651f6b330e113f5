"""All runs of one fault, in a ROS domain of their own: ``lane.py --fault NAME ...``, one process."""

from __future__ import annotations

import argparse
import os
import sys
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

if TYPE_CHECKING:
    from fault_campaign.fault import Fault
    from fault_campaign.harness import Harness, Run

_PHASE_S = (0.1, 0.4)
_SPEED_M_S, _TURN_RAD_S = (0.3, 0.8), (0.2, 0.6)
_MOST_ATTEMPTS = 10
_LATE_S = 0.05  # half of the margin: where machine or harness are later than this, no bound is tried


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One run.

    Attributes:
        seed: Of the run.
        detected_ms: From the fault to the first zero or slower output; None where there was none.
        metres: Of both kinds of base, after the fault.
        radians: What they turned.
        bound_m: How far it may go; None where it need not stop.
        bound_rad: How far it may turn.
        level: Where the gate was in the end.
        violations: What must never happen, and did.
    """

    seed: int
    detected_ms: float | None = None
    metres: dict[str, float] = {}
    radians: dict[str, float] = {}
    bound_m: float | None = None
    bound_rad: float | None = None
    level: str = "?"
    violations: list[str]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All runs of a fault.

    Attributes:
        fault: Its name.
        outcomes: One for each run.
        skipped: Why there are none; None where there are.
        stalled: What happened in the runs that do not count, because the machine held processes up, or DDS the harness
            itself, and that were made again: the violations of each.
        interrupted: How often the robot stopped driving by itself in the moments before a fault, and was waited for.
        seconds: How long it all took.
    """

    fault: str
    outcomes: list[Outcome] = []
    skipped: str | None = None
    stalled: list[list[str]] = []
    interrupted: int = 0
    seconds: float = 0.0


class Lane:
    """Runs one fault.

    Args:
        name: Of the fault.
        bundle: That monitor and gate run with.
        scenery_path: What the camera sees, made by ``scenery.prepare``.
        domain: ROS domain.
    """

    def __init__(self, name: str, bundle: Path, scenery_path: Path, domain: int) -> None:
        from fault_campaign import scenery, table

        self._name, self._bundle, self._domain = name, bundle, domain
        self._fault: Fault = table.FAULTS[name]
        self._frames = scenery.load(scenery_path)
        self._interrupted = 0
        self._stalled: list[Run] = []

    def report(self, runs: int, seed: int) -> Report:
        """Run the fault so often, then judge."""
        from fault_campaign.harness import NotReady, Skip, step_back

        seeds = [zlib.crc32(f"{seed} {self._name} {index}".encode()) for index in range(runs)]
        began_s, done, trouble = time.monotonic(), [], []
        try:
            while len(done) < runs:
                done += self._with_new_processes(seeds[len(done) :])
        except Skip as skip:
            return Report(fault=self._name, skipped=str(skip))
        except NotReady as error:
            trouble = [Outcome(seed=seeds[len(done)], violations=[f"it could not start: {error}"])]
        step_back()
        outcomes = [self._judge(run, run_seed) for run, run_seed in zip(done, seeds, strict=False)]
        return Report(
            fault=self._name,
            outcomes=[*outcomes, *trouble],
            stalled=[self._judge(run, 0).violations for run in self._stalled],
            interrupted=self._interrupted,
            seconds=time.monotonic() - began_s,
        )

    def _with_new_processes(self, seeds: list[int]) -> list[Run]:
        """Runs until all are done, or until the processes do not come back from one."""
        from fault_campaign.harness import Harness

        runs = []
        with Harness(self._bundle, self._frames, self._fault.setup, self._domain) as harness:
            for seed in seeds:
                run, came_back = self._run_on_time(harness, seed)
                runs.append(run)
                if not came_back:
                    break
        return runs

    def _run_on_time(self, harness: Harness, seed: int) -> tuple[Run, bool]:
        """One run in which neither machine nor harness stalled; the last attempt counts in any case."""
        for _ in range(_MOST_ATTEMPTS - 1):
            run, came_back = self._run_once(harness, np.random.default_rng(seed))
            if self._fault.slow_machine or not came_back or run.late_s() <= _LATE_S:
                return run, came_back
            self._stalled.append(run)
        return self._run_once(harness, np.random.default_rng(seed))

    def _run_once(self, harness: Harness, rng: np.random.Generator) -> tuple[Run, bool]:
        from fault_campaign.harness import NotReady

        robot, fault = harness.robot, self._fault
        robot.speed, robot.turn = float(rng.uniform(*_SPEED_M_S)), float(rng.uniform(*_TURN_RAD_S))
        robot.phase, robot.rng = float(rng.uniform(0.0, 6.0)), np.random.default_rng(rng.integers(2**32))
        run = self._driving(harness, rng)
        fault.inject(run)
        time.sleep(max(0.0, run.fault_s + fault.lasts_s - time.monotonic()))
        run.end(silent=not fault.levels)
        robot.heal()
        fault.cure(run)
        harness.end_extras()
        try:
            harness.ready()
        except NotReady as error:
            run.violations.append(f"it did not come back: {error}")
            return run, False
        finally:
            robot.log = robot.log.next()
        return run, True

    def _driving(self, harness: Harness, rng: np.random.Generator) -> Run:
        """A run that begins with a robot that drives.

        Raises:
            NotReady: It never did for long.
        """
        from fault_campaign.harness import NotReady, Run

        for _ in range(_MOST_ATTEMPTS):
            harness.ready()
            harness.robot.log = harness.robot.log.next()
            run = Run(harness, rng)
            time.sleep(float(rng.uniform(*_PHASE_S)))
            if run.drives():
                return run
            self._interrupted += 1
        raise NotReady("it stopped driving by itself, again and again")

    def _judge(self, run: Run, seed: int) -> Outcome:
        from fault_campaign import verdicts

        fault = self._fault
        fault.check(run)
        bound = None if fault.stop_s is None else verdicts.farthest(run, fault.stop_s)
        went = verdicts.ways(run)
        return Outcome(
            seed=seed,
            detected_ms=verdicts.detected_ms(run),
            metres={kind: way.metres for kind, way in went.items()},
            radians={kind: way.radians for kind, way in went.items()},
            bound_m=None if bound is None else bound.metres,
            bound_rad=None if bound is None else bound.radians,
            level=run.final_level,
            violations=verdicts.violations(run, fault),
        )


def main() -> int:
    """Run one fault and write its report."""
    parser = argparse.ArgumentParser(description="All runs of one fault; tools/bench/faults.py runs them all.")
    parser.add_argument("--fault", required=True)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--scenery", type=Path, required=True, help="made by faults.py")
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--domain", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    from edge_bdl_firmware.ros.process import TRANSPORTS

    # The robot's own node takes the transports of ours: what it is held up by in others is no fault of theirs.
    os.environ.update([("ROS_DOMAIN_ID", str(options.domain)), TRANSPORTS])
    import rclpy

    from fault_campaign.harness import come_first

    if not come_first():
        print("not permitted to run before others: their load counts as the product's", file=sys.stderr)
    rclpy.init()
    lane = Lane(options.fault, options.bundle, options.scenery, options.domain)
    report = lane.report(options.runs, options.seed)
    rclpy.try_shutdown()
    options.out.write_bytes(msgspec.json.encode(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
