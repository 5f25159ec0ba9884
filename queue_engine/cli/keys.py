"""`queue-engine keys …`."""

from __future__ import annotations

import sys
import time
import uuid
from datetime import UTC, datetime
from typing import Annotated, Literal

import typer

from queue_engine.cli.options import RedisUrl
from queue_engine.cli.running import fail, run
from queue_engine.cli.store_access import with_store
from queue_engine.cli.times import duration_ms, moment_ms
from queue_engine.crypto.api_keys import new_api_key
from queue_engine.domain.api_keys import (
    DEFAULT_OVERLAP_SECONDS,
    MAX_ENDPOINTS_PER_KEY,
    MAX_KEYS_PER_TENANT,
    MAX_OVERLAP_SECONDS,
    ApiKey,
    Grant,
)
from queue_engine.domain.audit import Action, Change, key_target, rotation_target
from queue_engine.domain.errors import EngineError
from queue_engine.domain.ids import is_endpoint_id
from queue_engine.domain.principals import Role
from queue_engine.domain.rates import MAX_SUBMITS_PER_SECOND
from queue_engine.domain.tenants import TENANT_NAME_RULE, is_tenant_name
from queue_engine.store.api_keys import FIRST_TENANT, OPERATORS, Creation, Rotation, id_of
from queue_engine.store.store import Store

commands = typer.Typer()
group = typer.Typer(no_args_is_help=True, help="Create, list, rotate and revoke API keys.")
commands.add_typer(group, name="keys")

SECOND_TENANT = (
    "queue-engine: there is a second tenant now: `queue-engine up` no longer sends webhooks to loopback, because one "
    "tenant could reach services of another. QUEUE_ENGINE_WEBHOOK_ALLOW=127.0.0.0/8,::1/128 allows it again"
)
FULL = f"a tenant has at most {MAX_KEYS_PER_TENANT} keys: revoke some"
COMMAND_LINE = "(command line)"
"""The key's name in audit records of changes on the command line."""
MIN_HASH_CHARACTERS = 8
_TIME = "%Y-%m-%d %H:%M"

RoleName = Literal["admin", "operate", "submit", "read"]
KeyHash = Annotated[
    str, typer.Argument(help=f"At least {MIN_HASH_CHARACTERS} characters of the key's hash, as `keys list` shows it")
]


@group.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="Purpose of the key, for the list of keys")] = "",
    tenant: Annotated[str, typer.Option(help="Tenant that the key belongs to")] = FIRST_TENANT,
    role: Annotated[
        RoleName, typer.Option(help="Calls that the key allows: docs/operations/security.md lists the roles")
    ] = "admin",
    endpoint: Annotated[
        list[str] | None, typer.Option(help="Id of an endpoint that the key gives access to; all without it")
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(help="End of the key: a duration such as 12h or 90d, or an ISO time (UTC by default)"),
    ] = None,
    max_submits_per_second: Annotated[
        int | None,
        typer.Option(
            help="Maximum number of submissions per second with the key; without it, no limit",
            min=1,
            max=MAX_SUBMITS_PER_SECOND,
        ),
    ] = None,
    operator: Annotated[
        bool, typer.Option("--operator", help="Create an operator's key, which manages tenants and belongs to none")
    ] = False,
    redis_url: RedisUrl = None,
) -> None:
    """Create an API key and print it. It is shown only once, because only its hash is stored."""
    if operator and (tenant != FIRST_TENANT or role != "admin" or endpoint):
        fail("--operator: cannot be combined with --tenant, --role and --endpoint")
    endpoints = frozenset(endpoint) if endpoint else None
    grant = Grant(name, Role.OPERATOR if operator else Role(role), endpoints, _end(expires), max_submits_per_second)
    key = new_api_key()
    run(with_store(redis_url, lambda store: _create(store, key, OPERATORS if operator else tenant, grant)))


def _end(expires: str | None) -> int | None:
    if expires is None:
        return None
    try:
        return moment_ms(expires, int(time.time() * 1000), later=True)
    except ValueError as error:
        fail(f"--expires: {error}")


async def _create(store: Store, key: str, tenant: str, grant: Grant) -> None:
    """Store the key and print it. Print a warning if it creates a second tenant."""
    if grant.role is not Role.OPERATOR:
        await _check_tenant(store, tenant)
    await _check_endpoints(store, tenant, grant)
    had_one_tenant = await store.api_keys.has_one_tenant()
    match await store.api_keys.create(key, tenant, grant):
        case Creation.PAST:
            raise EngineError("--expires: must be in the future")
        case Creation.FULL:
            raise EngineError(FULL)
    typer.echo(key)  # before all that can fail, because the key is valid now and cannot be read again
    await note_change(store, tenant, Action.CREATE_KEY, key_target(id_of(key)))
    await warn_of_second_tenant(store, had_one_tenant)


async def warn_of_second_tenant(store: Store, had_one_tenant: bool) -> None:
    """Print a warning if there is a second tenant and there was none before."""
    if had_one_tenant and not await store.api_keys.has_one_tenant():
        typer.echo(SECOND_TENANT, err=True)


