"""The problem of a response that is not HTTP/1.1, for all connections that read responses."""

from __future__ import annotations

import re

from queue_engine.net.error_types import BadResponse

MAX_HEAD_BYTES = 64 * 1024
"""Maximum size of a response's status line and headers, including line ends."""

_BEGINNINGS = (
    (re.compile(rb"[\x14-\x17]\x03[\x00-\x04]"), "the port speaks TLS (https), not plain HTTP"),
    (re.compile(rb"\x00\x00[\x00-\xff]\x04[\x00\x01]\x00\x00\x00\x00"), "the port speaks HTTP/2 only, not HTTP/1.1"),
)


def head_too_long() -> BadResponse:
    """Return the error for a head that is longer than MAX_HEAD_BYTES."""
    return BadResponse(f"its headers are longer than {MAX_HEAD_BYTES} bytes in all")


def other_protocol(beginning: bytes) -> BadResponse | None:
    """Return the error for a response of a protocol that its first bytes show; None when they show none."""
    found = (BadResponse(problem) for pattern, problem in _BEGINNINGS if pattern.match(beginning))
    return next(found, None)


def no_status_line(line: bytes) -> BadResponse:
    """Return the error for a response whose first line is not a status line."""
    return BadResponse("it does not begin with a valid HTTP status line", line)


def refused(words: str, line: bytes = b"") -> BadResponse:
    """Return the error for a response that a parser does not take, in its words, with the line that shows why."""
    problem = words or "it is not HTTP"
    if problem.split()[0].isalpha() and not problem.isupper():
        problem = problem[0].lower() + problem[1:]
    return BadResponse(problem, line)
