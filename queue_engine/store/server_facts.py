"""Facts of the store's servers, from INFO."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from redis.asyncio import Redis

from queue_engine.domain.system import Replica, StoreServer


async def facts_of(address: str, client: Redis, *, monotonic: Callable[[], float] = time.monotonic) -> StoreServer:
    """Return the facts of a server. Raises RedisError."""
    info: Mapping[str, Any] = await client.info()
    began = monotonic()
    await client.ping()  # after INFO, so that a connection is open
    latency_ms = (monotonic() - began) * 1000
    return StoreServer(
        address=address,
        name="valkey" if info.get("server_name") == "valkey" else "redis",
        version=str(info.get("valkey_version") or info.get("redis_version") or ""),
        uptime_seconds=_integer(info.get("uptime_in_seconds")),
        used_bytes=_integer(info.get("used_memory")),
        max_bytes=_integer(info.get("maxmemory")),
        clients=_integer(info.get("connected_clients")),
        max_clients=_integer(info["maxclients"]) if "maxclients" in info else None,
        latency_ms=round(latency_ms, 2),
        appends_to_file=_integer(info.get("aof_enabled")) == 1,
        write_error=_write_error(info),
        saved_at_ms=_integer(info.get("rdb_last_save_time")) * 1000 or None,
        replicas=[_replica(one) for one in _replicas(info)],
    )


def _write_error(info: Mapping[str, Any]) -> str | None:
    appends = _integer(info.get("aof_enabled")) == 1
    if appends and info.get("aof_last_write_status", "ok") != "ok":
        return "the append-only file"
    if appends and info.get("aof_last_bgrewrite_status", "ok") != "ok":
        return "a rewrite of the append-only file"
    return "a snapshot" if info.get("rdb_last_bgsave_status", "ok") != "ok" else None


def _replicas(info: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the members `slave0`, `slave1`, …, which redis-py parses."""
    found = (info.get(f"slave{number}") for number in range(_integer(info.get("connected_slaves"))))
    return [one for one in found if isinstance(one, Mapping)]


def _replica(one: Mapping[str, Any]) -> Replica:
    lag = _integer(one.get("lag"), -1)
    return Replica(f"{one.get('ip')}:{one.get('port')}", str(one.get("state", "unknown")), None if lag < 0 else lag)


def _integer(value: Any, default: int = 0) -> int:
    """Return a number of INFO; the default for one that a managed store leaves out or writes in its own way."""
    try:
        return int(value)
    except (TypeError, ValueError):
        return default
