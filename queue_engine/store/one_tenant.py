"""The rule that only one tenant may have endpoints, while the workers of all tenants would run as one user.

The leading controller knows whether its backend keeps tenants apart, and notes the reason if it does not. The API
refuses the endpoints of every tenant but the one with the oldest endpoint.
"""

from __future__ import annotations

from redis.asyncio import Redis

from queue_engine.store.keys import FIRST_TENANT, META, ONE_TENANT, TENANTS, endpoints_of

CLAIM_MS = 10_000
"""Time for which a tenant that is about to create the first endpoint keeps others from creating one too."""


class OneTenant:
    """The noted rule. Every method raises RedisError, and is safe to repeat."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def note(self, reason: str | None) -> None:
        """Note why only one tenant may have endpoints; None: there is no such rule."""
        if reason is None:
            await self._redis.hdel(META, ONE_TENANT)  # type: ignore[misc]
        else:
            await self._redis.hset(META, ONE_TENANT, reason)  # type: ignore[misc]

    async def refusal(self, tenant: str) -> str | None:
        """Return the reason why this tenant may not create or start endpoints; None if it may."""
        reason: bytes | None = await self._redis.hget(META, ONE_TENANT)  # type: ignore[misc]
        if reason is None:
            return None
        owners = await self.owners()
        is_first = owners[0] == tenant if owners else await self._claim(tenant)
        return None if is_first else reason.decode()

    async def owners(self) -> list[str]:
        """Return the tenants that have endpoints, the one with the oldest endpoint first."""
        names = list({name.decode() async for name in self._redis.sscan_iter(TENANTS, count=1000)})
        pipeline = self._redis.pipeline(transaction=False)
        for name in names:
            pipeline.zrange(endpoints_of(name), 0, 0)
        oldest = {name: int(ids[0]) for name, ids in zip(names, await pipeline.execute(), strict=True) if ids}
        return sorted(oldest, key=oldest.__getitem__)

    async def _claim(self, tenant: str) -> bool:
        await self._redis.set(FIRST_TENANT, tenant, nx=True, px=CLAIM_MS)
        holder: bytes | None = await self._redis.get(FIRST_TENANT)
        return holder is None or holder.decode() == tenant
