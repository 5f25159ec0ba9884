"""`queue-engine workers …`."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from queue_engine.cli.client import ENDPOINTS
from queue_engine.cli.command import PANEL, Endpoint, Session, command
from queue_engine.cli.output import Column

_OTHER_NAMES = {"replace": "restart", "remove": "drain", "delete": "drain"}
"""The commands by words of their descriptions and of the console."""


class _Group(TyperGroup):
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command. The error for another name names the command that is meant."""
        if args and (meant := _OTHER_NAMES.get(args[0])):
            ctx.fail(f"No such command {args[0]!r}. Did you mean {meant!r}?")
        return super().resolve_command(ctx, args)


commands = typer.Typer()
group = typer.Typer(no_args_is_help=True, cls=_Group, help="List, restart and drain the workers of endpoints.")
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
_ALL_COLUMNS = (Column("ENDPOINT", "endpointName"), *_COLUMNS)
PAGE_SIZE = 1000

Worker = Annotated[str, typer.Argument(metavar="WORKER", help="Id of a worker, as `workers list` shows it")]


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


@command(group, "all")
def list_all_workers(session: Session) -> None:
    """List the workers of all endpoints."""
    cursor: str | None = None
    while True:
        found = session.api.get("v2/workers", query={"pageSize": PAGE_SIZE, "cursor": cursor})
        page = found.members()
        session.show(found, lambda: session.screen.table(_ALL_COLUMNS, page["items"]))  # noqa: B023 - called at once
        cursor = page.get("nextCursor")
        if cursor is None:
            return


@command(group, "restart")
def restart_worker(session: Session, endpoint: Endpoint, worker: Worker) -> None:
    """Replace a worker: its tasks finish within the grace period, it ends, and another one starts."""
    _order(session, endpoint, worker, "restart", "is replaced")


@command(group, "drain")
def drain_worker(session: Session, endpoint: Endpoint, worker: Worker) -> None:
    """Remove a worker, and lower the number of workers by one."""
    _order(session, endpoint, worker, "drain", "is removed")


def _order(session: Session, endpoint: str, worker: str, order: str, text: str) -> None:
    done = session.api.send("POST", ENDPOINTS, session.api.endpoint_id(endpoint), "workers", worker, order)
    session.show(done, lambda: session.screen.line(f"worker {worker} {text}"))
