"""A profile for people: a table for the terminal, and one HTML page that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from edge_bdl.profiling import Histogram, Report, Row

_COLUMNS = (
    "engine", "threads", "samples", "n", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms", "det ms", "R(S)",
    "naive ms", "speed-up", "overhead us",
)  # fmt: skip
_NOTE = (
    "p50 to max: all of predict(), p50 with its 95 % interval. det: one deterministic pass. R(S): engine time of S "
    "samples over det. naive: S deterministic passes. speed-up: naive over engine time. n/a: insufficient n for that "
    "percentile."
)
_WIDTH, _HEIGHT, _AXIS = 520, 90, 18

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1d2733;max-width:72rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin-bottom:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}.quiet{color:#5b6876;font-size:.9rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}td,th{padding:.25rem .7rem;text-align:right;
border-bottom:1px solid #dde3ea}th{color:#5b6876;font-weight:600}td:first-child,th:first-child{text-align:left}
.warning{background:#fff4dd;border-left:4px solid #d99a1c;padding:.6rem 1rem;margin:1rem 0}.wide{overflow-x:auto}
svg{display:block}rect{fill:#3b77b8}text{font-size:11px;fill:#5b6876}line{stroke:#c2461f}
"""


def to_text(report: Report) -> str:
    """The report for a terminal."""
    rows = [_COLUMNS, *(_cells(row) for row in report.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    machine = ", ".join(f"{name} {value}" for name, value in _machine(report))
    lines = [f"{report.bundle} ({report.digest[:12]})", machine, _cold(report), "", *table, "", _NOTE]
    return "\n".join(lines + [f"warning: {warning}" for warning in report.warnings])


def to_html(report: Report) -> str:
    """The report as one self-contained page with a histogram for each row."""
    sections = "".join(
        f"<h2>{html.escape(_title(row))}</h2>{_svg(row.histogram, row.p50_ms)}"
        f'<p class="quiet">{html.escape(_stages(row))}</p>'
        for row in report.rows
    )
    warnings = "".join(f'<p class="warning">{html.escape(warning)}</p>' for warning in report.warnings)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(report.bundle)}: profile</title><style>{_STYLE}</style></head><body>"
        f'<h1>{html.escape(report.bundle)}</h1><p class="quiet">bundle {report.digest}</p>{warnings}'
        f"<p>{html.escape(_cold(report))}</p>"
        f'<div class="wide">{_table(_COLUMNS, map(_cells, report.rows))}</div><p class="quiet">{html.escape(_NOTE)}</p>'
        f"{sections}<h2>Machine</h2>{_table(('fact', 'value'), _machine(report))}</body></html>\n"
    )


def _cells(row: Row) -> list[str]:
    if row.p50_ms is None or row.p50_low_ms is None or row.p50_high_ms is None:
        p50 = "n/a"
    else:
        p50 = f"{row.p50_ms:.3f} [{row.p50_low_ms:.3f}, {row.p50_high_ms:.3f}]"
    tails = [_ms(value) for value in (row.p90_ms, row.p99_ms, row.p999_ms, row.max_ms, row.det_p50_ms)]
    return [
        row.engine, str(row.threads), str(row.samples), str(row.n), p50, *tails, f"{row.ratio:.3f}",
        _ms(row.naive_p50_ms), f"{row.speedup:.1f}x", f"{row.overhead_us:.0f}",
    ]  # fmt: skip


def _ms(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _cold(report: Report) -> str:
    if report.cold_start_ms is None or report.peak_rss_mb is None:
        return "cold start not measured"
    return f"cold start to first prediction {report.cold_start_ms:.0f} ms, peak memory {report.peak_rss_mb:.0f} MB"


def _machine(report: Report) -> list[tuple[str, str]]:
    facts: dict[str, Any] = msgspec.structs.asdict(report.machine)
    return [
        (name, f"{value:.0f}" if isinstance(value, float) else str(value))
        for name, value in facts.items()
        if value is not None
    ]


def _title(row: Row) -> str:
    return f"{row.version}, {row.threads} thread{'s' if row.threads > 1 else ''}, {row.samples} samples"


def _stages(row: Row) -> str:
    return "; ".join(f"{stage} {took_ms * 1e3:.0f} us" for stage, took_ms in row.stages_ms.items()) + " (medians)"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return f"<table>{line(head, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"


def _svg(histogram: Histogram, p50_ms: float | None) -> str:
    """Bars from the fastest prediction to the 99th percentile, with a line at the median."""
    edges, counts = histogram.edges_ms, histogram.counts
    low, span, tallest = edges[0], edges[-1] - edges[0], max(counts)
    step = _WIDTH / len(counts)
    bars = "".join(
        f'<rect x="{index * step:.1f}" y="{_HEIGHT * (1 - count / tallest):.1f}" width="{step - 1:.1f}" '
        f'height="{_HEIGHT * count / tallest:.1f}"><title>{count} from {edge:.3f} ms</title></rect>'
        for index, (edge, count) in enumerate(zip(edges, counts, strict=False))
        if count
    )
    at = None if p50_ms is None else min(max((p50_ms - low) / span, 0.0), 1.0) * _WIDTH
    median = "" if at is None else f'<line x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="{_HEIGHT}"/>'
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT + _AXIS}" width="{_WIDTH}" height="{_HEIGHT + _AXIS}" role="img" '
        f'aria-label="latency histogram">{bars}{median}'
        f'<text x="0" y="{_HEIGHT + 14}">{low:.3f} ms</text>'
        f'<text x="{_WIDTH}" y="{_HEIGHT + 14}" text-anchor="end">{edges[-1]:.3f} ms and above</text></svg>'
    )
