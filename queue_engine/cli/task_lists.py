"""Lists of tasks by filters, and exports, for the commands of `queue-engine tasks`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import typer

from queue_engine.cli.client import ENDPOINTS, CommandError, Data, NotInTime, Refused, Unreachable
from queue_engine.cli.command import PATIENCE_SECONDS, POLL_SECONDS, Session
from queue_engine.cli.raw_members import split_members

Query = Mapping[str, str | int | None]


def pages_of(session: Session, endpoint_id: str, query: Query, cursor: str) -> Iterator[Data]:
    """Yield the pages of a list, from the one that begins at the cursor."""
    following: str | None = cursor
    while following is not None:
        asked = {**query, "cursor": following}
        page = session.patiently(partial(session.api.get, ENDPOINTS, endpoint_id, "tasks", query=asked))
        following = page.split("items").values.get("nextCursor")
        if following is not None and not isinstance(following, str):
            raise Unreachable("the response is not the expected page")
        yield page


def export(session: Session, endpoint_id: str, query: Query, cursor: str) -> None:
    """Print the line of each task. A lost connection is made again, and the export continues.

    Raises CommandError with the cursor if it cannot be completed.
    """
    began = session.monotonic()
    while True:
        reason: CommandError
        try:
            for line in session.api.lines(
                ENDPOINTS, endpoint_id, "tasks", "export", query={**query, "cursor": cursor or None}
            ):
                try:
                    members = split_members(line, frozenset({"input", "output"})).values
                except ValueError:  # cut off by an outage, which the next line tells
                    continue
                if members.get("end") is True:
                    return
                if "end" in members:
                    cursor = str(members.get("nextCursor"))
                    break
                session.screen.json(line)
                cursor, began = str(members.get("cursor")), session.monotonic()
            else:
                raise Unreachable("the connection was lost")
            reason = NotInTime(str(members.get("reason")))
        except (Refused, Unreachable) as error:
            if isinstance(error, Refused) and not error.passes:
                raise
            reason = error
        if session.monotonic() - began >= PATIENCE_SECONDS:
            hint = f"; --cursor {cursor} continues it" if cursor else ""
            raise Unreachable(f"the export is not complete: {reason}{hint}")
        session.pause((isinstance(reason, Refused) and reason.retry_after_seconds) or POLL_SECONDS)


def note_next(session: Session, page: Mapping[str, Any]) -> None:
    """Say on a terminal how the list continues."""
    if session.screen.terminal and page.get("nextCursor"):
        typer.echo(f"more: --cursor {page['nextCursor']}, or --all", err=True)
