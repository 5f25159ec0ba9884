"""Write the input or output of a task to a file, to a pipe, or to a terminal if it is text."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from queue_engine.cli.client import ENDPOINTS, Data, WrongUse
from queue_engine.cli.command import Session

STANDARD_OUTPUT = Path("-")


def download(session: Session, endpoint_id: str, task: str, part: str, file: Path | None) -> None:
    """Write the `input` or `output` of a task to a file; without one, to standard output.

    On a terminal, control characters are escaped, and other than text is refused unless `-` is given. A file that
    exists is replaced when the whole is there. Raises WrongUse if it cannot be written.
    """
    if session.as_json and (file is None or file == STANDARD_OUTPUT):
        raise WrongUse("--json: needs --output FILE")
    with session.api.download(ENDPOINTS, endpoint_id, "tasks", task, part) as (media_type, pieces):
        if file is not None and file != STANDARD_OUTPUT:
            size = _write(file, pieces)
            told = Data(json.dumps({"file": str(file), "contentType": media_type, "bytes": size}).encode())
            session.show(told, lambda: session.screen.line(f"{file}: {size} bytes, {media_type}"))
        elif file is None and session.screen.terminal:
            _show(session, part, media_type, pieces)
        else:
            _send(sys.stdout.buffer, pieces)
            sys.stdout.buffer.flush()


def _show(session: Session, part: str, media_type: str, pieces: Iterator[bytes]) -> None:
    name, _, _ = media_type.partition(";")
    if name == "application/json":
        session.screen.json(b"".join(pieces))
    elif name == "text/plain":
        for line in b"".join(pieces).decode("utf-8", "replace").splitlines():
            session.screen.line(line)
    else:
        raise WrongUse(
            f"the {part} is {media_type}, which may harm a terminal; use --output FILE, or --output - to print it"
        )


def _write(file: Path, pieces: Iterator[bytes]) -> int:
    try:
        with _opened(file) as opened_file:
            return _send(opened_file, pieces)
    except OSError as error:
        raise WrongUse(f"--output {file}: cannot be written: {error.strerror or error}") from None


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    """Yield a new file that replaces the one of this name at the end; what is no regular file is written itself."""
    if file.exists() and not file.is_file():
        with file.open("wb") as special:
            yield special
        return
    part = file.with_name(f".{file.name[:200]}.{os.getpid()}.part")
    try:
        with part.open("xb") as new:
            yield new
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def _send(target: BinaryIO, pieces: Iterator[bytes]) -> int:
    size = 0
    for piece in pieces:
        target.write(piece)
        size += len(piece)
    return size
