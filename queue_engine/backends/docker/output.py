"""The output of a worker's container, as the controller's log followers read it."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from queue_engine.backends.base import Phase
from queue_engine.backends.container_logs import LogEntry, stamp_ns
from queue_engine.backends.docker.engine import Document, Engine, EngineError
from queue_engine.backends.docker.explain import explain, time_ms
from queue_engine.backends.docker.names import NOTE, VARIABLES, Part

SECOND_NS = 1_000_000_000


async def follow(
    engine: Engine, container: str, since_ns: int, note: LogEntry | None = None
) -> AsyncGenerator[LogEntry, None]:
    """Yield the output from `since_ns` on, until the container has ended. Raises EngineError.

    The engine is asked from a second earlier, because podman stores whole seconds and leaves out the given one. `note`
    comes before all output.
    """
    if note is not None:
        yield note
    since_seconds = max(0, since_ns // SECOND_NS - 1)
    async with aclosing(engine.output(container, since_seconds)) as pieces:
        async for piece in pieces:
            yield entry_of(piece)
    if not has_ended(await engine.inspect(container)):
        raise EngineError(0, "the engine has ended the stream of the container's output")


def note_in(agent: Document) -> LogEntry | None:
    """Return the first line of a worker's log in the description of its agent's container; None if there is none.

    Its time is before that of all output, also in whole seconds, and always the same.
    """
    text = (agent["Config"].get("Labels") or {}).get(NOTE, "")
    created_ms = time_ms(agent.get("Created"))
    if not text or created_ms is None:
        return None
    return LogEntry((created_ms // 1000 - 1) * SECOND_NS, f"{text}\n".encode())


def entry_of(piece: bytes) -> LogEntry:
    """Return the time and the data of a piece of output: `<time in RFC 3339> <data>`. Raises EngineError."""
    stamp, separator, data = piece.partition(b" ")
    try:
        return LogEntry(stamp_ns(stamp.decode("ascii")), data if separator else b"")
    except ValueError as error:
        raise EngineError(0, f"the engine sent output without its time: {error}") from error


def has_ended(description: Document | None) -> bool:
    """Return True if the described container has ended, so that its output is complete.

    One that was created and not started yet has not ended, although engines end the stream of its output at once.
    """
    return description is None or explain(description, Part.MAIN).phase is Phase.ENDED


def variables_in(description: Document) -> Mapping[str, str]:
    """Return the endpoint's variables in the description of its container."""
    config = description["Config"]
    names = frozenset(json.loads(config["Labels"].get(VARIABLES, "[]")))
    assignments = (one.partition("=") for one in config.get("Env") or [])
    return {name: value for name, _, value in assignments if name in names}
