"""`queue-engine keys …`."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Annotated

import typer

from queue_engine.cli.options import RedisUrl
from queue_engine.cli.running import fail, run
from queue_engine.cli.store_access import with_store
from queue_engine.crypto.api_keys import new_api_key
from queue_engine.store.api_keys import FIRST_TENANT
from queue_engine.store.store import Store

commands = typer.Typer()
group = typer.Typer(no_args_is_help=True, help="Create, list and revoke API keys.")
commands.add_typer(group, name="keys")

SECOND_TENANT = (
    "queue-engine: there is a second tenant now: `queue-engine up` no longer sends webhooks to loopback, because one "
    "tenant could reach services of another. QUEUE_ENGINE_WEBHOOK_ALLOW=127.0.0.0/8,::1/128 allows it again"
)


@group.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="Purpose of the key, for the list of keys")] = "",
    tenant: Annotated[str, typer.Option(help="Tenant that the key belongs to")] = FIRST_TENANT,
    redis_url: RedisUrl = None,
) -> None:
    """Create an API key and print it. It is shown only once, because only its hash is stored."""
    key = new_api_key()
    typer.echo(run(with_store(redis_url, lambda store: _put_key(store, key, tenant, name))))


async def _put_key(store: Store, key: str, tenant: str, name: str) -> str:
    """Store the key, and print a warning if it creates a second tenant."""
    had_one_tenant = await store.api_keys.has_one_tenant()
    await store.api_keys.put(key, tenant=tenant, name=name)
    if had_one_tenant and not await store.api_keys.has_one_tenant():
        typer.echo(SECOND_TENANT, err=True)
    return key


@group.command("list")
def list_keys(
    redis_url: RedisUrl = None,
) -> None:
    """List the API keys, each with the beginning of its hash."""
    for key in run(with_store(redis_url, lambda store: store.api_keys.all())):
        created = datetime.fromtimestamp(key.created_at_ms / 1000, UTC)
        typer.echo(f"{key.key_hash[:12]}  {key.tenant:<20} {created:%Y-%m-%d %H:%M}  {key.name}")


@group.command("revoke")
def revoke_key(
    key_hash: Annotated[str, typer.Argument(help="At least 8 characters of the key's hash, as `keys list` shows it")],
    redis_url: RedisUrl = None,
) -> None:
    """Revoke an API key. It stops working within a second."""
    if len(key_hash) < 8:
        fail("give at least 8 characters of the hash")
    revoked = run(with_store(redis_url, lambda store: store.api_keys.revoke(key_hash)))
    typer.echo(f"{len(revoked)} revoked")
    if not revoked:
        sys.exit(1)
