"""Connections to Redis or Valkey, and the reasons behind their errors."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    InvalidResponse,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from queue_engine.config.store_url import Address, StoreUrl, Topology, is_yes, parse_store_url
from queue_engine.domain.errors import StoreUnavailable
from queue_engine.store.redis.cluster import ClusterClient
from queue_engine.store.redis.connections import (
    CONNECT_TIMEOUT_SECONDS,
    MasterConnection,
    PlainConnection,
    TlsConnection,
    TlsMasterConnection,
    Watchful,
)
from queue_engine.store.redis.pools import QuickPool
from queue_engine.store.redis.sentinel import MasterFinder, MasterPool

COMMAND_TIMEOUT_SECONDS = 3.0
SENTINEL_TIMEOUT_SECONDS = 1.0
MAX_BLOCK_SECONDS = 2.0
"""Maximum wait of a blocking read, unless it says how long it waits. A dead connection is detected only when a reply
does not arrive after this time, so it is short: all work resumes within five seconds after a fail-over."""
BLOCK_MARGIN_SECONDS = 1.5

_PASSING = (
    "OOM", "MISCONF", "NOREPLICAS", "CLUSTERDOWN", "TRYAGAIN", "MASTERDOWN", "LOADING", "READONLY", "UNKILLABLE",
    "BUSY ", "UNBLOCKED", "MOVED", "ASK ",
)  # fmt: skip
"""Prefixes of error replies that mean a temporary problem of the store, not a wrong command."""
_AROUND_REPLY = re.compile(
    r"Command # \d+ \(.*\) of pipeline caused error: (?:\(['\"])?|Transaction discarded because of: ", re.DOTALL
)
"""Text before an error reply: redis-py names the command of a pipeline (5.x then shows a tuple), and the store reports
why EXEC was refused. Greedy, because the arguments of the command may contain the same words."""

_REASONS: Mapping[type[BaseException], str] = {
    # Checked before the connection errors, because some of these are subclasses of them.
    BusyLoadingError: "it is loading its data",
    ReadOnlyError: "it is a read-only replica",
    OutOfMemoryError: "it has reached maxmemory",
    MasterNotFoundError: "the sentinels name no master",
    AuthenticationError: "it refuses the user name or the password",
    InvalidResponse: "the server there does not speak the Redis protocol",
    NoPermissionError: "its user lacks a right that this version needs (deploy/redis/users.acl)",
    NoScriptError: "it does not know the scripts of this version, which the engine's processes load",
}


_NO_ROOM = "max number of clients reached"
"""The error with which a server closes a new connection beyond its `maxclients`."""
_REFUSED = ("OOM", "READONLY", "MISCONF", "NOREPLICAS")
"""Prefixes of error replies to writes that the store did not execute. Reads do not get them."""


class NotDurable(RedisError):
    """A write was executed but not yet acknowledged by enough servers. The caller repeats it until it is."""


def connect(
    url: str | StoreUrl,
    *,
    max_connections: int = 32,
    blocking: bool = False,
    repeats: bool = True,
    kept_seconds: float | None = None,
) -> Redis:
    """Return a client that does not decode replies. It connects when the first command is sent.

    With `blocking` its timeout is above MAX_BLOCK_SECONDS, for reads that wait on the server. With `repeats` a command
    that loses its connection is repeated once; the server may have executed it. `max_connections` limits the
    connections to each server, of which those that were not used for `kept_seconds` are closed (None: never). Raises
    ValueError when the URL is invalid.
    """
    parsed = parse_store_url(url) if isinstance(url, str) else url
    options = {**_connection_options(parsed, blocking=blocking, repeats=repeats), "kept_seconds": kept_seconds}
    if parsed.topology is Topology.CLUSTER:
        return ClusterClient(
            parsed.addresses,
            lambda address: Redis.from_pool(_pool_of(address, parsed.tls, max_connections, options)),
            repeats=repeats,
        )
    if parsed.topology is Topology.SENTINEL:
        return Redis.from_pool(_master_pool(parsed, max_connections, options))
    return Redis.from_pool(_pool_of(parsed.addresses[0], parsed.tls, max_connections, options))


async def exchange(client: Redis, commands: Sequence[Iterable[Any]]) -> list[Any]:
    """Send commands to one server in one write; return the reply or the ResponseError of each, in order.

    A call that loses its connection is repeated once on a new one: see `after_loss`. Raises ConnectionError and
    TimeoutError of redis-py.
    """
    pool = client.connection_pool
    connection: Watchful = await pool.get_connection()
    try:
        try:
            return await connection.exchange(commands)
        except RedisConnectionError as lost:
            return after_loss(lost, await connection.exchange(commands))
    finally:
        await pool.release(connection)


async def exchange_once(
    client: Redis, commands: Sequence[Iterable[Any]], *, block_seconds: float = MAX_BLOCK_SECONDS
) -> list[Any]:
    """Do what `exchange` does, but never twice, because another execution would have other effects.

    The server may wait for `block_seconds` before it replies.
    """
    pool = client.connection_pool
    connection: Watchful = await pool.get_connection()
    try:
        return await connection.exchange(commands, seconds=block_seconds + BLOCK_MARGIN_SECONDS)
    finally:
        await pool.release(connection)


async def close(client: Redis) -> None:
    """Close all connections of a client. Works while the store is unavailable too."""
    with suppress(RedisError, OSError):
        await client.aclose()
    with suppress(RedisError, OSError):
        await client.connection_pool.aclose()


def check_tls_files(url: StoreUrl) -> None:
    """Check that the files of a TLS connection can be used. Raises ValueError that names the option otherwise."""
    options = dict(url.tls_options)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if path := options.get("ssl_ca_certs"):
        _use("ssl_ca_certs", path, lambda: context.load_verify_locations(path))
    if path := options.get("ssl_certfile"):
        _use("ssl_certfile or ssl_keyfile", path, lambda: context.load_cert_chain(path, options.get("ssl_keyfile")))


def _use(option: str, path: str, load: Any) -> None:
    try:
        load()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, FileNotFoundError | PermissionError) else "it is not in PEM format"
        raise ValueError(f"{option}: cannot use {path}: {reason}") from None


def _pool_of(address: Address, tls: bool, max_connections: int, options: Mapping[str, Any]) -> QuickPool:
    return QuickPool(
        connection_class=TlsConnection if tls else PlainConnection,
        max_connections=max_connections,
        timeout=COMMAND_TIMEOUT_SECONDS,
        host=address.host,
        port=address.port,
        **options,
    )


def _master_pool(url: StoreUrl, max_connections: int, options: Mapping[str, Any]) -> MasterPool:
    """Return a pool whose connections go to the master that the sentinels name at the time of connecting."""
    of_sentinels = {
        **options,
        "db": 0,
        "username": url.sentinel_username,
        "password": url.sentinel_password,
        "socket_timeout": SENTINEL_TIMEOUT_SECONDS,
        "socket_connect_timeout": SENTINEL_TIMEOUT_SECONDS,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_error": [],
    }
    finder = MasterFinder(
        url.service, [Redis.from_pool(_pool_of(address, url.tls, 2, of_sentinels)) for address in url.addresses]
    )
    return MasterPool(
        finder,
        connection_class=TlsMasterConnection if url.tls else MasterConnection,
        max_connections=max_connections,
        timeout=COMMAND_TIMEOUT_SECONDS,
        **options,
    )


def _connection_options(url: StoreUrl, *, blocking: bool, repeats: bool) -> dict[str, Any]:
    options: dict[str, Any] = {
        "db": url.db,
        "username": url.username,
        "password": url.password,
        "socket_timeout": MAX_BLOCK_SECONDS + BLOCK_MARGIN_SECONDS if blocking else COMMAND_TIMEOUT_SECONDS,
        "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "socket_keepalive": True,
        "socket_keepalive_options": _keepalive(),
        "retry": Retry(NoBackoff(), 1 if repeats else 0),
        "retry_on_error": [RedisConnectionError],
        # Not named to the server, because the agents' user may not run CLIENT.
        "lib_name": None,
        "lib_version": None,
    }
    if url.tls:
        given = dict(url.tls_options)
        verified = given.get("ssl_cert_reqs", "required") != "none"
        if "ssl_certfile" in given:
            given.setdefault("ssl_keyfile", given["ssl_certfile"])
        check_hostname = is_yes(given.pop("ssl_check_hostname", "yes")) and verified
        options |= {**given, "ssl_check_hostname": check_hostname}
    return options


def _keepalive() -> dict[int, int]:
    """Return socket options that detect a dead peer within seconds, also on an idle connection."""
    wanted = {"TCP_KEEPIDLE": 1, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 4000}
    return {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}


def unavailability(error: BaseException) -> str | None:
    """Return why the store is unavailable when `error` means that; None for any other error."""
    if isinstance(error, StoreUnavailable):
        return error.reason
    if isinstance(error, NotDurable):
        return str(error)
    for kind, reason in _REASONS.items():
        if isinstance(error, kind):
            return reason
    if isinstance(error, RedisConnectionError) and _NO_ROOM in str(error):
        return "it accepts no more connections (maxclients)"
    if isinstance(error, (RedisConnectionError, RedisTimeoutError, OSError)):
        fault = _tls_fault(error)
        return "it cannot be reached" + (f" (TLS: {fault})" if fault else "")
    if isinstance(error, ResponseError) and (reply := _reply_of(error)).startswith(_PASSING):
        return f"it refuses writes ({reply.split(' ', 1)[0]})"
    return None


def after_loss(lost: RedisError, replies: list[Any]) -> list[Any]:
    """Return the replies to repeated commands. Their errors have the loss of the first try as their cause.

    The store may have executed the first try, also when it refuses the second one.
    """
    for reply in replies:
        if isinstance(reply, Exception):
            reply.__cause__ = lost
    return replies


def is_refused_write(error: BaseException | None) -> bool:
    """Return True if the store has refused a write without executing it, and no earlier try of the call was lost."""
    while isinstance(error, StoreUnavailable):
        error = error.__cause__
    if not isinstance(error, ResponseError) or error.__cause__ is not None:
        return False
    return isinstance(error, OutOfMemoryError | ReadOnlyError) or _reply_of(error).startswith(_REFUSED)


def _reply_of(error: ResponseError) -> str:
    """Return the store's error reply, which begins with its code."""
    text = str(error)
    around = _AROUND_REPLY.match(text)
    return text[around.end() :] if around else text


def _tls_fault(error: BaseException | None) -> str | None:
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return (error.reason or "failed").lower().replace("_", " ")
        error = error.__cause__ or error.__context__
    return None


@asynccontextmanager
async def store_errors() -> AsyncIterator[None]:
    """Raise StoreUnavailable for errors that mean an unavailable store. Other errors pass through."""
    try:
        yield
    except (RedisError, OSError) as error:
        reason = unavailability(error)
        if reason is None:
            raise
        raise StoreUnavailable(reason) from error


def pairs(flat: list[bytes]) -> dict[str, str]:
    """Return a hash from the flat list that HGETALL returns inside a script."""
    return {flat[index].decode(): flat[index + 1].decode() for index in range(0, len(flat), 2)}


def optional_int(text: str | None) -> int | None:
    return int(text) if text else None
