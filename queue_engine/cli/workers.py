"""`queue-engine workers …`."""

from __future__ import annotations

from typing import Annotated

import typer

from queue_engine.cli.client import ENDPOINTS
from queue_engine.cli.command import PANEL, Endpoint, Session, command
from queue_engine.cli.output import Column

commands = typer.Typer()
group = typer.Typer(no_args_is_help=True, help="Show the workers of an endpoint.")
commands.add_typer(group, name="workers", rich_help_panel=PANEL)

_COLUMNS = (
    Column("WORKER", "workerId", "id"),
    Column("STATUS", "status"),
    Column("TASKS", "runningTasks", "number"),
    Column("RESTARTS", "restarts", "number"),
    Column("HEARTBEAT", "lastHeartbeatAt", "time"),
    Column("CREATED", "createdAt", "time"),
    Column("GPU", "gpuType"),
    Column("REGION", "region"),
    Column("ERROR", "error", "message"),
)


@command(group, "list")
def list_workers(
    session: Session,
    endpoint: Endpoint,
    status: Annotated[list[str] | None, typer.Option(help="Only these statuses; may be repeated")] = None,
) -> None:
    """List the workers of an endpoint, oldest first."""
    query = {"statusList": ",".join(status) if status else None}
    found = session.api.get(ENDPOINTS, session.api.endpoint_id(endpoint), "workers", query=query)
    session.show(found, lambda: session.screen.table(_COLUMNS, found.rows()))
