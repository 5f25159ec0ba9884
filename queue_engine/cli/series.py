"""`queue-engine series`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from queue_engine.cli.client import ENDPOINTS, WrongUse
from queue_engine.cli.command import PANEL, Session, command
from queue_engine.cli.output import Column

commands = typer.Typer()

USUAL = ("queued", "running", "submitted", "succeeded", "failed", "waitP95", "runP95")
"""The figures that are shown unless others are asked for."""
_TITLES = {"waitP50": "WAIT_P50", "waitP95": "WAIT_P95", "runP50": "RUN_P50", "runP95": "RUN_P95"}
_LENGTHS = {*_TITLES, "oldest"}


@command(commands, "series", panel=PANEL)
def show_series(
    session: Session,
    endpoint: Annotated[
        str | None, typer.Argument(metavar="ENDPOINT", help="Id or name of an endpoint; by default all endpoints")
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(help="A figure, such as queued, submitted or waitP95; can be repeated"),
    ] = None,
    since: Annotated[
        str, typer.Option(help="Begin: 10m, 2h, 7d (ago), an ISO time (UTC by default) or epoch milliseconds")
    ] = "1h",
    until: Annotated[str | None, typer.Option(help="End; by default now")] = None,
) -> None:
    """Show figures over time: waiting and running tasks, counts, times of waiting and running.

    Intervals in which no controller sampled are left out. With --json they are there, with null.
    """
    query = {
        "metric": ",".join(metric or USUAL),
        "from": _moment(session, "--since", since),
        "to": _moment(session, "--until", until),
    }
    path = ("v2/series",) if endpoint is None else (ENDPOINTS, session.api.endpoint_id(endpoint), "series")
    found = session.api.get(*path, query=query)
    session.show(found, lambda: _show(session, found.members()))


def _moment(session: Session, option: str, text: str | None) -> int | None:
    try:
        return None if text is None else session.screen.moment_ms(text)
    except ValueError as error:
        raise WrongUse(f"{option}: {error}") from None


def _show(session: Session, found: Mapping[str, Any]) -> None:
    metrics: Mapping[str, list[float | None]] = found["metrics"]
    step_ms = found["stepSeconds"] * 1000
    rows = [
        {"at": session.screen.time(found["from"] + index * step_ms), **dict(zip(metrics, values, strict=True))}
        for index, values in enumerate(zip(*metrics.values(), strict=True))
        if any(value is not None for value in values)
    ]
    columns = [Column("TIME", "at"), *(_column(name) for name in metrics)]
    session.screen.table(columns, rows)
    if session.screen.terminal:
        session.screen.line(f"each of {found['stepSeconds']} s; {len(rows)} intervals have figures")


def _column(name: str) -> Column:
    return Column(_TITLES.get(name, name.upper()), name, "length" if name in _LENGTHS else "number")
