"""Entries of the outbox, and functions shared by the two kinds of deliveries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from queue_engine.crypto.sealing import SealBroken, Sealer, SecretKeyMissing
from queue_engine.domain.deliveries import Delivered, GivenUp, Verdict
from queue_engine.store.endpoints import open_signing_secret
from queue_engine.store.keys import EndpointKeys, Partition, TaskKeys, parse_member


@dataclass(frozen=True)
class OutboxEntry:
    """A due delivery that this process has read from the outbox."""

    partition: Partition
    entry_id: str
    delivery_id: str
    destination: str
    """`scheme://host:port`. Each destination of a tenant gets a share of the tenant's slots."""
    tenant: str = ""
    """The tenant of its endpoint; empty when the endpoint is no longer stored."""
    was_shelved: bool = False
    """True if it was taken from a shelf."""

    @cached_property
    def task_keys(self) -> TaskKeys:
        """The keys of its task in the outbox's slot, also for an invalid entry. Made once, for `open` and `settle`."""
        endpoint_id, task_id = owner_of(self.delivery_id)
        return _endpoint_keys(self.partition, endpoint_id).of_task(task_id)


@lru_cache(maxsize=4096)  # an endpoint has many deliveries, and building its keys takes as long as sending one command
def _endpoint_keys(partition: Partition, endpoint_id: str) -> EndpointKeys:
    return EndpointKeys(partition, endpoint_id)


@dataclass(frozen=True)
class Settlement:
    """Result of settling a delivery attempt."""

    accepted: bool
    """False when another process has the delivery, or it was settled before."""
    latency_seconds: float = 0.0


RawEntry = tuple[bytes, dict[bytes, bytes]]
"""An entry as the store returns it. A deleted entry has no fields."""


def outbox_entries(
    partition: Partition, entries: Iterable[RawEntry], tenants: Mapping[str, str], *, was_shelved: bool = False
) -> list[OutboxEntry]:
    """Return the entries. An invalid entry gets empty texts; `open` finds no delivery for it and drops it.

    `tenants` has the tenant of each endpoint by its id.
    """
    made = []
    for entry_id, fields in entries:
        if fields:
            delivery_id = _text_in(fields, b"d")
            tenant = tenants.get(endpoint_of(delivery_id), "")
            made.append(
                OutboxEntry(partition, entry_id.decode(), delivery_id, _text_in(fields, b"h"), tenant, was_shelved)
            )
    return made


def endpoints_of(entries: Iterable[RawEntry]) -> set[str]:
    """Return the ids of the entries' endpoints."""
    return {endpoint_of(_text_in(fields, b"d")) for _, fields in entries if fields}


def endpoint_of(delivery_id: str) -> str:
    return owner_of(delivery_id)[0]


def _text_in(fields: dict[bytes, bytes], name: bytes) -> str:
    return fields.get(name, b"").decode("utf-8", "replace")


def owner_of(delivery_id: str) -> tuple[str, str]:
    """Return the ids of the endpoint, and of its task or worker."""
    return parse_member(delivery_id.partition(":")[2])


def settlement(created_ms: int, now_ms: int) -> Settlement:
    return Settlement(accepted=True, latency_seconds=(now_ms - created_ms) / 1000)


def verdict_words(verdict: Verdict) -> tuple[str, int, str]:
    if isinstance(verdict, Delivered):
        return "delivered", 0, ""
    if isinstance(verdict, GivenUp):
        return "given_up", 0, verdict.reason
    return "again", int(verdict.delay_seconds * 1000), verdict.reason


def open_secrets(sealer: Sealer, endpoint_id: str, stored: Sequence[str]) -> tuple[tuple[str, ...], str | None]:
    """Return the endpoint's signing secrets, and the reason when one of them cannot be opened."""
    try:
        return tuple(open_signing_secret(sealer, endpoint_id, one) for one in stored), None
    except (SecretKeyMissing, SealBroken) as error:
        return (), str(error)
