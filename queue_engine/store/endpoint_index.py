"""Indexes of the endpoints, so that finding some endpoints does not read all of them.

A tenant's index, `{qe}:endpoints:<tenant>`, is in another cluster slot than the tenant's endpoints, so no script can
write both. An endpoint is noted before it is stored and forgotten after it is removed. If a process dies in between,
the index has an id without an endpoint. A list skips such an id and removes it. If that happens while the endpoint is
about to be stored, the second note, right after it was stored, puts the id back.

The index of names, `{qe}:endpoint-names:<tenant>`, is kept in the same way. A new name is noted before and after it is
stored, and the former one is forgotten then.

Processes of data format 1 do not write the indexes. Therefore a migration, and afterwards the leading controller for as
long as it runs, goes through all endpoints in pages and puts them back into the indexes that lack them (`restore`).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from redis.asyncio import Redis

from queue_engine.store.calls import Scripts
from queue_engine.store.keys import (
    FORMAT,
    META,
    NAMES_INDEXED,
    RESYNC,
    Partitions,
    endpoint_names_of,
    endpoints_of,
)

PAGE_SIZE = 100
"""Number of endpoints that are read in one pipeline."""
INDEXED_FORMAT = 2
"""First data format in which every endpoint is in its tenant's index."""


@dataclass(frozen=True)
class IdPage:
    """Some endpoints of all tenants."""

    cursor: str
    """The place after which the next page begins: partition, creation time, number of endpoints with this time."""
    ids: Sequence[str]


