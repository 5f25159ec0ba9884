"""Webhooks to loopback addresses, which `queue-engine up` allows as long as the engine has a single tenant."""

from __future__ import annotations

from typing import Protocol

from queue_engine.aio import retry_while_unavailable
from queue_engine.delivery.sender import OutgoingRequest
from queue_engine.domain.deliveries import WebhookResponse
from queue_engine.store.redis.client import unavailability


class Tenants(Protocol):
    """The store's knowledge of a second tenant, past or present."""

    async def has_one_tenant(self) -> bool: ...


class Sends(Protocol):
    """Makes a single HTTP attempt."""

    async def send(self, request: OutgoingRequest) -> WebhookResponse: ...


class LoopbackSender:
    """Sends with `local`, which may connect to loopback, while there is one tenant, and with `strict` afterwards.

    The store is read before every attempt. The two senders must not share connections, because `strict` would otherwise
    reuse a kept connection to loopback.
    """

    def __init__(self, tenants: Tenants, local: Sends, strict: Sends) -> None:
        self._tenants = tenants
        self._local = local
        self._strict = strict

    async def send(self, request: OutgoingRequest) -> WebhookResponse:
        """Make a single attempt; while the store does not respond, wait for it."""
        alone = await retry_while_unavailable(self._tenants.has_one_tenant, passing=unavailability, what="tenants")
        return await (self._local if alone else self._strict).send(request)
