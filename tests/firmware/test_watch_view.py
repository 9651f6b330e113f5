"""A person beside the robot reads the level at a glance, in any window, with colours and without."""

from __future__ import annotations

import math
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_bdl_firmware.watch.letters import large
from edge_bdl_firmware.watch.report import UNKNOWN, Report, ScoreReading, Spread
from edge_bdl_firmware.watch.view import NARROWEST, Look, alerts, line, render

PLAIN, ASCII = Look(), Look(unicode=False)
COLOUR, MONO = Look(attributes=True, colour=True), Look(attributes=True)
LEVELS = ("HOLD", "NOMINAL", "SLOW", "HANDOFF", "STOP", UNKNOWN)
CODES = re.compile(r"\x1b\[[0-9;]*m")

REPORT = Report(
    level="SLOW",
    last_level="SLOW",
    speed_factor=0.5,
    reason="epistemic 0.312 over its SLOW threshold 0.25 (S=16), 2 of 5 frames",
    human_in_control=False,
    bypass=False,
    command=(0.8, 0.0, 0.0, 0.0, 0.0, -0.25),
    output=(0.4, 0.0, 0.0, 0.0, 0.0, -0.125),
    scores=(
        ScoreReading(name="epistemic", value=0.312, slow=0.25, handoff=0.5),
        ScoreReading(name="density", value=2.0, slow=12.0, handoff=18.0),
        ScoreReading(name="total", value=0.7),
    ),
    fault=None,
    samples=16,
    stages_ms={"wait": Spread(0.5, 1.0), "engine": Spread(3.1, 9.0), "all": Spread(5.0, 12.0)},
    late_ms=Spread(0.1, 2.3),
    frames_per_s=29.8,
    dropped=3,
    dropped_lately=1,
    bundle="a1b2c3d4e5f6" + "0" * 52,
    bundle_path="/opt/bundles/pilot.ebdl/",
    other_bundle=None,
    silent_s={},
)


def changed(**changes: Any) -> Report:
    return msgspec.structs.replace(REPORT, **changes)


def text(report: Report, width: int = 80, height: int = 40, look: Look = PLAIN) -> str:
    return "\n".join(render(report, width, height, look))


def bar_of(name: str, report: Report) -> str:
    row = next(row for row in render(report, 80, 40, PLAIN) if row.startswith(name))
    return re.search(r"[█░│]{4,}", row).group()  # type: ignore[union-attr]


def test_everything_is_there() -> None:
    shown = text(REPORT)
    for expected in (
        " 50%",
        "0.80 -0.25 → 0.40 -0.12",
        "epistemic 0.312 over its SLOW threshold 0.25 (S=16), 2 of 5 frames",
        "0.25 │ 0.5",
        "29.8/s, 16 samples, 3 dropped (1 lately)",
        "a1b2c3d4e5f6 pilot.ebdl",
    ):
        assert expected in shown
    assert "a1b2c3d4e5f60" not in shown
    assert re.search(r"^engine +3\.1 ms +9\.0 ms$", shown, re.M)
    assert re.search(r"^all +5\.0 ms +12\.0 ms$", shown, re.M)
    assert re.search(r"^tick late +0\.1 ms +2\.3 ms$", shown, re.M)


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_is_written_large_where_there_is_room(level: str) -> None:
    large_rows = large(level, "█", 2)
    assert large_rows is not None
    shown = text(changed(level=level))
    assert all(row.strip() in shown for row in large_rows)


@pytest.mark.parametrize("level", LEVELS)
def test_the_large_letters_fit_the_narrowest_window(level: str) -> None:
    rows = large(level, "#")
    assert rows is not None
    assert len({len(row) for row in rows}) == 1
    assert len(rows[0]) <= NARROWEST
    shown = text(changed(level=level), NARROWEST, look=ASCII)
    assert any(rows[2].strip() in shown for scale in (1, 2) if (rows := large(level, "#", scale)))


