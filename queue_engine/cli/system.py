"""`queue-engine system`."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import typer

from queue_engine.cli.client import ENDPOINTS, Refused
from queue_engine.cli.command import PANEL, Session, command
from queue_engine.cli.output import Column, safe

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

_MAX_SHOWN = 7
"""Limit of the endpoints in need of attention that are shown one by one, as on the Overview."""


@command(commands, "system", panel=PANEL)
def show_system(session: Session) -> None:
    """Show what is wrong with the installation, which endpoints need attention, and what the tenant uses. An operator's
    key shows the store and the processes.
    """
    found = session.api.get("v2/system")
    session.show(found, lambda: _show(session, found.members()))


def _endpoints_in_need(session: Session) -> list[str]:
    """Return a line for each endpoint whose tasks cannot run, as on the Overview of the console, and one for the rest.

    Empty for a key that sees no endpoints, such as that of an operator.
    """
    try:
        endpoints = session.api.get(ENDPOINTS).rows()
    except Refused as error:
        if error.status != HTTPStatus.FORBIDDEN:
            raise
        return []
    in_need = [(one, problem) for one in endpoints if (problem := _problem_of(one))]
    if not in_need:
        return []
    number = "1 endpoint needs" if len(in_need) == 1 else f"{len(in_need)} endpoints need"
    lines = [f"{number} attention (`queue-engine endpoints list` shows all):"]
    for endpoint, problem in in_need[:_MAX_SHOWN]:
        lines.append(f"  {endpoint['id']} ({safe(str(endpoint['name']))}): {problem}{_reason(session, endpoint)}")
    if len(in_need) > _MAX_SHOWN:
        lines.append(f"  and {len(in_need) - _MAX_SHOWN} more")
    return lines


def _problem_of(endpoint: dict[str, Any]) -> str | None:
    """Return what keeps the endpoint's tasks from running; None without a problem."""
    if endpoint["status"] in ("STOPPED", "STOPPING"):
        return None
    waiting, wanted = endpoint["queuedTasks"], endpoint["totalWorkers"]
    tasks = "1 task waits" if waiting == 1 else f"{waiting} tasks wait"
    if endpoint["status"] == "FAILED":
        return f"no worker comes up, {tasks}"
    if wanted == 0:
        return f"it has 0 workers, and {tasks}" if waiting else None
    return f"none of {wanted} workers runs, {tasks}" if waiting and not endpoint["runningWorkers"] else None


def _reason(session: Session, endpoint: dict[str, Any]) -> str:
    """Return the reason that the endpoint's detail has, after a colon; empty without one."""
    try:
        error = session.api.get(ENDPOINTS, str(endpoint["id"])).members().get("error")
    except Refused as refused:
        if refused.status != HTTPStatus.NOT_FOUND:  # it was deleted
            raise
        return ""
    return f": {safe(error)}" if error else ""


def _show(session: Session, system: dict[str, Any]) -> None:
    for one in system["warnings"]:
        session.screen.line(f"{one['level']}: {one['message']}")
    if not system["warnings"]:
        session.screen.line("the installation is sound")
    for line in _endpoints_in_need(session):
        session.screen.line(line)
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
