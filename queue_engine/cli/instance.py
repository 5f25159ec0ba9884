"""`queue-engine instance …`."""

from __future__ import annotations

import typer

from queue_engine.cli.options import RedisUrl
from queue_engine.cli.running import fail, run
from queue_engine.cli.store_access import with_store

commands = typer.Typer()
group = typer.Typer(help="The installation that a store's data belongs to. Controllers adopt only its workers.")
commands.add_typer(group, name="instance")


@group.command("renew")
def renew(
    redis_url: RedisUrl = None,
) -> None:
    """Make the data of a store a new installation.

    For a copy of a store beside the original, before a controller uses the copy: it then starts workers of its own, and
    leaves those of the original alone. Refused while a controller leads.
    """
    renewed: str | None = run(with_store(redis_url, lambda store: store.renew_instance_id()))
    if renewed is None:
        fail("a controller leads with this store: stop all controllers first")
    typer.echo(f"the installation is {renewed} now")
