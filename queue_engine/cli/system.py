"""`queue-engine system`."""

from __future__ import annotations

from typing import Any

import typer

from queue_engine.cli.command import PANEL, Session, command
from queue_engine.cli.output import Column

commands = typer.Typer()

_USE = (Column("USE", "text", "id"), Column("USED", "used", "number"), Column("LIMIT", "limit", "number"))
_STORE = (
    Column("SERVER", "server", "id"),
    Column("ADDRESS", "address", optional=True),
    Column("USED BYTES", "usedBytes", "number"),
    Column("LIMIT", "maxBytes", "number"),
    Column("LATENCY MS", "latencyMs", "number"),
    Column("CLIENTS", "clients", "number"),
    Column("APPENDS", "appends"),
    Column("REPLICAS", "replicas", "number"),
)
_PROCESSES = (
    Column("PROCESS", "role"),
    Column("HOST", "host", "id"),
    Column("PID", "pid", "number"),
    Column("VERSION", "version"),
    Column("STARTED", "startedAt", "time"),
    Column("HEARTBEAT", "lastHeartbeatAt", "time"),
    Column("LEADS", "leads"),
)


@command(commands, "system", panel=PANEL)
def show_system(session: Session) -> None:
    """Show what is wrong with the installation, and what the tenant uses. An operator's key shows the store and the
    processes.
    """
    found = session.api.get("v2/system")
    session.show(found, lambda: _show(session, found.members()))


def _show(session: Session, system: dict[str, Any]) -> None:
    for one in system["warnings"]:
        session.screen.line(f"{one['level']}: {one['message']}")
    if not system["warnings"]:
        session.screen.line("nothing is wrong")
    if system["use"] is not None:
        rows = [{**one, "limit": one["value"] or None} for one in system["use"]]
        session.screen.table(_USE, rows)
    if system["store"] is not None:
        rows = [
            {**one, "appends": "yes" if one["appendsToFile"] else "no", "replicas": len(one["replicas"])}
            for one in system["store"]
        ]
        session.screen.table(_STORE, rows)
        session.screen.table(
            _PROCESSES, [{**one, "leads": "yes" if one["leads"] else "no"} for one in system["processes"]]
        )
