"""Journals: what each part saw, as JSON lines that survive the part's SIGKILL.

Imports nothing but the standard library: the container and the receiver start in a moment.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

Record = dict[str, Any]
"""One line: `what` happened, when by `mono` (CLOCK_MONOTONIC, one for all processes) and by `wall`, in seconds."""


class Journal:
    """Appends records to one file. Several processes may write to the same one.

    Each record is a single write to a file that is open for appending, so a process that is killed leaves whole lines
    and at most one cut line, its last.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def write(self, what: str, **fields: Any) -> Record:
        """Append one record, stamped with both clocks; returns it."""
        record = {"what": what, "mono": time.monotonic(), "wall": time.time(), **fields}
        os.write(self._file, json.dumps(record, separators=(",", ":")).encode() + b"\n")
        return record

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_journal(path: Path) -> list[Record]:
    """All records in the order in which they were written; none when there is no such file.

    A line that was cut by a kill is left out, wherever it is: another process may have gone on behind it.
    """
    return list(_records(path.read_bytes())) if path.exists() else []


def _records(text: bytes) -> Iterator[Record]:
    for line in text.split(b"\n"):
        # Behind a cut line the next record begins without a line break.
        for part in (line, line[line.rfind(b'{"what":') :]):
            try:
                record = json.loads(part)
            except ValueError:
                continue
            yield record
            break
