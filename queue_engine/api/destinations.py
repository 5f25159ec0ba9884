"""The destination guard at the time a webhook is given; the delivery process judges every connection again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from queue_engine.api.fields import FieldError
from queue_engine.api.patience import from_store
from queue_engine.domain.webhooks import (
    NO_PUBLIC_ADDRESS,
    AddressPolicy,
    OwnHost,
    Webhook,
    judge_addresses,
    judge_destination,
)
from queue_engine.runtime.ports import machine_addresses
from queue_engine.runtime.resolver import NoAnswer


class AddressLookup(Protocol):
    """Finds all addresses of a host in bounded time.

    Raises NoAnswer when no name server has answered, another OSError when the name has no address.
    """

    async def addresses(self, host: str) -> Sequence[str]: ...


class Tenants(Protocol):
    """Knows whether there was never a second tenant."""

    async def has_one_tenant(self) -> bool: ...


class DestinationGuard:
    """Judges webhooks by where they point.

    `own_ports` are those of this engine on this machine, `own_hosts` its hosts, `store_ports` its store's. With
    `one_tenant`, a policy and who knows the tenants, that policy counts while there is one tenant.
    """

    def __init__(
        self,
        lookup: AddressLookup,
        policy: AddressPolicy,
        *,
        own_ports: frozenset[int] = frozenset(),
        store_ports: frozenset[int] = frozenset(),
        own_hosts: Collection[OwnHost] = (),
        one_tenant: tuple[AddressPolicy, Tenants] | None = None,
        machine: Callable[[], Collection[str]] = machine_addresses,
    ) -> None:
        self._lookup = lookup
        self._policy = policy
        self._own_ports = own_ports
        self._store_ports = store_ports
        self._own_hosts = own_hosts
        self._one_tenant = one_tenant
        self._machine = machine

    async def errors(self, webhook: Webhook) -> list[FieldError]:
        """Return an error of the field `webhook` when nothing may be sent there.

        A name that looks public passes when no name server has answered: the delivery process judges it again.
        """
        addresses: Sequence[str] | None = None
        if webhook.literal is None:
            try:
                addresses = await self._lookup.addresses(webhook.host)
            except NoAnswer:
                pass
            except OSError:
                rule = judge_addresses(webhook.host, None, self._policy) or NO_PUBLIC_ADDRESS
                return [("webhook", rule)]
        refusal = self._refusal(webhook, addresses, self._policy)
        if refusal is not None and self._one_tenant is not None:
            refusal = await self._refusal_with_one_tenant(webhook, addresses, refusal, *self._one_tenant)
        return [] if refusal is None else [("webhook", refusal)]

    async def _refusal_with_one_tenant(
        self, webhook: Webhook, addresses: Sequence[str] | None, refusal: str, policy: AddressPolicy, tenants: Tenants
    ) -> str | None:
        """Return the refusal while there is one tenant. The store is asked only where that makes a difference."""
        local = self._refusal(webhook, addresses, policy)
        return local if local != refusal and await from_store(tenants.has_one_tenant()) else refusal

    def _refusal(self, webhook: Webhook, addresses: Sequence[str] | None, policy: AddressPolicy) -> str | None:
        machine = self._machine() if webhook.port in self._own_ports else ()
        return judge_destination(
            webhook,
            addresses,
            policy,
            self._own_ports,
            store_ports=self._store_ports,
            own_hosts=self._own_hosts,
            machine=machine,
        )