class EndpointIndex:
    """The indexes of all endpoints. Every method may be repeated after a lost reply. All raise RedisError."""

    def __init__(self, redis: Redis, scripts: Scripts, partitions: Partitions) -> None:
        self._redis = redis
        self._scripts = scripts
        self._partitions = partitions

    async def note(self, tenant: str, endpoint_id: str, name: str, *, limit: int = 0) -> bool:
        """Note that the tenant has the endpoint with this name, or is about to store it.

        Return False when the tenant has `limit` endpoints; 0 means no limit.
        """
        reply = await self._scripts.note_endpoint(
            tenant_endpoints=endpoints_of(tenant),
            tenant_names=endpoint_names_of(tenant),
            endpoint_id=int(endpoint_id),
            name=name,
            limit=limit,
        )
        return reply.word == "OK"

    async def forget(self, tenant: str, endpoint_ids: Sequence[str]) -> None:
        """Remove endpoints from the tenant's index."""
        if endpoint_ids:
            await self._redis.zrem(endpoints_of(tenant), *endpoint_ids)

    async def ids_of(self, tenant: str, *, below: str | None = None) -> list[str] | None:
        """Return the ids of the tenant's newest endpoints that are below the id `below`, newest first, at most a page.

        An id may have no endpoint of this tenant. Return None when the store's data is of a format without the index.
        """
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.hget(META, FORMAT)
        highest = f"({below}" if below else "+inf"
        pipeline.zrevrangebyscore(endpoints_of(tenant), highest, "-inf", start=0, num=PAGE_SIZE)
        found, ids = await pipeline.execute()
        return [endpoint_id.decode() for endpoint_id in ids] if is_indexed(found) else None

    async def note_name(self, tenant: str, endpoint_id: str, name: str) -> None:
        """Note that the endpoint has this name, or is about to have it."""
        await self._redis.zadd(endpoint_names_of(tenant), {_named(name, endpoint_id): 0})

    async def forget_name(self, tenant: str, endpoint_ids: Sequence[str], name: str) -> None:
        """Remove endpoints that no longer have this name from the index of names."""
        if endpoint_ids:
            await self._redis.zrem(endpoint_names_of(tenant), *(_named(name, one) for one in endpoint_ids))

    async def ids_named(self, tenant: str, name: str) -> list[str] | None:
        """Return the ids of the tenant's endpoints with this name, newest first; None while the index lacks some.

        An id may have no endpoint of this tenant, or one with another name.
        """
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.hget(META, NAMES_INDEXED)
        pipeline.zrangebylex(endpoint_names_of(tenant), f"[{name} ", f"({name}!")  # `!` comes after the space
        done, members = await pipeline.execute()
        ids = [member.decode().rpartition(" ")[2] for member in members]
        return sorted(ids, key=int, reverse=True) if done == b"1" else None

    async def begin_round(self) -> None:
        """Note that a round through all endpoints begins."""
        await self._redis.hsetnx(META, NAMES_INDEXED, "0")  # type: ignore[misc]

    async def end_round(self) -> None:
        """Note that a round has come to its end. If its begin was noted, the indexes of names have all endpoints."""
        if await self._redis.hget(META, NAMES_INDEXED) == b"0":  # type: ignore[misc]
            await self._redis.hset(META, NAMES_INDEXED, "1")  # type: ignore[misc]

    async def is_complete(self) -> bool:
        """Return False while the store's data is of a format without the indexes."""
        return is_indexed(await self._redis.hget(META, FORMAT))  # type: ignore[misc]

    async def place(self) -> str:
        """Return the cursor of the round through all endpoints, as it was noted last."""
        return (await self._redis.hget(META, RESYNC) or b"").decode()  # type: ignore[misc]

    async def note_place(self, cursor: str) -> None:
        """Note the cursor of the round through all endpoints."""
        await self._redis.hset(META, RESYNC, cursor)  # type: ignore[misc]

    async def page(self, after: str = "") -> IdPage | None:
        """Return the page of endpoints of all tenants after this cursor, the first without one; None after the last.

        Endpoints that are created or removed at the same time may be missed.
        """
        number, score, offset = after.split() if after else ("0", "-inf", "0")
        for partition in self._partitions.all()[int(number) :]:
            entries = await self._redis.zrangebyscore(
                partition.endpoints, score, "+inf", start=int(offset), num=PAGE_SIZE, withscores=True
            )
            if entries:
                last = entries[-1][1]
                # Entries of the same time are distinguished by their number, because a page begins at a time.
                same = sum(time == last for _, time in entries)
                seen = same + (int(offset) if same == len(entries) and f"{last:.0f}" == score else 0)
                return IdPage(f"{partition.index} {last:.0f} {seen}", [one.decode() for one, _ in entries])
            score, offset = "-inf", "0"
        return None

    async def restore(self, endpoint_ids: Sequence[str]) -> int:
        """Put endpoints into the indexes that lack them, and correct the counts of their workers and logs.

        Return the number of missing entries that only an API or a controller writes.
        """
        indexed = await asyncio.gather(
            *(self._scripts.index_endpoint(self._partitions.of(endpoint_id)) for endpoint_id in endpoint_ids)
        )
        by_tenant: dict[str, dict[str, int]] = defaultdict(dict)
        names: dict[str, dict[str, int]] = defaultdict(dict)
        with_logs = []
        restored = 0
        for endpoint_id, reply in zip(endpoint_ids, indexed, strict=True):
            if reply.word == "OK":
                by_tenant[reply.tenant][endpoint_id] = int(endpoint_id)
                names[reply.tenant][_named(reply.name, endpoint_id)] = 0
                restored += reply.restored
                if reply.has_logs:
                    with_logs.append(endpoint_id)
        pipeline = self._redis.pipeline(transaction=False)
        for tenant, ids in by_tenant.items():
            pipeline.zadd(endpoints_of(tenant), ids)
            pipeline.zadd(endpoint_names_of(tenant), names[tenant])
        added: list[int] = await pipeline.execute()
        await self._recount_logs(with_logs)
        return restored + sum(added[::2])

    async def _recount_logs(self, endpoint_ids: Sequence[str]) -> None:
        """Count the bytes of the endpoints' logs again. Logs that change at the same time wait for a later round."""
        pipeline = self._redis.pipeline(transaction=False)
        for endpoint_id in endpoint_ids:
            pipeline.zrange(self._partitions.of(endpoint_id).logs, 0, -1)
        names = await pipeline.execute()
        for endpoint_id, workers in zip(endpoint_ids, names, strict=True):
            keys, worker_ids = self._partitions.of(endpoint_id), [name.decode() for name in workers]
            worker_logs = [keys.log(worker_id) for worker_id in worker_ids]
            await self._scripts.recount_logs(keys, worker_logs=worker_logs, worker_ids=worker_ids)


def _named(name: str, endpoint_id: str) -> str:
    """Return the member of an endpoint in the index of names."""
    return f"{name} {endpoint_id}"


def is_indexed(found: bytes | None) -> bool:
    """Return whether data whose recorded format is `found` has the indexes. A store without data has none recorded."""
    return int(found or INDEXED_FORMAT) >= INDEXED_FORMAT