def test_no_two_levels_look_alike() -> None:
    assert len({tuple(large(level, "#") or ()) for level in LEVELS}) == len(LEVELS)


@pytest.mark.parametrize("level", [*LEVELS, "WHATEVER"])
def test_a_low_window_has_the_level_as_a_word(level: str) -> None:
    assert " ".join(level) in text(changed(level=level), height=12)


def test_colour_is_never_the_only_sign() -> None:
    """Without its colours the view is the very same text, and that text differs from level to level."""
    for look in (COLOUR, MONO):
        assert [CODES.sub("", row).rstrip() for row in render(REPORT, 80, 40, look)] == render(REPORT, 80, 40, PLAIN)
    assert len({text(changed(level=level)) for level in LEVELS}) == len(LEVELS)


def test_the_banner_has_the_colour_of_its_level() -> None:
    banners = {level: render(changed(level=level), 80, 40, COLOUR)[0] for level in LEVELS}
    assert len({CODES.match(banner).group() for banner in banners.values()}) == len(LEVELS)  # type: ignore[union-attr]


def test_a_terminal_without_colours_is_sent_none() -> None:
    codes = set(CODES.findall(text(changed(bypass=True), look=MONO)))
    assert codes <= {"\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[7m"}
    assert "\x1b" not in text(REPORT)


def test_ascii_is_enough() -> None:
    shown = text(REPORT, look=ASCII)
    assert shown.isascii()
    assert "0.80 -0.25 -> 0.40 -0.12" in shown


@pytest.mark.parametrize(
    ("factor", "filled"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0), (7.0, 0.0), (-1.0, 0.0), (math.nan, 0.0), (None, 0.0)]
)
def test_the_bar_of_the_speed_factor(factor: float | None, filled: float) -> None:
    bar = bar_of("speed", changed(speed_factor=factor))
    assert bar.count("█") == round(filled * len(bar))


def test_bars_of_all_scores_have_their_thresholds_at_the_same_place() -> None:
    epistemic, density = bar_of("epistemic", REPORT), bar_of("density", REPORT)
    marks = [index for index, cell in enumerate(epistemic) if cell == "│"]
    assert [index for index, cell in enumerate(density) if cell == "│"] == marks
    assert len(marks) == 2


@pytest.mark.parametrize(("slow", "handoff"), [(0.25, 0.5), (-3.0, -1.0), (0.0, 1e-9), (12.0, 2000.0), (1.0, 1.0)])
def test_a_bar_passes_a_mark_exactly_when_its_score_passes_the_threshold(slow: float, handoff: float) -> None:
    band = (handoff - slow) or 1.0
    for value in (slow - band, slow, slow + 0.01 * band, handoff, handoff + 0.01 * band, handoff + 9.0 * band):
        reading = ScoreReading(name="epistemic", value=value, slow=slow, handoff=handoff)
        bar = bar_of("epistemic", changed(scores=(reading,)))
        marks = [index for index, cell in enumerate(bar) if cell == "│"]
        passed = sum("█" in bar[mark:] for mark in marks)
        assert passed == {"ok": 0, "SLOW": 1, "HANDOFF": 2}[reading.zone], (value, bar)


def test_a_score_without_thresholds_has_no_bar() -> None:
    row = next(row for row in render(REPORT, 80, 40, PLAIN) if row.startswith("total"))
    assert row.split() == ["total", "0.7"]


