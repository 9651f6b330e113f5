"""How verbs print: JSON for machines, aligned columns for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec


def print_json(value: Any) -> None:
    """One JSON object on one line. Arrays become lists, and what is not finite becomes null."""
    print(msgspec.json.encode(value, enc_hook=_plain).decode())


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def columns(rows: Sequence[Sequence[str]], indent: str = "  ") -> str:
    """Rows of equal length, padded to columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(indent + line for line in lines)
