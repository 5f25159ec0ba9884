"""Journals: what each part saw, as JSON lines that survive the part's SIGKILL.

Imports nothing but the standard library: the container and the receiver start in a moment.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
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
        self.append(json.dumps(record, separators=(",", ":")).encode() + b"\n")
        return record

    def append(self, line: bytes) -> None:
        """Append the line of a record."""
        os.write(self._file, line)

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class JournalOverTcp(Journal):
    """Sends records to a JournalServer, from a container that shares no file with the suite.

    The server has each record when `write` returns, so a process that is killed later leaves it.
    """

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port))
        self._responses = self._socket.makefile("rb")

    @property
    def own_address(self) -> str:
        """The address of this process in the network of the server."""
        return str(self._socket.getsockname()[0])

    def append(self, line: bytes) -> None:
        self._socket.sendall(line)
        if not self._responses.readline():
            raise ConnectionResetError("the server of the journal has ended")

    def close(self) -> None:
        self._responses.close()
        self._socket.close()


class JournalServer:
    """Appends records that come over TCP to a file. `listener` is a bound socket, which it closes at its end."""

    def __init__(self, listener: socket.socket, path: Path) -> None:
        self._listener = listener
        self._journal = Journal(path)
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._listener.setblocking(True)
        self._listener.listen()
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in (self._listener, *self._connections):
            with suppress(OSError):  # its other end has closed it
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()
        self._journal.close()

    def _accept(self) -> None:
        with suppress(OSError):  # the end of the listener
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                self._start(self._receive, connection)

    def _receive(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines, suppress(OSError):
            for line in lines:
                self._journal.append(line)
                connection.sendall(b"\n")

    def _start(self, run: Any, *given: Any) -> None:
        thread = threading.Thread(target=run, args=given, daemon=True)
        self._threads.append(thread)
        thread.start()


def read_journal(path: Path) -> list[Record]:
    """All records in the order in which they were written; none when there is no such file.

    A line that was cut by a kill is left out, wherever it is: another process may have gone on behind it.
    """
    return list(_records(path.read_bytes())) if path.exists() else []


class JournalReader:
    """Reads a journal that is being written, each line once, for those who look at it again and again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._end = 0
        """The end of the last whole line that was read, in bytes."""
        self._read: list[Record] = []

    def records(self) -> list[Record]:
        """Return the records of all whole lines so far."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._end)
                lines, line_break, _ = file.read().rpartition(b"\n")
            if line_break:
                self._read += _records(lines)
                self._end += len(lines) + 1
        return self._read


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
