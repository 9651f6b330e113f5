"""Letters five rows high, for a word that is to be read from some steps away."""

from __future__ import annotations

import itertools

_DRAWN = "ADFHIKLMNOPSTUW"
_ROWS = (
    " ##  ###  #### #  # ### #  # #    #   # #   #  ##  ###   ### ##### #  # #   #",
    "#  # #  # #    #  #  #  # #  #    ## ## ##  # #  # #  # #      #   #  # #   #",
    "#### #  # ###  ####  #  ##   #    # # # # # # #  # ###   ##    #   #  # # # #",
    "#  # #  # #    #  #  #  # #  #    #   # #  ## #  # #       #   #   #  # ## ##",
    "#  # ###  #    #  # ### #  # #### #   # #   #  ##  #    ###    #    ##  #   #",
)


def _cut() -> dict[str, tuple[str, ...]]:
    """The letters one by one: between two of them there is a column that no row draws on, and none is within one."""
    width = max(map(len, _ROWS))
    rows = [row.ljust(width) for row in _ROWS]
    gaps = [-1, *(column for column in range(width) if all(row[column] == " " for row in rows)), width]
    spans = [(left + 1, right) for left, right in itertools.pairwise(gaps) if right > left + 1]
    return {letter: tuple(row[a:b] for row in rows) for letter, (a, b) in zip(_DRAWN, spans, strict=True)}


_LETTERS = _cut()


def large(word: str, ink: str, scale: int = 1) -> list[str] | None:
    """A word in large letters, row by row; None where it is empty or has a letter that is not drawn here.

    Args:
        word: Capital letters.
        ink: One character to draw with.
        scale: Columns of one dot; with 2 the dots are about square.
    """
    if not word or not set(word) <= _LETTERS.keys():
        return None
    rows = (" ".join(parts) for parts in zip(*(_LETTERS[letter] for letter in word), strict=True))
    return ["".join((ink if dot == "#" else " ") * scale for dot in row) for row in rows]
