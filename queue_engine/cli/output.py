"""The output of commands: tables by rich on a terminal, plain and stable text for a pipe, and unchanged JSON.

For a pipe, a table has complete values, one line per row, at least two spaces and no tabs between columns, and all
columns but optional ones that say nothing. On a terminal, it fits the width: times are ages, and empty or unimportant
columns are omitted.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import tzinfo
from typing import TYPE_CHECKING, Any

import typer

from queue_engine.cli import times

if TYPE_CHECKING:
    from rich.console import Console, JustifyMethod
    from rich.text import Text

Row = Mapping[str, Any]

NOTHING = "-"
MAX_CELL_CHARACTERS = 120
"""Maximum length of a message in a table on a terminal."""

# Control characters move the cursor, direction marks reverse text, and a lone surrogate cannot be printed.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_UNSAFE_IN_JSON = re.compile(r"[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")

_STYLES = {
    **dict.fromkeys(("RUNNING", "SUCCESS", "DELIVERED", "succeeded"), "green"),
    **dict.fromkeys(("FAILED", "MAX_RETRIES_EXCEEDED", "failed", "timed_out", "dead"), "red"),
    **dict.fromkeys(("PROCESSING", "INITIALIZING", "STOPPING", "queued", "running", "scheduled"), "yellow"),
}


@dataclass(frozen=True)
class Column:
    """A column: its title, and the member of a row with its value."""

    title: str
    member: str
    kind: str = "text"
    """`text`, `id` (never cut), `number`, `time`, `length` (ms), or `message` (on a terminal cut, below the table)."""
    on_terminal: bool = True
    """False if there is no room for the column on a terminal with 80 columns."""
    optional: bool = False
    """True if the column is shown only when a row has a value for it that is not the usual one, also for a pipe."""
    usual: str | None = None

    @property
    def title_for_pipe(self) -> str:
        """The title of a table for a pipe, in which a length is a number and the title has its unit."""
        return f"{self.title}_MS" if self.kind == "length" else self.title


class Screen:
    """Prints to standard output. If `width` or `terminal` is None, the value is detected."""

    def __init__(
        self,
        now: Callable[[], float],
        *,
        zone: tzinfo | None = None,
        terminal: bool | None = None,
        width: int | None = None,
    ) -> None:
        self.terminal = sys.stdout.isatty() if terminal is None else terminal
        self._width = width
        self._now = now
        self._zone = zone

    @property
    def now_ms(self) -> int:
        return int(self._now() * 1000)

    def line(self, text: str) -> None:
        """Print a line of text. Tabs are kept, other control characters are escaped."""
        typer.echo("\t".join(safe(part) for part in text.split("\t")))

    def json(self, text: bytes) -> None:
        """Print JSON text in UTF-8, unchanged except for escaped characters that could affect a terminal."""
        typer.echo(_UNSAFE_IN_JSON.sub(_json_escape, text.decode()).encode())

    def table(self, columns: Sequence[Column], rows: Sequence[Row]) -> None:
        """Print rows as a table with titles."""
        columns = [column for column in columns if not column.optional or _is_needed(column, rows)]
        if self.terminal:
            self._rich_table(columns, rows)
            return
        cells = [[self._cell(column, row) for column in columns] for row in rows]
        for line in _aligned([[column.title_for_pipe for column in columns], *cells]):
            typer.echo(line)

    def detail(self, members: Mapping[str, Any]) -> None:
        """Print a line for each member, with the names of the API."""
        lines = _aligned([[name, self._value(name, value)] for name, value in members.items()])
        if not self.terminal:
            for line in lines:
                typer.echo(line)
            return
        from rich.text import Text

        width = max((len(name) for name in members), default=0)
        console = self._console()
        for line, value in zip(lines, members.values(), strict=True):
            text = Text(line, style=_STYLES.get(str(value), ""))
            text.stylize("default dim", 0, width)
            console.print(text, soft_wrap=True)

    @contextmanager
    def waiting(self, text: str) -> Iterator[Callable[[str], None]]:
        """Show a spinner while the block runs, if standard error is a terminal. Yield a function that sets its text."""
        terminal = sys.stderr.isatty()
        if not (terminal and self.terminal):
            yield lambda _text: None
            return
        from rich.console import Console

        with Console(stderr=True).status(_plain(text)) as status:
            yield lambda text: status.update(_plain(text))

    def time(self, epoch_ms: int) -> str:
        """Return a time as local ISO time."""
        return times.local_time(epoch_ms, self._zone)

    def iso_time(self, text: str) -> str:
        """Return an ISO time of the API as local ISO time; any other text is unchanged."""
        try:
            return self.time(self.moment_ms(text))
        except ValueError:
            return text

    def moment_ms(self, text: str, *, later: bool = False) -> int:
        """Return the epoch milliseconds of a time given by a user. Raises ValueError.

        A length of time is before now, or after it with `later`.
        """
        return times.moment_ms(text, self.now_ms, later=later)

    def _rich_table(self, columns: Sequence[Column], rows: Sequence[Row]) -> None:
        from rich.table import Table
        from rich.text import Text

        console = self._console()
        cells = {column: [self._cell(column, row) for row in rows] for column in columns}
        key = next((column for column in columns if column.kind == "id"), None)
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        shown = [column for column in columns if _has_room(column, key) and _says_something(cells[column])]
        for column in shown:
            bends = column.kind in ("id", "message")
            justify: JustifyMethod = "right" if column.kind in ("number", "length") else "left"
            table.add_column(column.title, justify=justify, no_wrap=not bends, overflow="fold")
        for index in range(len(rows)):
            texts = [cells[column][index] for column in shown]
            table.add_row(*(Text(text, style=_STYLES.get(text, "")) for text in texts))
        console.print(table)
        for message in (column for column in columns if column.kind == "message" and column not in shown):
            self._notes(cells[key] if key else [], cells[message])

    def _notes(self, keys: Sequence[str], messages: Sequence[str]) -> None:
        """Print the messages of a table below it, because a column of messages would leave too little room."""
        for key, message in zip(keys, messages, strict=True):
            if message != NOTHING:
                typer.echo(f"{key}: {message}")

    def _console(self) -> Console:
        from rich.console import Console

        # rich itself respects NO_COLOR. Variables such as FORCE_COLOR must not make it treat a pipe as a terminal.
        return Console(
            file=sys.stdout,
            width=self._width,
            force_terminal=self.terminal,
            highlight=False,
            markup=False,
            emoji=False,
        )

    def _cell(self, column: Column, row: Row) -> str:
        value = row.get(column.member)
        if value is None or value == "":
            return NOTHING
        if column.kind == "time" and isinstance(value, int):
            return times.age(value, self.now_ms) if self.terminal else self.time(value)
        if column.kind == "length" and isinstance(value, int):
            return times.length(value) if self.terminal else str(value)
        text = safe(str(value))
        return _cut(text) if column.kind == "message" and self.terminal else text

    def _value(self, name: str, value: Any) -> str:
        if value is None or value == "":
            return NOTHING
        if name.endswith("At") and isinstance(value, int):
            return self.time(value)
        if isinstance(value, bool):
            return str(value).lower()
        return safe(
            value if isinstance(value, str) else compact(value) if isinstance(value, dict | list) else str(value)
        )


def safe(text: str) -> str:
    """Return `text` with control characters and similar ones escaped, so that it cannot affect a terminal."""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def compact(value: Any) -> str:
    """Return a parsed JSON value as text on one line."""
    import json

    return json.dumps(value, ensure_ascii=False)


def _json_escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def _has_room(column: Column, key: Column | None) -> bool:
    """Return True if the column is part of the table on a terminal. Messages and ids together would be too wide."""
    return column.on_terminal and (column.kind != "message" or key is None)


def _is_needed(column: Column, rows: Sequence[Row]) -> bool:
    return any(row.get(column.member) not in (None, "", column.usual) for row in rows)


def _says_something(cells: Sequence[str]) -> bool:
    return not cells or any(cell != NOTHING for cell in cells)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CELL_CHARACTERS else f"{text[: MAX_CELL_CHARACTERS - 1]}…"


def _plain(text: str) -> Text:
    from rich.text import Text

    return Text(safe(text))


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the rows as lines with aligned columns, without trailing spaces."""
    from rich.cells import cell_len

    widths = [max(cell_len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
