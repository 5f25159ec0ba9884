"""A client's connection that leaves HTTP after a 101 response."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

UPGRADE = "queue_engine.upgrade"
"""The name of the function `Upgrade` in the scope of a request that asks for another protocol."""
READ_BYTES = 16 * 1024
"""Limit of a read. Twice as much is buffered at most; then the client has to wait."""


@dataclass(frozen=True)
class Stream:
    """The connection as a stream of bytes."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


@dataclass(frozen=True)
class ClientStream(Stream):
    """The stream of a client. `stopping` is set when the server stops."""

    stopping: asyncio.Event


Upgrade = Callable[[bytes], ClientStream]
"""Sends the head of the 101 response, and returns the stream that follows it. Raises InvalidRequest if the client has
sent something before, and ClientGone."""
