"""`queue-engine agents …`."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from queue_engine.cli.keys import note_change
from queue_engine.cli.options import RedisUrl
from queue_engine.cli.running import fail, run
from queue_engine.cli.startup import settings_from
from queue_engine.cli.store_access import with_store
from queue_engine.config.shared import StoreSettings
from queue_engine.crypto.api_keys import new_agent_token
from queue_engine.crypto.sealing import endpoint_keys_text
from queue_engine.domain.agent_tokens import MAX_TOKEN_NAME_CHARACTERS, TOO_MANY_TOKENS, AgentToken
from queue_engine.domain.audit import Action, token_target
from queue_engine.domain.endpoints import DesiredState, Endpoint
from queue_engine.domain.errors import EngineError
from queue_engine.domain.ids import is_endpoint_id
from queue_engine.store.agent_tokens import TokenRefusal
from queue_engine.store.store import Store

commands = typer.Typer()
group = typer.Typer(no_args_is_help=True, help="Make the keys and tokens of agents that are started by hand.")
commands.add_typer(group, name="agents")

MIN_ID_CHARACTERS = 8
_TIME = "%Y-%m-%d %H:%M"

EndpointId = Annotated[str, typer.Argument(metavar="ENDPOINT", help="Id of the endpoint")]


@group.command("key")
def print_key(
    endpoint: EndpointId,
    file: Annotated[
        Path | None, typer.Option(help="Write the key to this file, which only its owner can read; by default print it")
    ] = None,
    redis_url: RedisUrl = None,
) -> None:
    """Print the key with which agents on the store decrypt the headers of an endpoint's tasks.

    The key is derived from QUEUE_ENGINE_SECRET_KEY and opens nothing else. With QUEUE_ENGINE_SECRET_KEY_PREVIOUS the
    keys from the previous secret keys follow. Agents take it from WORKER_AGENT_ENDPOINT_KEY, or from the file that
    WORKER_AGENT_ENDPOINT_KEY_FILE names.
    """
    secret_keys = settings_from(StoreSettings, redis_url=redis_url).secret_keys
    if not secret_keys:
        fail("QUEUE_ENGINE_SECRET_KEY: is required, because the key is derived from it")
    run(with_store(redis_url, lambda store: _endpoint(store, endpoint)))  # the id may be that of another store
    keys = endpoint_keys_text(secret_keys, endpoint)
    if file is None:
        typer.echo(keys)
        return
    try:
        _write_private(file, f"{keys}\n")
    except OSError as error:
        fail(f"--file: cannot write {file}: {error.strerror}")


def _write_private(path: Path, text: str) -> None:
    """Write a file whole or not at all. Only this user can read it."""
    draft = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


@group.command("token")
def create_token(
    endpoint: EndpointId,
    name: Annotated[str, typer.Option(help="Purpose of the token, for the list of tokens")] = "",
    redis_url: RedisUrl = None,
) -> None:
    """Create a token for agents of an endpoint and print it. It is shown only once, because only its hash is stored.

    Agents that are started by hand take it from WORKER_AGENT_TOKEN or from the file of --token-file. The API must have
    an address that they reach.
    """
    if len(name) > MAX_TOKEN_NAME_CHARACTERS or not name.isprintable():
        fail(f"--name: must be at most {MAX_TOKEN_NAME_CHARACTERS} printable characters")
    run(with_store(redis_url, lambda store: _create(store, endpoint, name)))


async def _create(store: Store, endpoint_id: str, name: str) -> None:
    endpoint = await _endpoint(store, endpoint_id)
    token = new_agent_token(endpoint_id)
    match await store.agent_tokens.create(endpoint_id, endpoint.tenant, token, name):
        case TokenRefusal.FULL:
            raise EngineError(f"{TOO_MANY_TOKENS} tokens: revoke some")
        case TokenRefusal.NOT_FOUND:
            raise _unknown(endpoint_id)
        case AgentToken(token_id=token_id):
            typer.echo(token)  # before all that can fail, because the token is valid now and cannot be read again
            target = token_target(endpoint_id, token_id)
            await note_change(store, endpoint.tenant, Action.CREATE_AGENT_TOKEN, target)


@group.command("tokens")
def list_tokens(endpoint: EndpointId, redis_url: RedisUrl = None) -> None:
    """List an endpoint's tokens: id, time of creation, latest use, and name, or the worker that a token belongs to."""
    for token in run(with_store(redis_url, lambda store: _tokens_of(store, endpoint))):
        typer.echo(_line(token))


async def _tokens_of(store: Store, endpoint_id: str) -> list[AgentToken]:
    endpoint = await _endpoint(store, endpoint_id)
    return await store.agent_tokens.of_endpoint(endpoint_id, endpoint.tenant)


def _line(token: AgentToken) -> str:
    times = "  ".join(f"{_shown(at):<16}" for at in (token.created_at_ms, token.last_used_at_ms))
    worker_id = token.holder.worker_id
    return f"{token.token_id}  {times}  {token.name if worker_id is None else f'(worker {worker_id})'}".rstrip()


def _shown(epoch_ms: int | None) -> str:
    return "-" if epoch_ms is None else f"{datetime.fromtimestamp(epoch_ms / 1000, UTC):{_TIME}}"


@group.command("revoke")
def revoke_token(
    endpoint: EndpointId,
    token_id: Annotated[
        str,
        typer.Argument(
            metavar="TOKEN", help=f"At least {MIN_ID_CHARACTERS} characters of the id, as `agents tokens` shows it"
        ),
    ],
    redis_url: RedisUrl = None,
) -> None:
    """Revoke a token. Agents with it stop working within two seconds.

    A worker that a controller has started is started again with another token.
    """
    if len(token_id) < MIN_ID_CHARACTERS:
        fail(f"give at least {MIN_ID_CHARACTERS} characters of the id")
    revoked = run(with_store(redis_url, lambda store: _revoke(store, endpoint, token_id)))
    typer.echo(f"{revoked} revoked")
    if not revoked:
        sys.exit(1)


async def _revoke(store: Store, endpoint_id: str, token_id: str) -> int:
    """Revoke the tokens whose id begins with `token_id`, and return their number."""
    found = [token for token in await _tokens_of(store, endpoint_id) if token.token_id.startswith(token_id)]
    for token in found:
        await store.agent_tokens.revoke(token)
        await note_change(store, token.tenant, Action.REVOKE_AGENT_TOKEN, token_target(endpoint_id, token.token_id))
    return len(found)


async def _endpoint(store: Store, endpoint_id: str) -> Endpoint:
    """Return an endpoint of any tenant. Raises EngineError for one that does not exist or is being deleted."""
    found = await store.endpoints.get(endpoint_id, None) if is_endpoint_id(endpoint_id) else None
    if found is None or found.desired is DesiredState.DELETED:
        raise _unknown(endpoint_id)
    return found


def _unknown(endpoint_id: str) -> EngineError:
    return EngineError(f"there is no endpoint with the id {endpoint_id!r}")
