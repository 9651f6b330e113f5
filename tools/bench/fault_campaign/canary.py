"""How long this machine makes a process wait that only wants to wake up: one line for each time it was late.

It runs at the priority of the processes under test. Where it was late, so were they, and no bound of theirs was tried.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

PERIOD_S, WORTH_TELLING_S = 0.005, 0.02


def latest_s(path: Path, begin_s: float, end_s: float) -> float:
    """The longest wait between two times, by what a canary has written."""
    waits = [tuple(map(float, line.split())) for line in path.read_text().splitlines(keepends=True) if "\n" in line]
    return max((late_s for at_s, late_s in waits if begin_s <= at_s <= end_s + late_s), default=0.0)


def main() -> None:
    """Wake up, and say so when it was late; until killed."""
    before_s = time.monotonic()
    while True:
        time.sleep(PERIOD_S)
        now_s = time.monotonic()
        late_s, before_s = now_s - before_s - PERIOD_S, now_s
        if late_s > WORTH_TELLING_S:
            print(now_s, late_s, flush=True)


if __name__ == "__main__":
    sys.exit(main())
