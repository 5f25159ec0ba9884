"""`queue-engine catalogue` and `queue-engine templates`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from queue_engine.cli.client import WrongUse
from queue_engine.cli.command import PANEL, Session, command
from queue_engine.cli.output import Column

commands = typer.Typer()

_TYPES = (
    Column("GPU TYPE", "name", "id"),
    Column("PRICE PER HOUR", "pricePerHour", "number"),
    Column("REGIONS", "regions"),
)
_TEMPLATES = (Column("TEMPLATE", "id", "id"), Column("TITLE", "title"), Column("RUNS", "text"))


@command(commands, "catalogue", panel=PANEL)
def show_catalogue(session: Session) -> None:
    """List the GPU types that endpoints may ask for, with the regions that have them. --json has the settings too."""
    found = session.api.get("v2/catalogue")
    session.show(found, lambda: session.screen.table(_TYPES, _rows(found.members())))


@command(commands, "templates", panel=PANEL)
def list_templates(
    session: Session,
    endpoint_of: Annotated[
        str | None,
        typer.Option("--endpoint", metavar="TEMPLATE", help="Print the endpoint of a template, for `endpoints create`"),
    ] = None,
) -> None:
    """List templates of endpoints, or print the endpoint of one.

    queue-engine templates --endpoint example-worker > hello.json && queue-engine endpoints create --file hello.json
    """
    found = session.api.get("v2/templates")
    if endpoint_of is None:
        session.show(found, lambda: session.screen.table(_TEMPLATES, found.rows()))
        return
    bodies = {str(one["id"]): one["endpoint"] for one in found.rows()}
    if endpoint_of not in bodies:
        raise WrongUse(f"--endpoint: there is no template {endpoint_of}; there are {', '.join(bodies)}")
    session.screen.json(json.dumps(bodies[endpoint_of], indent=2, ensure_ascii=False).encode())


def _rows(catalogue: dict[str, Any]) -> list[dict[str, Any]]:
    regions, types = catalogue["regions"], catalogue["gpuTypes"]
    return [{**one, "regions": "any" if regions is None else _regions_of(one, regions)} for one in types]


def _regions_of(one: dict[str, Any], regions: list[dict[str, Any]]) -> str:
    having = (each for each in regions if each["gpuTypes"] is None or one["name"] in each["gpuTypes"])
    return ", ".join(str(each["name"]) for each in having)
