"""The fault campaign: every fault many times, on the real monitor, gate and guard, with a simulated base.

    .venv/bin/python tools/bench/faults.py [--runs 20] [--only NAME ...] [--jobs 2] [--json FILE] [--markdown FILE]

Each fault has a ROS domain and processes of its own, and runs of seeded speed, phase, noise and moment. The bounds on
the distance are made of the times that the product promises, see fault_campaign/bounds.py. Needs demo/carracing.ebdl.
Exit code 1 where something happened that must never happen.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import IO

import msgspec
from rich.console import Console

from edge_bdl.machine import read_machine
from fault_campaign import scenery, table
from fault_campaign.lane import Outcome, Report
from fault_campaign.report import markdown, rich_table, totals

_LANE = Path(__file__).parent / "fault_campaign" / "lane.py"
_DOMAINS = 100  # those above share their ports with whatever the kernel gives out
_PATIENCE_S = 900.0  # for one fault
_WIDE = 170  # columns of a table that goes into a file


class Campaign:
    """Faults side by side.

    Args:
        bundle: That monitor and gate run with.
        runs: Of each fault.
        seed: Of all that is random.
        jobs: So many faults at once.
        folder: For what is passed on between processes.
    """

    def __init__(self, bundle: Path, runs: int, seed: int, jobs: int, folder: Path) -> None:
        self._bundle, self._runs, self._seed, self._jobs, self._folder = bundle, runs, seed, jobs, folder
        self._scenery = folder / "scenery.npz"
        self._domains: SimpleQueue[int] = SimpleQueue()
        self._locks = [_lock_domain(self._domains) for _ in range(jobs)]

    def run(self, names: list[str], console: Console) -> list[Report]:
        """Run these faults and return their reports, in the same order."""
        scenery.prepare(self._bundle, self._scenery)
        # What makes the machine slow must not do so to its neighbours.
        alone = [name for name in names if table.FAULTS[name].slow_machine]
        beside = [name for name in names if name not in alone]
        reports = {}
        for some, jobs in ((beside, self._jobs), (alone, 1)):
            with ThreadPoolExecutor(jobs) as pool:
                for report in pool.map(self._run_one, some):
                    console.print(_line(report), highlight=False)
                    reports[report.fault] = report
        return [reports[name] for name in names]

    def _run_one(self, name: str) -> Report:
        domain = self._domains.get()
        out = self._folder / f"{name.replace(' ', '_')}.json"
        arguments = {
            "--fault": name,
            "--bundle": self._bundle,
            "--scenery": self._scenery,
            "--runs": self._runs,
            "--seed": self._seed,
            "--domain": domain,
            "--out": out,
        }
        command = [sys.executable, str(_LANE), *(str(part) for pair in arguments.items() for part in pair)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S)
            if done.returncode:
                return _failed(name, done.stderr[-3000:])
            return msgspec.json.decode(out.read_bytes(), type=Report)
        except subprocess.TimeoutExpired:
            return _failed(name, f"it took longer than {_PATIENCE_S:g} s")
        finally:
            self._domains.put(domain)


def _failed(name: str, why: str) -> Report:
    """A fault that could not be tried counts as one that was not survived."""
    return Report(fault=name, outcomes=[Outcome(seed=0, violations=[f"the harness failed: {why}"])])


def _lock_domain(domains: SimpleQueue[int]) -> IO[str]:
    """Add a ROS domain that nobody of ours uses on this machine; it is ours while the file is open."""
    folder = Path(tempfile.gettempdir()) / f"edge-bdl-domains-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for offset in range(_DOMAINS):
        number = 1 + (os.getpid() + offset) % _DOMAINS
        lock = (folder / str(number)).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        domains.put(number)
        return lock
    raise RuntimeError("every ROS domain is in use: wait until the other tests have ended")


def _console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=_WIDE)


def _line(report: Report) -> str:
    bad = sum(bool(outcome.violations) for outcome in report.outcomes)
    again = f", {len(report.stalled)} made again" if report.stalled else ""
    said = report.skipped or f"{len(report.outcomes)} runs, {bad} with violations{again}"
    return f"{report.seconds:6.0f} s  {report.fault}: {said}"


def main() -> int:
    """Run the campaign, print the table; returns 1 where something happened that must never happen."""
    parser = argparse.ArgumentParser(description="Every fault, on the real processes. Takes about 35 minutes.")
    parser.add_argument("--runs", type=int, default=20, help="of each fault (default: 20)")
    parser.add_argument("--only", metavar="NAME", nargs="+", choices=table.FAULTS, help="these faults")
    parser.add_argument("--jobs", type=int, default=2, help="faults side by side (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random (default: 0)")
    parser.add_argument("--bundle", type=Path, default=Path("demo/carracing.ebdl"), help="made by tools/demo")
    parser.add_argument("--json", metavar="FILE", type=Path, help="keep every run")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="keep the table")
    options = parser.parse_args()
    if not options.bundle.is_dir():
        parser.error(f"there is no {options.bundle}: make it with tools/demo --quick")
    folder, began_s, console = Path(tempfile.mkdtemp(prefix="faults-")), time.monotonic(), _console()
    try:
        campaign = Campaign(options.bundle, options.runs, options.seed, options.jobs, folder)
        reports = campaign.run(options.only or list(table.FAULTS), console)
    finally:
        shutil.rmtree(folder)
    console.print(rich_table(reports))
    for report in reports:
        for outcome in report.outcomes:
            for violation in outcome.violations:
                console.print(f"{report.fault}, seed {outcome.seed}: {violation}", highlight=False)
        for violation in (violation for violations in report.stalled for violation in violations):
            console.print(f"{report.fault}, in a stalled run: {violation}", highlight=False)
    summary = f"{totals(reports)}; {options.jobs} at once, {(time.monotonic() - began_s) / 60:.0f} minutes"
    console.print(summary)
    if options.json:
        record = {"machine": read_machine(), "jobs": options.jobs, "seed": options.seed, "reports": reports}
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(record)))
    if options.markdown:
        options.markdown.write_text(f"{markdown(reports)}\n\n{summary}.\n")
    return int(any(outcome.violations for report in reports for outcome in report.outcomes))


if __name__ == "__main__":
    sys.exit(main())