def test_a_score_that_is_no_number_says_so() -> None:
    scores = (
        ScoreReading(name="a", value=math.nan, slow=1.0, handoff=2.0),
        ScoreReading(name="b", value=math.inf),
    )
    rows = [row for row in render(changed(scores=scores), 80, 40, PLAIN) if row[:2] in ("a ", "b ")]
    assert ["invalid" in row for row in rows] == [True, True]
    assert "█" not in rows[0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        (
            {"level": UNKNOWN, "silent_s": {"gate": 3.24}},
            ["no word from the gate for 3.2 s, the last was SLOW"],
        ),
        (
            {"last_level": None, "silent_s": {"gate": math.inf, "frames": math.inf, "monitor": math.inf}},
            ["no word from the gate yet", "no word from the monitor yet"],
        ),
        ({"silent_s": {"frames": 2.0}}, ["no frame for 2.0 s"]),
        ({"silent_s": {"frames": 2.0, "monitor": 2.0}}, ["no word from the monitor for 2.0 s"]),
        ({"human_in_control": True}, ["a human has control"]),
        ({"bypass": True}, ["BYPASS: the level does not limit the command"]),
        ({"other_bundle": "ff" * 32}, ["the monitor has another bundle: ffffffffffff"]),
        ({"fault": "every pixel is 0"}, ["invalid: every pixel is 0"]),
        ({"fault": "every pixel is 0", "reason": "every pixel is 0"}, []),
    ],
)
def test_what_a_person_should_know_first(changes: dict[str, Any], expected: list[str]) -> None:
    report = changed(**changes)
    assert alerts(report) == expected
    shown = text(report)
    assert all(f"! {alert}" in shown for alert in expected)
    assert all(alert in line(report) for alert in expected)


def test_an_old_reason_is_not_shown_as_the_present_one() -> None:
    report = changed(level=UNKNOWN, speed_factor=None, output=(), silent_s={"gate": 1.0})
    assert "over its SLOW threshold" not in text(report)
    assert line(report) == "UNKNOWN; no word from the gate for 1.0 s, the last was SLOW"


def test_one_line_says_level_factor_and_why() -> None:
    assert line(changed(reason="two\nlines")) == "SLOW 0.50: two lines"


def test_a_command_that_is_missing_is_none() -> None:
    assert "none → 0.00" in text(changed(command=None, output=(0.0,) * 6))
    assert "-0.00" not in text(changed(command=(1.0, 1.0), output=(-0.0, 0.0)))


def test_a_low_window_keeps_what_matters_most() -> None:
    rows = render(changed(silent_s={"frames": 1.0}), 80, 7, PLAIN)
    assert len(rows) == 7
    assert "S L O W" in rows[1]
    assert any("no frame for 1.0 s" in row for row in rows)
    assert rows[-1].startswith("speed")


TEXTS = st.text(max_size=200)
NUMBERS = st.floats()


@given(
    width=st.integers(1, 200),
    height=st.integers(1, 60),
    look=st.builds(Look, st.booleans(), st.booleans(), st.booleans()),
    report=st.builds(
        changed,
        level=st.sampled_from(LEVELS) | TEXTS,
        last_level=TEXTS,
        reason=TEXTS,
        fault=st.none() | TEXTS,
        speed_factor=st.none() | NUMBERS,
        command=st.none() | st.lists(NUMBERS, max_size=7).map(tuple),
        output=st.lists(NUMBERS, max_size=7).map(tuple),
        scores=st.lists(
            st.builds(
                ScoreReading,
                name=TEXTS,
                value=NUMBERS,
                slow=st.none() | st.floats(-1e9, 1e9),
                handoff=st.none() | st.floats(-1e9, 1e9),
            ),
            max_size=3,
        ).map(tuple),
        stages_ms=st.dictionaries(TEXTS, st.builds(Spread, NUMBERS, NUMBERS), max_size=3),
        bundle=TEXTS,
        bundle_path=TEXTS,
        other_bundle=st.none() | TEXTS,
        bypass=st.booleans(),
        silent_s=st.dictionaries(st.sampled_from(["gate", "frames", "monitor"]), st.floats(0.0), max_size=3),
    ),
)
def test_whatever_is_said_fits_the_window_and_commands_no_terminal(
    width: int, height: int, look: Look, report: Report
) -> None:
    rows = render(report, width, height, look)
    assert len(rows) <= height
    for row in rows:
        shown = CODES.sub("", row)
        assert len(shown) <= max(width, NARROWEST)
        assert shown.isprintable()
    assert line(report).isprintable()
