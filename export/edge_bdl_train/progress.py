"""A progress bar for long work, drawn on stderr, or none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[], None]
Stage = Callable[[str, int], Advance]
"""Opens a bar: its label and how many times the returned function will be called."""


def silent(label: str, total: int) -> Advance:
    """A stage that shows nothing."""
    return lambda: None


@contextmanager
def progress_bars() -> Iterator[Stage]:
    """Stages drawn as bars on stderr, with the time they took."""
    from rich import progress as rich_progress
    from rich.console import Console

    columns = (
        rich_progress.TextColumn("{task.description:<24}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeElapsedColumn(),
    )
    progress = rich_progress.Progress(*columns, console=Console(stderr=True))

    def stage(label: str, total: int) -> Advance:
        progress.start()
        task = progress.add_task(label, total=total)
        return lambda: progress.advance(task)

    try:
        yield stage
    finally:
        # Without a bar it would still print an empty line, above the error that came before any.
        if progress.tasks:
            progress.stop()
