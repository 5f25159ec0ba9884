"""What the demo shows: bars and colours on a terminal, plain lines everywhere else."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TextIO

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

PLAIN_WIDTH = 120
PLAIN_STEPS = 4
"""A bar becomes this many lines where there is no terminal."""


class Bar(Protocol):
    """How far something is."""

    def show(self, done: int) -> None: ...


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    name: str
    is_number: bool = False
    may_shrink: bool = False
    """Where a terminal is too narrow for the table, this column is cut first."""


class Screen:
    """Standard output; errors go to `error_output`. Whatever is shown, nothing in it is taken for markup."""

    def __init__(self, output: TextIO, error_output: TextIO, *, environment: Mapping[str, str] | None = None) -> None:
        environment = os.environ if environment is None else environment
        self.is_terminal = output.isatty() and environment.get("TERM", "") not in ("", "dumb")
        self._error_output = error_output
        # Told everything, so that variables such as FORCE_COLOR do not bring control characters into a file.
        self._console = _Console(
            file=output,
            force_terminal=self.is_terminal,
            no_color=None if self.is_terminal else True,
            color_system="auto" if self.is_terminal else None,
            width=None if self.is_terminal else PLAIN_WIDTH,
            highlight=False,
            markup=False,
            emoji=False,
        )

    @classmethod
    def of_this_process(cls) -> Screen:
        for stream in (sys.stdout, sys.stderr):
            # A file name must not end the demo where the output is not UTF-8.
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace", line_buffering=True)
        return cls(sys.stdout, sys.stderr)

    def say(self, text: str) -> None:
        self._console.print(without_controls(text), soft_wrap=True)

    def complain(self, text: str) -> None:
        self._error_output.write(f"{without_controls(text)}\n")
        self._error_output.flush()

    def show(self, title: str, table: Table) -> None:
        self._console.print(Text(title, style="bold"))
        self._console.print(table)
        self._console.print()

    def table(self, *columns: Column) -> Table:
        """An empty table."""
        table = Table(box=box.SIMPLE_HEAD if self.is_terminal else box.ASCII2, pad_edge=not self.is_terminal)
        for column in columns:
            table.add_column(
                column.name,
                justify="right" if column.is_number else "left",
                overflow="ellipsis",
                no_wrap=not column.may_shrink,
            )
        return table

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Bar]:
        """Shows how far something is, until the block ends."""
        if not self.is_terminal:
            yield _PlainBar(self, title, total)
            return
        columns = (TextColumn("  {task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console) as progress:
            yield _TerminalBar(progress, title, total)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Let the error through: rich would end the process, and leave what it started."""
        raise  # noqa: PLE0704 - called while the error is handled


def without_controls(text: str) -> str:
    """`text` with every control character but the line feed replaced: it may come from a log."""
    return "".join(one if one.isprintable() or one == "\n" else "?" for one in text.expandtabs())


def cell(value: object) -> Text:
    """A value for a table, taken literally."""
    return Text(without_controls(str(value)))


class _TerminalBar:
    def __init__(self, progress: Progress, title: str, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=total)

    def show(self, done: int) -> None:
        self._progress.update(self._task, completed=done)


class _PlainBar:
    def __init__(self, screen: Screen, title: str, total: int) -> None:
        self._screen = screen
        self._title = title
        self._total = total
        self._steps_said = 0

    def show(self, done: int) -> None:
        steps = done * PLAIN_STEPS // self._total if self._total else PLAIN_STEPS
        if steps > self._steps_said:
            self._steps_said = steps
            self._screen.say(f"  {self._title}: {done}/{self._total}")
