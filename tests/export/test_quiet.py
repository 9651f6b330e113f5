"""Nothing comes out while it is quiet, and everything before and after does."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings

import pytest

from edge_bdl_export.quiet import quiet


def test_text_from_python_from_c_and_from_children_is_swallowed(capfd: pytest.CaptureFixture[str]):
    print("before")
    with quiet():
        print("python")
        print("python", file=sys.stderr)
        os.write(1, b"c")
        os.write(2, b"c")
        subprocess.run([sys.executable, "-c", "print('child')"], check=True)
        warnings.warn("a warning", stacklevel=1)
        logging.getLogger("somebody").error("a record")
    print("after")
    assert capfd.readouterr() == ("before\nafter\n", "")


def test_an_error_passes_and_the_streams_are_back(capfd: pytest.CaptureFixture[str]):
    before = logging.root.manager.disable
    with pytest.raises(KeyboardInterrupt), quiet():
        raise KeyboardInterrupt
    os.write(1, b"again")
    assert capfd.readouterr().out == "again"
    assert logging.root.manager.disable == before
