"""`queue-engine tenants …`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer

from queue_engine.cli.keys import note_change, warn_of_second_tenant
from queue_engine.cli.options import RedisUrl
from queue_engine.cli.running import fail, run
from queue_engine.cli.startup import settings_from
from queue_engine.cli.store_access import with_store
from queue_engine.config.limits import LimitSettings
from queue_engine.domain.audit import Action, tenant_target
from queue_engine.domain.errors import EngineError
from queue_engine.domain.tenants import LIMITS, TENANT_NAME_RULE, Limit, Tenant, is_tenant_name
from queue_engine.store.store import Store

commands = typer.Typer()
group = typer.Typer(no_args_is_help=True, help="Create tenants, list them, and set their limits.")
commands.add_typer(group, name="tenants")

TENANTS_PER_READ = 1000
DEFAULT = "default"
FROM_STORE = "half of maxmemory"
"""The default of a limit that follows from the store."""


def _rule(limit: Limit) -> str:
    return f"a number from 0 (no limit) to {LIMITS[limit].max}, or `{DEFAULT}`"


def _with_limits(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command with an option for each limit. `command` gets those that are given as its argument `limits`."""
    hints = get_type_hints(command, include_extras=True)
    *own, redis_url = [
        one.replace(annotation=hints[name])
        for name, one in inspect.signature(command).parameters.items()
        if name != "limits"
    ]
    options = [_option(limit) for limit in Limit]

    @wraps(command)
    def run_command(**given: Any) -> None:
        texts = {limit: given.pop(option.name) for limit, option in zip(Limit, options, strict=True)}
        command(limits={limit: _number(limit, text) for limit, text in texts.items() if text is not None}, **given)

    parameters = [*own, *options, redis_url]
    run_command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run_command.__annotations__ = {one.name: one.annotation for one in parameters}
    return run_command


def _option(limit: Limit) -> inspect.Parameter:
    name = re.sub("([A-Z])", lambda match: f"_{match[1].lower()}", limit.value)
    option = typer.Option(help=f"Maximum number of {LIMITS[limit].text}: {_rule(limit)}")
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Parameter(name, kind, default=None, annotation=Annotated[str | None, option])


@group.command("create")
@_with_limits
def create_tenant(
    name: Annotated[str, typer.Argument(help="Name of the tenant")],
    limits: Mapping[Limit, int | None],
    redis_url: RedisUrl = None,
) -> None:
    """Create a tenant, and print its limits. `keys create --tenant NAME` makes its first key."""
    if not is_tenant_name(name):
        fail(f"NAME: {TENANT_NAME_RULE}")
    _print(run(with_store(redis_url, lambda store: _create(store, name, limits))))


async def _create(store: Store, name: str, limits: Mapping[Limit, int | None]) -> Tenant:
    had_one_tenant = await store.api_keys.has_one_tenant()
    if not await store.tenants.create(name, limits):
        raise EngineError(f"there is a tenant {name} already")
    await note_change(store, name, Action.CREATE_TENANT, tenant_target(name))
    await warn_of_second_tenant(store, had_one_tenant)
    return await _read(store, name)


@group.command("list")
def list_tenants(redis_url: RedisUrl = None) -> None:
    """List the tenants by name, each with its time of creation and the limits that differ from the defaults."""
    for tenant in run(with_store(redis_url, _all)):
        created = "-" if tenant.created_at_ms is None else _shown(tenant.created_at_ms)
        limits = " ".join(f"{limit}={value}" for limit, value in tenant.overrides.items())
        typer.echo(f"{tenant.name:<20} {created:<16}  {limits}".rstrip())


async def _all(store: Store) -> list[Tenant]:
    tenants: list[Tenant] = []
    number = 1
    while page := (await store.tenants.page(page=number, size=TENANTS_PER_READ)).tenants:
        tenants += page
        number += 1
    return tenants


@group.command("limits")
@_with_limits
def limit_tenant(
    name: Annotated[str, typer.Argument(help="Name of the tenant")],
    limits: Mapping[Limit, int | None],
    redis_url: RedisUrl = None,
) -> None:
    """Set the given limits of a tenant, and print all its limits."""
    _print(run(with_store(redis_url, lambda store: _set_limits(store, name, limits))))


async def _set_limits(store: Store, name: str, limits: Mapping[Limit, int | None]) -> Tenant:
    if not await store.tenants.set_limits(name, limits):
        raise EngineError(f"there is no tenant {name}")
    if limits:
        await note_change(store, name, Action.SET_TENANT_LIMITS, tenant_target(name))
    return await _read(store, name)


async def _read(store: Store, name: str) -> Tenant:
    tenant = await store.tenants.get(name)
    if tenant is None:
        raise EngineError(f"there is no tenant {name}")
    return tenant


def _number(limit: Limit, text: str) -> int | None:
    """Return the value of an option; None for the default."""
    if text == DEFAULT:
        return None
    if not re.fullmatch(r"[0-9]{1,16}", text) or int(text) > LIMITS[limit].max:
        option = re.sub("([A-Z])", lambda match: f"-{match[1].lower()}", limit.value)
        fail(f"--{option}: must be {_rule(limit)}")
    return int(text)


def _print(tenant: Tenant) -> None:
    """Print the limits. Defaults are those of an API process with this command's environment."""
    for limit, value in tenant.limits(settings_from(LimitSettings).tenant_limits()).items():
        origin = "" if limit in tenant.overrides else f"  ({DEFAULT})"
        typer.echo(f"{limit:<20} {FROM_STORE if value is None else value}{origin}")


def _shown(epoch_ms: int) -> str:
    return f"{datetime.fromtimestamp(epoch_ms / 1000, UTC):%Y-%m-%d %H:%M}"
