"""The tenants of endpoints, for a delivery process. An endpoint's tenant never changes, so it is read once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from redis.asyncio import Redis

from queue_engine.store.keys import EndpointKeys, Partition

MAX_ENDPOINTS = 50_000
"""Maximum number of endpoints whose tenant is remembered, about 10 MB."""
UNKNOWN = ""
"""The tenant of an endpoint that is no longer stored. No tenant has this name."""


class EndpointTenants:
    """Reads and remembers the tenants of endpoints."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._known: OrderedDict[str, str] = OrderedDict()

    async def of(self, partition: Partition, endpoint_ids: Iterable[str]) -> dict[str, str]:
        """Return the tenants of endpoints in a partition. Raises RedisError."""
        asked = set(endpoint_ids)
        found = {one: self._known[one] for one in asked if one in self._known}
        missing = list(asked - found.keys())
        if missing:
            pipeline = self._redis.pipeline(transaction=False)
            for endpoint_id in missing:
                pipeline.hget(EndpointKeys(partition, endpoint_id).endpoint, "tenant")
            for endpoint_id, tenant in zip(missing, await pipeline.execute(), strict=True):
                found[endpoint_id] = UNKNOWN if tenant is None else tenant.decode()
                if tenant is not None:
                    self._remember(endpoint_id, found[endpoint_id])
        return found

    def _remember(self, endpoint_id: str, tenant: str) -> None:
        self._known[endpoint_id] = tenant
        if len(self._known) > MAX_ENDPOINTS:
            self._known.popitem(last=False)
