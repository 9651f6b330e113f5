"""What a check says."""

from __future__ import annotations

from typing import Literal

import msgspec

Status = Literal["ok", "warn", "fail", "skipped"]


class Finding(msgspec.Struct, frozen=True):
    """One sentence for an integrator.

    Attributes:
        status: Only ``fail`` makes the doctor's exit code 1.
        found: What was found.
        remedy: What to do; empty where nothing is to be done.
    """

    status: Status
    found: str
    remedy: str = ""


def ok(found: str) -> Finding:
    """As it should be."""
    return Finding("ok", found)


def warn(found: str, remedy: str) -> Finding:
    """It works, and a person should know."""
    return Finding("warn", found, remedy)


def fail(found: str, remedy: str) -> Finding:
    """The robot will not drive, or not safely."""
    return Finding("fail", found, remedy)


def skipped(found: str, remedy: str = "") -> Finding:
    """It could not be looked at, and why."""
    return Finding("skipped", found, remedy)
