"""Check a webhook's destination when the webhook is submitted. The delivery process checks each connection again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from queue_engine.domain.field_errors import FieldError
from queue_engine.engine.patience import from_store
from queue_engine.net.ports import machine_addresses
from queue_engine.net.resolver import NoAnswer
from queue_engine.rules.webhook_urls import (
    NO_PUBLIC_ADDRESS,
    AddressPolicy,
    DestinationRules,
    Webhook,
    addresses_refusal,
    destination_refusal,
)


class AddressLookup(Protocol):
    """Resolves a host to all its addresses, in bounded time.

    Raises NoAnswer when no name server responded, and another OSError when the name has no address.
    """

    async def addresses(self, host: str, owner: str = "") -> Sequence[str]:
        """Return all addresses of a host, looked up for `owner`."""
        ...


class Tenants(Protocol):
    """Tells whether this engine has only ever had one tenant."""

    async def has_one_tenant(self) -> bool: ...


class DestinationGuard:
    """Refuses webhooks by their destination."""

    def __init__(
        self,
        lookup: AddressLookup,
        rules: DestinationRules,
        tenants: Tenants,
        *,
        machine: Callable[[], Collection[str]] = machine_addresses,
    ) -> None:
        self._lookup = lookup
        self._rules = rules
        self._tenants = tenants
        self._machine = machine

    async def errors(self, webhook: Webhook, tenant: str) -> list[FieldError]:
        """Return an error of the field `webhook` if deliveries to it are not allowed. Lookups count for `tenant`.

        A name that looks public is accepted when no name server responded: the delivery process checks it again.
        """
        policy = self._rules.policy
        addresses: Sequence[str] | None = None
        if webhook.literal is None:
            try:
                addresses = await self._lookup.addresses(webhook.host, tenant)
            except NoAnswer:
                pass
            except OSError:
                rule = addresses_refusal(webhook.host, None, policy) or NO_PUBLIC_ADDRESS
                return [("webhook", rule)]
        refusal = self._refusal(webhook, addresses, policy)
        if refusal is not None and self._rules.policy_for_one_tenant is not None:
            refusal = await self._refusal_with_one_tenant(
                webhook, addresses, refusal, self._rules.policy_for_one_tenant
            )
        return [] if refusal is None else [("webhook", refusal)]

    async def _refusal_with_one_tenant(
        self, webhook: Webhook, addresses: Sequence[str] | None, refusal: str, policy: AddressPolicy
    ) -> str | None:
        """Return the refusal under the policy for a single tenant, or `refusal` if there is a second tenant.

        The store is read only if the two differ.
        """
        local = self._refusal(webhook, addresses, policy)
        return local if local != refusal and await from_store(self._tenants.has_one_tenant()) else refusal

    def _refusal(self, webhook: Webhook, addresses: Sequence[str] | None, policy: AddressPolicy) -> str | None:
        rules = self._rules
        return destination_refusal(
            webhook,
            addresses,
            policy,
            rules.own_ports,
            store_ports=rules.store_ports,
            own_hosts=rules.own_hosts,
            machine=self._machine() if webhook.port in rules.own_ports else (),
        )
