"""`queue-engine console`."""

from __future__ import annotations

import webbrowser
from typing import Annotated, Any

import typer

from queue_engine.cli.command import PANEL, Session, command

commands = typer.Typer()
LINKS = "v2/console-links"


@command(commands, "console", panel=PANEL)
def open_console(
    session: Session,
    in_browser: Annotated[bool, typer.Option("--open", help="Open the link in the browser of this machine")] = False,
) -> None:
    """Print a link that logs a browser in to the web console with the rights of the API key.

    The link works once, within ten minutes.
    """
    made = session.api.send("POST", LINKS)
    link: dict[str, Any] = made.members()
    session.show(made, lambda: session.screen.line(str(link.get("url"))))
    if in_browser and not webbrowser.open(str(link.get("url"))):
        typer.echo("queue-engine: no browser could be opened; open the link by hand", err=True)
