"""Sentinel support: find the current master, and pool connections to it."""

from __future__ import annotations

import asyncio
import weakref
from collections import Counter
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from queue_engine.config.store_url import Address
from queue_engine.store.redis.pools import QuickPool


class MasterFinder:
    """Finds the master by asking all sentinels at once.

    The address that most sentinels name is used, because a partitioned sentinel may name an old master.
    """

    def __init__(self, service: str, sentinels: Sequence[Redis]) -> None:
        self._service = service
        self._sentinels = tuple(sentinels)
        self._asking: asyncio.Task[Address] | None = None

    async def find(self) -> Address:
        """Return the master's address. Concurrent calls share one query.

        Raises MasterNotFoundError when no sentinel names a master, or another ConnectionError when no sentinel
        responds.
        """
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_all())
        return await asyncio.shield(self._asking)

    async def aclose(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
        for sentinel in self._sentinels:
            await sentinel.aclose()
            await sentinel.connection_pool.disconnect()

    async def _ask_all(self) -> Address:
        votes: Counter[Address] = Counter()
        faults: list[Exception] = []
        pending = {asyncio.create_task(self._ask(sentinel)) for sentinel in self._sentinels}
        try:
            for answer in asyncio.as_completed(pending):
                try:
                    address = await answer
                except (RedisError, OSError) as fault:
                    faults.append(fault)
                    continue
                if address is None:
                    continue
                votes[address] += 1
                if votes[address] * 2 > len(self._sentinels):
                    return address
        finally:
            for task in pending:
                task.cancel()
            # Retrieves their errors: a connection that is cancelled while it breaks raises its own error.
            await asyncio.gather(*pending, return_exceptions=True)
        if len(faults) == len(self._sentinels):
            raise RedisConnectionError("no sentinel responds") from faults[0]
        if not votes:
            raise MasterNotFoundError(f"no sentinel names a master for {self._service!r}")
        return votes.most_common(1)[0][0]

    async def _ask(self, sentinel: Redis) -> Address | None:
        found: Any = await sentinel.execute_command(  # type: ignore[no-untyped-call]
            "SENTINEL GET-MASTER-ADDR-BY-NAME", self._service
        )
        return Address(_text(found[0]), int(found[1])) if found else None


class MasterPool(QuickPool):
    """A bounded pool whose connections look up the master when they connect.

    A connection that breaks, or gets a read-only error, looks up the master again. When the master has changed, all
    idle connections are closed.
    """

    is_master = True
    check_connection = False

    def __init__(self, finder: MasterFinder, **options: Any) -> None:
        super().__init__(**options)
        self.connection_kwargs["connection_pool"] = weakref.proxy(self)
        self._finder = finder
        self._address: Address | None = None

    async def get_master_address(self) -> Address:
        """Return the master's address. SentinelManagedConnection calls this."""
        address = await self._finder.find()
        if address != self._address:
            self._address = address
            await self.disconnect(inuse_connections=False)
        return address

    async def aclose(self) -> None:
        await self.disconnect()
        await self._finder.aclose()


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
