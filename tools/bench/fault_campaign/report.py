"""The campaign as a table: for a terminal, and as Markdown."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence

from rich.table import Table

from fault_campaign.lane import Report

_COLUMNS = (
    "fault",
    "runs",
    "detected ms p50",
    "max",
    "distance, base with timeout",
    "base that holds",
    "share of bound, max",
    "final level",
    "violations",
    "95 % below",
)
_CONFIDENCE = 0.95


def upper_bound(runs: int) -> float:
    """Largest rate of violations that none in so many runs leaves room for, at 95 % (Clopper and Pearson 1934)."""
    return 1.0 - (1.0 - _CONFIDENCE) ** (1.0 / runs)


def rich_table(reports: Sequence[Report]) -> Table:
    """For a terminal."""
    table = Table(*_COLUMNS)
    for row in map(_row, reports):
        table.add_row(*row)
    return table


def markdown(reports: Sequence[Report]) -> str:
    """For a document."""
    rows = [_COLUMNS, ("---",) * len(_COLUMNS), *map(_row, reports)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def totals(reports: Sequence[Report]) -> str:
    """The campaign in a sentence."""
    runs = sum(len(report.outcomes) for report in reports)
    bad = sum(bool(outcome.violations) for report in reports for outcome in report.outcomes)
    skipped = sum(report.skipped is not None for report in reports)
    stalled = [violations for report in reports for violations in report.stalled]
    text = f"{len(reports) - skipped} faults, {runs} runs, {bad} of them with violations"
    if runs and not bad:
        text += f" (at 95 % confidence fewer than {upper_bound(runs):.2%})"
    if stalled:
        text += f"; {len(stalled)} runs were made again because machine or harness stalled"
        text += f", {sum(map(bool, stalled))} of them with violations"
    return text + (f"; {skipped} faults skipped" if skipped else "")


def _row(report: Report) -> tuple[str, ...]:
    if report.skipped is not None:
        return (report.fault, "0", *("",) * 5, f"skipped: {report.skipped}", "", "")
    outcomes = report.outcomes
    detected = [outcome.detected_ms for outcome in outcomes if outcome.detected_ms is not None]
    bad = sum(bool(outcome.violations) for outcome in outcomes)
    levels = Counter(outcome.level for outcome in outcomes)
    return (
        report.fault,
        str(len(outcomes)),
        f"{statistics.median(detected):.0f}" if detected else "never",
        f"{max(detected):.0f}" if detected else "",
        _distance(report, "timeout"),
        _distance(report, "holds"),
        _share(report),
        ", ".join(sorted(levels)),
        str(bad),
        "" if bad else f"{upper_bound(len(outcomes)):.1%}",
    )


def _distance(report: Report, kind: str) -> str:
    metres = max((outcome.metres.get(kind, 0.0) for outcome in report.outcomes), default=0.0)
    radians = max((outcome.radians.get(kind, 0.0) for outcome in report.outcomes), default=0.0)
    return f"{metres:.2f} m" if metres else f"{radians:.2f} rad"


def _share(report: Report) -> str:
    """How much of what a run may take it took: the closest to its bound."""
    shares = [
        went / bound
        for outcome in report.outcomes
        for went, bound in (
            (outcome.metres.get("holds", 0.0), outcome.bound_m),
            (outcome.radians.get("holds", 0.0), outcome.bound_rad),
        )
        if bound
    ]
    return f"{max(shares):.0%}" if shares else "drives on"
