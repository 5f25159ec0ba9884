"""`queue-engine events`."""

from __future__ import annotations

from typing import Annotated

import typer

from queue_engine.cli.client import CommandError, Refused, Unreachable
from queue_engine.cli.command import PANEL, PATIENCE_SECONDS, POLL_SECONDS, Session, command

commands = typer.Typer()
_DATA = b"data: "
_NAME = b"event: "


@command(commands, "events", panel=PANEL)
def follow_events(
    session: Session,
    topics: Annotated[
        list[str],
        typer.Argument(
            metavar="TOPIC...",
            help="overview, or as in endpoint:7, task:7:hello_1, log:7:7-91aa2c, logs:7 and bulk:7:3f0a",
        ),
    ],
) -> None:
    """Print the states of endpoints, tasks, logs and operations as they change, a line of JSON for each.

    A lost connection is made again, and each topic then begins with its state. The command ends with 3 when the API
    has been away for 30 seconds.
    """
    began = session.monotonic()
    while True:
        reason: CommandError = Unreachable("the connection was lost")
        try:
            name = b""
            for line in session.api.lines("v2/events", query={"topics": ",".join(topics)}):
                began = session.monotonic()
                if line.startswith(_NAME):
                    name = line.removeprefix(_NAME)
                elif line.startswith(_DATA) and name not in (b"hello", b"bye"):
                    session.screen.json(line.removeprefix(_DATA))
        except (Refused, Unreachable) as error:
            if isinstance(error, Refused) and not error.passes:
                raise
            reason = error
        if session.monotonic() - began >= PATIENCE_SECONDS:
            raise reason
        session.pause((isinstance(reason, Refused) and reason.retry_after_seconds) or POLL_SECONDS)
