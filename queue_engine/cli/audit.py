"""`queue-engine audit`."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import typer

from queue_engine.cli.client import WrongUse
from queue_engine.cli.command import PANEL, Session, command
from queue_engine.cli.output import Column

commands = typer.Typer()

_COLUMNS = (
    Column("TIME", "time", "time"),
    Column("CHANGE", "action"),
    Column("OBJECT", "target", "id"),
    Column("KEY", "keyName"),
    Column("KEY ID", "keyId", on_terminal=False),
    Column("ADDRESS", "address"),
    Column("CERTAIN", "certain", on_terminal=False),
)


@command(commands, "audit", panel=PANEL)
def show_audit(
    session: Session,
    key: Annotated[str | None, typer.Option(help="Only changes with the key that has this id or name")] = None,
    action: Annotated[
        list[str] | None, typer.Option(help="Only this kind of change, such as delete_endpoint; can be repeated")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Only changes of objects with these words, such as 'endpoint 7'")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Begin: 10m, 2h, 7d (ago), an ISO time (UTC by default) or epoch milliseconds")
    ] = None,
    until: Annotated[str | None, typer.Option(help="End; same forms as --since")] = None,
    size: Annotated[int, typer.Option(min=1, help="Number of changes per page")] = 20,
    before: Annotated[str | None, typer.Option(help="Continue behind this id")] = None,
    every: Annotated[bool, typer.Option("--all", help="Print all of them, page by page")] = False,
) -> None:
    """Show the changes that were made in the tenant, newest first.

    queue-engine audit --action delete_endpoint --since 2d
    """
    query = {
        "key": key,
        "action": ",".join(action) if action else None,
        "target": target,
        "from": _moment(session, "--since", since),
        "to": _moment(session, "--until", until),
        "pageSize": size,
    }
    _show_walk(session, query, before, every=every)


def _show_walk(session: Session, query: dict[str, str | int | None], before: str | None, *, every: bool) -> None:
    """Print the changes of all pages, or of the first page that has any."""
    shown, more = False, True
    while more:
        found = session.patiently(partial(session.api.get, "v2/audit", query={**query, "before": before}))
        page: dict[str, Any] = found.members()
        items, more, before = page["items"], page["hasMore"], page["nextBefore"]
        if items or (not more and not shown):
            shown = True
            session.show(found, partial(session.screen.table, _COLUMNS, items))
            if not every:
                if more and session.screen.terminal:
                    typer.echo(f"more: --before {before}, or --all", err=True)
                return


def _moment(session: Session, option: str, text: str | None) -> int | None:
    try:
        return None if text is None else session.screen.moment_ms(text)
    except ValueError as error:
        raise WrongUse(f"{option}: {error}") from None
