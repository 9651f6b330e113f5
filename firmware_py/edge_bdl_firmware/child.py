"""One of our verbs as a process that ends with its parent: ``python -m edge_bdl_firmware.child PARENT VERB ...``."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from edge_bdl.cli import main

_PR_SET_PDEATHSIG = 1  # prctl(2)


def end_with(parent: int) -> None:
    """Be asked to end, by SIGTERM, as soon as the process ``parent`` is gone."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(1)  # it went before we could say so


if __name__ == "__main__":
    end_with(int(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