async def _check_tenant(store: Store, tenant: str) -> None:
    """Refuse a new tenant whose name breaks the rule. Tenants of earlier versions keep their names."""
    if not is_tenant_name(tenant) and await store.tenants.get(tenant) is None:
        raise EngineError(f"--tenant: {TENANT_NAME_RULE}")


async def _check_endpoints(store: Store, tenant: str, grant: Grant) -> None:
    if grant.endpoints is not None and len(grant.endpoints) > MAX_ENDPOINTS_PER_KEY:
        raise EngineError(f"--endpoint: at most {MAX_ENDPOINTS_PER_KEY} may be given")
    for endpoint_id in grant.endpoints or ():
        if not is_endpoint_id(endpoint_id) or await store.endpoints.get(endpoint_id, tenant) is None:
            raise EngineError(f"--endpoint: the tenant has no endpoint with the id {endpoint_id!r}")


@group.command("list")
def list_keys(
    tenant: Annotated[str | None, typer.Option(help="Only the keys of this tenant")] = None,
    redis_url: RedisUrl = None,
) -> None:
    """List the API keys: id, tenant, role, time of creation, end, latest use, endpoints and name."""
    for key in run(with_store(redis_url, lambda store: _listed(store, tenant))):
        typer.echo(_line(key))


async def _listed(store: Store, tenant: str | None) -> list[ApiKey]:
    """Return keys, oldest first."""
    if tenant is None:
        return await store.api_keys.all()
    return list(reversed((await store.api_keys.page_of(tenant, page=1, size=MAX_KEYS_PER_TENANT)).keys))


def _line(key: ApiKey) -> str:
    tenant = "(operator)" if key.role is Role.OPERATOR else key.tenant
    endpoints = "-" if key.endpoints is None else ",".join(sorted(key.endpoints, key=int))
    times = "  ".join(f"{_shown(at):<16}" for at in (key.created_at_ms, key.expires_at_ms, key.last_used_at_ms))
    return f"{key.key_id}  {tenant:<20} {key.role:<8}  {times}  {endpoints}  {key.name}"


def _shown(epoch_ms: int | None) -> str:
    return "-" if epoch_ms is None else f"{datetime.fromtimestamp(epoch_ms / 1000, UTC):{_TIME}}"


@group.command("rotate")
def rotate_key(
    key_hash: KeyHash,
    overlap: Annotated[
        str, typer.Option(help="Time for which the old key stays valid: 0s, or a duration such as 15m, 12h or 7d")
    ] = f"{DEFAULT_OVERLAP_SECONDS // 3600}h",
    redis_url: RedisUrl = None,
) -> None:
    """Replace an API key by a new one with the same rights, and print the new key.

    The old key ends after the overlap.
    """
    overlap_ms = duration_ms(overlap)
    if overlap_ms is None or overlap_ms > MAX_OVERLAP_SECONDS * 1000:
        fail("--overlap: must be a duration of at most 7d, such as 15m or 12h")
    checked, new_key = _checked(key_hash), new_api_key()
    run(with_store(redis_url, lambda store: _rotate(store, checked, new_key, overlap_ms)))


async def _rotate(store: Store, key_hash: str, new_key: str, overlap_ms: int) -> None:
    found = [key for key in await store.api_keys.all() if key.key_hash.startswith(key_hash)]
    if len(found) != 1:
        raise EngineError(f"{len(found)} keys have a hash that begins with {key_hash}")
    match await store.api_keys.rotate(found[0], new_key, overlap_ms=overlap_ms):
        case Rotation.ROTATED:
            raise EngineError("the key has been rotated before: rotate the key that replaces it")
        case Rotation.FULL:
            raise EngineError(FULL)
        case Rotation.NOT_FOUND:
            raise EngineError("the key has ended")
    typer.echo(new_key)  # before all that can fail, as in _create
    await note_change(store, found[0].tenant, Action.ROTATE_KEY, rotation_target(found[0].key_id, id_of(new_key)))


@group.command("revoke")
def revoke_key(
    key_hash: KeyHash,
    redis_url: RedisUrl = None,
) -> None:
    """Revoke an API key. It stops working within two seconds."""
    checked = _checked(key_hash)
    revoked = run(with_store(redis_url, lambda store: _revoke(store, checked)))
    typer.echo(f"{len(revoked)} revoked")
    if not revoked:
        sys.exit(1)


async def _revoke(store: Store, key_hash: str) -> list[ApiKey]:
    revoked = await store.api_keys.revoke(key_hash)
    for key in revoked:
        await note_change(store, key.tenant, Action.REVOKE_KEY, key_target(key.key_id))
    return revoked


async def note_change(store: Store, tenant: str, action: Action, target: str) -> None:
    """Record a change on the command line in the tenant's audit log. Operators' keys belong to no tenant."""
    if tenant != OPERATORS:
        await store.audit.append(tenant, uuid.uuid4().hex, Change(action, target, "", COMMAND_LINE, ""))


def _checked(key_hash: str) -> str:
    if len(key_hash) < MIN_HASH_CHARACTERS:
        fail(f"give at least {MIN_HASH_CHARACTERS} characters of the hash")
    return key_hash
