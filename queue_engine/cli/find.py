"""`queue-engine find`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from queue_engine.cli.command import PANEL, Session, command

commands = typer.Typer()


@command(commands, "find", panel=PANEL)
def find(
    session: Session,
    text: Annotated[str, typer.Argument(help="Id of a task, or id or part of the name of an endpoint")],
) -> None:
    """Find endpoints by their names, and tasks by their ids over all endpoints."""
    found = session.api.get("v2/search", query={"q": text})
    members: dict[str, Any] = found.members()

    def show() -> None:
        for task in members["tasks"]:
            session.screen.line(
                f"task {task['taskId']} of endpoint {task['endpointId']} {task['endpointName']}, {task['state']}"
            )
        for endpoint in members["endpoints"]:
            session.screen.line(f"endpoint {endpoint['id']} {endpoint['name']}, {endpoint['status']}")
        if not members["complete"]:
            session.screen.line("there may be more, which a limit leaves out")

    session.show(found, show)
