"""The destination guard at the time a webhook is given; the delivery process judges every connection again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from queue_engine.domain.errors import InvalidRequest
from queue_engine.domain.webhooks import AddressPolicy, Webhook, judge_destination


class AddressLookup(Protocol):
    """Finds all addresses of a host in bounded time. Raises OSError when there is none."""

    async def addresses(self, host: str) -> Sequence[str]: ...


class DestinationGuard:
    """Judges webhooks by where they point. `own_ports` are those that this API listens on."""

    def __init__(
        self, lookup: AddressLookup, policy: AddressPolicy, *, own_ports: frozenset[int] = frozenset()
    ) -> None:
        self._lookup = lookup
        self._policy = policy
        self._own_ports = own_ports

    async def check(self, webhook: Webhook) -> None:
        """Raises InvalidRequest when nothing may be sent there. A public name that nobody knows yet passes."""
        addresses = None if webhook.literal is not None else await self._addresses(webhook.host)
        refusal = judge_destination(webhook, addresses, self._policy, self._own_ports)
        if refusal is not None:
            raise InvalidRequest("webhook", refusal)

    async def _addresses(self, host: str) -> Sequence[str] | None:
        try:
            return await self._lookup.addresses(host)
        except OSError:
            return None
