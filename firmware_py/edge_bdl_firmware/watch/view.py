"""The report as lines of text, for a person who stands beside the robot. Pure: report and size in, lines out.

What matters most comes first, so that a window that is too low loses the least. Colour is never the only sign.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from typing import NamedTuple

from edge_bdl_firmware.watch.letters import large
from edge_bdl_firmware.watch.report import UNKNOWN, Report, ScoreReading, Spread

NARROWEST = 40

_LABEL = 10  # columns
_WIDEST_BAR = 60
_ROWS_FOR_LARGE_LETTERS = 20
_LONGEST_REASON = 4  # lines
_DIGEST = 12
_FIRST_STAGES = {"all": 0, "engine": 1}

# Select Graphic Rendition, ECMA-48: what a level and a zone look like.
_LEVEL_COLOURS = {"NOMINAL": "30;42", "SLOW": "30;43", "HANDOFF": "97;45", "STOP": "97;41", "HOLD": "97;44"}
_UNKNOWN_COLOUR = "30;47"
_ZONE_COLOURS = {"ok": "32", "SLOW": "33", "HANDOFF": "35", "invalid": "31"}
_ALERT_COLOUR = "97;41"
_BOLD, _DIM, _REVERSE = "1", "2", "7"

#: Where the thresholds stand in a bar. All scores share it, so that a glance tells how near any of them is.
_SLOW_AT, _HANDOFF_AT = 0.5, 0.8


class Look(NamedTuple):
    """What the terminal can show.

    Attributes:
        attributes: Bold, dim and reverse.
        colour: Colours.
        unicode: Blocks and lines; else ASCII.
    """

    attributes: bool = False
    colour: bool = False
    unicode: bool = True

    def paint(self, text: str, attribute: str = "", colour: str = "") -> str:
        """The text with what of its looks the terminal can show."""
        codes = [code for code, can in ((attribute, self.attributes), (colour, self.colour)) if code and can]
        return f"\x1b[{';'.join(codes)}m{text}\x1b[0m" if codes and text else text

    @property
    def full(self) -> str:
        """The filled part of a bar."""
        return "█" if self.unicode else "#"

    @property
    def rest(self) -> str:
        """The empty part of a bar."""
        return "░" if self.unicode else "."

    @property
    def mark(self) -> str:
        """A threshold in a bar."""
        return "│" if self.unicode else "|"

    @property
    def arrow(self) -> str:
        """From command to output."""
        return "→" if self.unicode else "->"


def render(report: Report, width: int, height: int, look: Look) -> list[str]:
    """The view.

    Args:
        report: How things stand.
        width: Columns; fewer than ``NARROWEST`` count as so many.
        height: Rows; what comes last is cut off.
        look: What the terminal can show.

    Returns:
        At most ``height`` lines, none of more than ``width`` columns.
    """
    width = max(width, NARROWEST)
    sections = (
        _banner(report, width, height, look),
        [row for text in alerts(report) for row in _alert(text, width, look)],
        _speed(report, width, look),
        _scores(report, width, look),
        _frames(report, width, look),
        _latency(report, width, look),
    )
    lines: list[str] = []
    for section in sections:
        if section:
            lines += [*([""] if lines else []), *(row.rstrip() for row in section)]
    return lines[:height]


def line(report: Report) -> str:
    """The view in one line, for a log: level, speed factor, why, and what is wrong besides."""
    factor = "" if report.speed_factor is None else f" {report.speed_factor:.2f}"
    reason = "" if report.level == UNKNOWN else f": {_clean(report.reason)}"
    wrong = "".join(f"; {text}" for text in alerts(report))
    return _clean(report.level) + factor + reason + wrong


def alerts(report: Report) -> list[str]:
    """What a person should know before anything else, most urgent first."""
    said = []
    silent_s = report.silent_s
    if "gate" in silent_s:
        last = f", the last was {_clean(report.last_level)}" if report.last_level else ""
        said.append(f"no word from the gate{_since(silent_s['gate'])}{last}")
    if "monitor" in silent_s:
        said.append(f"no word from the monitor{_since(silent_s['monitor'])}")
    elif "frames" in silent_s:
        said.append(f"no frame{_since(silent_s['frames'])}")
    if report.human_in_control:
        said.append("a human has control")
    if report.bypass:
        said.append("BYPASS: the level does not limit the command")
    if report.other_bundle:
        said.append(f"the monitor has another bundle: {_clean(report.other_bundle)[:_DIGEST]}")
    if report.fault and report.fault not in report.reason:
        said.append(f"invalid: {_clean(report.fault)}")
    return said


def _banner(report: Report, width: int, height: int, look: Look) -> list[str]:
    level = _clean(report.level)
    sizes = (large(level, look.full, 2), large(level, look.full)) if height >= _ROWS_FOR_LARGE_LETTERS else ()
    word = next((rows for rows in sizes if rows is not None and len(rows[0]) <= width), [" ".join(level)])
    colour = _LEVEL_COLOURS.get(level, _UNKNOWN_COLOUR)
    # On a terminal without colours the banner is a bar in reverse, and its word is no less clear. Not bold:
    # many terminals show bold black as grey.
    attribute = "" if look.colour else _REVERSE
    rows = [_fit(row.center(width), width) for row in ["", *word, ""]]
    return [look.paint(row, attribute, colour) for row in rows]


def _alert(text: str, width: int, look: Look) -> list[str]:
    rows = textwrap.wrap(text, width, initial_indent=" ! ", subsequent_indent="   ", max_lines=3, placeholder=" ...")
    return [look.paint(row.ljust(width), _BOLD, _ALERT_COLOUR) for row in rows]


def _speed(report: Report, width: int, look: Look) -> list[str]:
    factor = report.speed_factor
    length = _bar_width(width - _LABEL - 6)
    cells, said = 0, "?"
    if factor is not None and 0.0 <= factor <= 1.0:
        cells, said = round(factor * length), f"{factor:.0%}"
    bar = look.full * cells + look.rest * (length - cells)
    lines = [_label("speed", look) + bar + f" {said:>5}"]
    if report.output:
        lines += _wrapped("command", _command(report, look), width, look)
    if report.reason and report.level != UNKNOWN:
        lines += _wrapped("why", _clean(report.reason), width, look)
    return lines


def _scores(report: Report, width: int, look: Look) -> list[str]:
    if not report.scores:
        return []
    name_width = min(max(len(_clean(score.name)) for score in report.scores), 13)
    name_width = max(name_width + 1, _LABEL)
    # Numbers of the thresholds only where the bar does not suffer.
    numbers = 22 if width >= 2 * NARROWEST and any(score.slow is not None for score in report.scores) else 0
    length = _bar_width(width - name_width - 10 - 8 - numbers)
    return [_score(score, name_width, length, bool(numbers), look) for score in report.scores]


def _score(score: ScoreReading, name_width: int, length: int, numbers: bool, look: Look) -> str:
    name = look.paint(_fit(_clean(score.name), name_width - 1).ljust(name_width), _BOLD)
    text = f"{name}{_short(score.value):>9}"
    if score.slow is None or score.handoff is None:
        return (
            text if math.isfinite(score.value) else f"{text} {look.paint('invalid', _BOLD, _ZONE_COLOURS['invalid'])}"
        )
    text += f" {look.paint(_score_bar(score, length, look), colour=_ZONE_COLOURS[score.zone])}"
    zone = look.paint(f"{score.zone:<7}", _BOLD, _ZONE_COLOURS[score.zone])
    limits = look.paint(f" {_short(score.slow):>9} {look.mark} {_short(score.handoff)}", _DIM) if numbers else ""
    return f"{text} {zone}{limits}"


def _score_bar(score: ScoreReading, length: int, look: Look) -> str:
    """A bar whose thresholds stand where those of every other score stand."""
    assert score.slow is not None
    assert score.handoff is not None
    filled = round(_position(score.value, score.slow, score.handoff) * length)
    # Over a threshold is over its mark, however little.
    at_least = {"SLOW": _SLOW_AT, "HANDOFF": _HANDOFF_AT}.get(score.zone)
    if at_least is not None:
        filled = max(filled, round(at_least * length) + 2)
    cells = [look.full] * min(filled, length) + [look.rest] * (length - filled)
    for at in (_SLOW_AT, _HANDOFF_AT):
        cells[round(at * length)] = look.mark
    return "".join(cells)


def _position(value: float, slow: float, handoff: float) -> float:
    """Where in a bar a value is, in [0, 1]: linear from nothing to SLOW, from there to HANDOFF, and beyond."""
    if not math.isfinite(value):
        return 0.0
    band = max(handoff - slow, 1e-12)
    # Most scores begin at 0; one whose threshold is below that begins a band's width below it.
    nothing = 0.0 if slow > 0.0 else slow - band
    if value <= slow:
        return _SLOW_AT * max(value - nothing, 0.0) / (slow - nothing)
    if value <= handoff:
        return _SLOW_AT + (_HANDOFF_AT - _SLOW_AT) * (value - slow) / band
    return min(_HANDOFF_AT + (1.0 - _HANDOFF_AT) * (value - handoff) / band, 1.0)


def _frames(report: Report, width: int, look: Look) -> list[str]:
    samples = f"{report.samples} samples, " if report.samples else ""
    lately = f" ({report.dropped_lately} lately)" if report.dropped_lately else ""
    rows = [("frames", f"{report.frames_per_s:.1f}/s, {samples}{report.dropped} dropped{lately}")]
    if report.bundle:
        name = _clean(report.bundle_path).rstrip("/").rpartition("/")[2]
        rows.append(("bundle", f"{_clean(report.bundle)[:_DIGEST]} {name}".rstrip()))
    return [_label(label, look) + _fit(text, width - _LABEL) for label, text in rows]


def _latency(report: Report, width: int, look: Look) -> list[str]:
    rows = sorted(report.stages_ms.items(), key=lambda row: _FIRST_STAGES.get(row[0], len(_FIRST_STAGES)))
    if report.late_ms is not None:
        rows.append(("tick late", report.late_ms))
    if not rows:
        return []
    head = look.paint(f"{'last 5 s':<{_LABEL}}{'p50':>10}{'max':>12}", _BOLD)
    return [head] + [_fit(_milliseconds(_fit(_clean(name), _LABEL), spread), width) for name, spread in rows]


def _milliseconds(name: str, spread: Spread) -> str:
    return f"{name:<{_LABEL}}{spread.p50:>7.1f} ms{spread.max:>9.1f} ms"


def _command(report: Report, look: Look) -> str:
    """What came and what of it may pass, without the axes along which nothing moves."""
    came = report.command or ()
    axes = range(max(len(came), len(report.output)))
    moves = [i for i in axes if any(values[i : i + 1] not in ((), (0.0,)) for values in (came, report.output))]
    before, after = (
        " ".join(f"{values[i] + 0.0:.2f}" for i in moves or [0] if i < len(values)) for values in (came, report.output)
    )
    return f"{before or 'none'} {look.arrow} {after or 'none'}"


def _wrapped(label: str, text: str, width: int, look: Look) -> list[str]:
    lines = textwrap.wrap(text, width - _LABEL, max_lines=_LONGEST_REASON, placeholder=" ...") or [""]
    return [_label(label if index == 0 else "", look) + part for index, part in enumerate(lines)]


def _label(text: str, look: Look) -> str:
    return look.paint(f"{text:<{_LABEL}}", _BOLD)


def _bar_width(room: int) -> int:
    return max(8, min(room, _WIDEST_BAR))


def _short(value: float) -> str:
    """A number in at most nine columns."""
    text = f"{value:.3g}"
    return text if len(text) <= 9 else f"{value:.1e}"


def _since(seconds: float) -> str:
    return f" for {seconds:.1f} s" if math.isfinite(seconds) else " yet"


def _fit(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _clean(text: str) -> str:
    """One line, without anything that a terminal would obey: a reason may quote what nobody has checked."""
    return "".join(_printable(" ".join(text.split())))


def _printable(text: str) -> Iterator[str]:
    for character in text:
        yield character if character.isprintable() else "?"
