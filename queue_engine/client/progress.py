"""The progress bars of `map` and of operations."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sized
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:  # rich takes 0.1 s to import, and few calls show a bar
    from rich.progress import Progress, ProgressColumn, TaskID

    from queue_engine.client.mapping import MapItem


class MapProgress:
    """A bar on standard error while it is open. Shows nothing unless `shown`, or where that is no terminal."""

    def __init__(self, inputs: Iterable[Any], *, shown: bool) -> None:
        self._total = len(inputs) if isinstance(inputs, Sized) else None
        self._shown = shown
        self._bar: Progress | None = None
        self._row: TaskID | None = None
        self._failed = 0

    def __enter__(self) -> Self:
        if self._shown:
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

            self._bar = _bar_of(
                BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn()
            )
            self._bar.start()
            self._row = self._bar.add_task("", total=self._total)
        return self

    def ended(self, item: MapItem) -> None:
        """Count an ended task."""
        if item.error is not None:
            self._failed += 1
        if self._bar is not None and self._row is not None:
            self._bar.update(self._row, advance=1, description=f"{self._failed} failed" if self._failed else "")

    def say(self, text: str) -> None:
        """Print a line on standard error, above the bar."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


class OperationProgress:
    """A bar of an operation on standard error while it is open. Shows nothing unless `shown`, or without a terminal."""

    def __init__(self, *, shown: bool) -> None:
        self._shown = shown
        self._bar: Progress | None = None
        self._row: TaskID | None = None

    def __enter__(self) -> Self:
        if self._shown:
            from rich.progress import BarColumn, TaskProgressColumn, TextColumn

            self._bar = _bar_of(BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"))
            self._bar.start()
            self._row = self._bar.add_task("", total=1.0)
        return self

    def show(self, progress: float, done: int, *, dry_run: bool = False) -> None:
        """Show the part of the tasks that the operation has come to, and the number of those that it has changed."""
        if self._bar is not None and self._row is not None:
            self._bar.update(
                self._row, completed=progress, description=f"{done} {'would be changed' if dry_run else 'done'}"
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def _bar_of(*columns: ProgressColumn) -> Progress:
    """Return a bar on standard error, which shows nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import Progress

    # rich itself treats a pipe as a terminal for FORCE_COLOR, and would fill a log with the bar.
    is_terminal = sys.stderr.isatty()
    return Progress(*columns, console=Console(stderr=True, force_terminal=is_terminal), disable=not is_terminal)
