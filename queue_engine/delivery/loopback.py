"""Webhooks to loopback, for as long as the engine has one tenant: what `queue-engine up` allows on one machine."""

from __future__ import annotations

from typing import Protocol

from queue_engine.aio import retry_while_unavailable
from queue_engine.delivery.sender import OutgoingRequest
from queue_engine.domain.deliveries import WebhookResponse
from queue_engine.store.redis.client import unavailability


class Tenants(Protocol):
    """Knows whether there was never a second tenant."""

    async def has_one_tenant(self) -> bool: ...


class Sends(Protocol):
    """Makes one HTTP attempt."""

    async def send(self, request: OutgoingRequest) -> WebhookResponse: ...


class LoopbackSender:
    """Sends by `local`, which reaches loopback, while there is one tenant, and by `strict` as soon as there are two.

    The store is asked before every attempt. The two must not share connections: those to loopback that were kept alive
    are then not used again.
    """

    def __init__(self, tenants: Tenants, local: Sends, strict: Sends) -> None:
        self._tenants = tenants
        self._local = local
        self._strict = strict

    async def send(self, request: OutgoingRequest) -> WebhookResponse:
        """Make one attempt, after waiting for as long as the store does not respond."""
        alone = await retry_while_unavailable(self._tenants.has_one_tenant, passing=unavailability, what="tenants")
        return await (self._local if alone else self._strict).send(request)
