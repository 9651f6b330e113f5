"""Results as text for people and as an object for machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from edge_bdl_firmware.doctor.checks import CHECKS, Result, passed

_STATUS = {"ok": "ok", "warn": "WARN", "fail": "FAIL", "skipped": "-"}
_WIDTHS = max(map(len, _STATUS.values())), max(map(len, CHECKS))


def facts(results: Sequence[Result]) -> dict[str, Any]:
    """One object: whether all is good, and the findings by check."""
    return {"good": passed(results), "checks": {result.check: result.findings for result in results}}


def text(results: Sequence[Result]) -> str:
    """One line for each finding, one below it for what to do, and a last one that counts."""
    lines = [line for result in results for line in _lines(result)]
    counts = Counter(finding.status for result in results for finding in result.findings)
    verdict = f"{counts['fail']} failed" if counts["fail"] else "all good"
    return "\n".join([*lines, f"{verdict}; {counts['warn']} warnings, {counts['skipped']} skipped"])


def _lines(result: Result) -> list[str]:
    lines = []
    for finding in result.findings:
        head = f"{_STATUS[finding.status]:<{_WIDTHS[0]}}  {result.check:<{_WIDTHS[1]}}  "
        lines.append(head + finding.found)
        if finding.remedy:
            lines.append(" " * len(head) + f"-> {finding.remedy}")
    return lines
