"""A self-contained HTML page: pictures inside, tables, notes."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2730; max-width: 1000px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
p.lead { font-size: 1.05rem; } .muted { color: #5c6770; font-size: .88rem; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .55rem; text-align: right; border-bottom: 1px solid #dde3e8; white-space: nowrap; }
th { font-weight: 600; border-bottom: 2px solid #9aa5b1; }
th:first-child, td:first-child, th.text, td.text { text-align: left; }
tr.group td { border-top: 2px solid #c8d0d8; }
img { max-width: 100%; height: auto; display: block; margin: .6rem 0; }
.wide { overflow-x: auto; }
"""


def page(title: str, lead: str, sections: Sequence[tuple[str, str]], footer: str) -> str:
    """The whole page; ``sections`` are headings with their HTML."""
    body = "".join(f"<h2>{escape(heading)}</h2>{content}" for heading, content in sections)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style><h1>{escape(title)}</h1>"
        f'<p class="lead">{escape(lead)}</p>{body}<p class="muted">{escape(footer)}</p></html>\n'
    )


def image(png: bytes, description: str) -> str:
    """A picture inside the page."""
    return f'<img alt="{escape(description)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def note(text: str) -> str:
    """A remark under a section."""
    return f'<p class="muted">{escape(text)}</p>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int = 1, groups: bool = False) -> str:
    """A table whose first ``text_columns`` are words; with ``groups``, equal first cells in a row are said once."""
    cells = [[escape(cell) for cell in row] for row in rows]
    lines, previous = [], None
    for row in cells:
        mark = ' class="group"' if groups and previous not in (None, row[0]) else ""
        shown = ["" if groups and row[0] == previous else row[0], *row[1:]]
        lines.append(
            f"<tr{mark}>" + "".join(_cell("td", text, i < text_columns) for i, text in enumerate(shown)) + "</tr>"
        )
        previous = row[0]
    header = "".join(_cell("th", escape(text), i < text_columns) for i, text in enumerate(head))
    return f'<div class="wide"><table><tr>{header}</tr>{"".join(lines)}</table></div>'


def _cell(tag: str, text: str, words: bool) -> str:
    return f'<{tag} class="text">{text}</{tag}>' if words else f"<{tag}>{text}</{tag}>"
