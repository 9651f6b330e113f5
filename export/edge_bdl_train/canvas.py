"""Where studies draw: matplotlib without pyplot, which would keep every figure and want a screen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_bdl.errors import require


class Canvas:
    """A row or grid of axes, saved as PNG.

    Args:
        rows, columns: of axes.
        panel: width and height of one, in inches.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """

    def __init__(self, rows: int = 1, columns: int = 1, panel: tuple[float, float] = (4.0, 3.0)) -> None:
        matplotlib_figure: Any = require("matplotlib.figure", "report", "to draw a study's plots")
        size = (panel[0] * columns, panel[1] * rows)
        self._figure = matplotlib_figure.Figure(figsize=size, layout="constrained")
        self.axes: list[Any] = list(self._figure.subplots(rows, columns, squeeze=False).flat)

    def save(self, path: Path) -> None:
        """Writes the PNG; panels that nothing was drawn into are left out."""
        for axes in self.axes:
            axes.set_visible(axes.has_data())
        self._figure.savefig(path, dpi=120)
