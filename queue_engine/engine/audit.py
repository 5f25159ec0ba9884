"""Record changes in the tenant's audit log, and read the log.

A use case makes a change by `change`, and calls `note` if the change was made. When the store fails between the change
and its record, the change stays, the request succeeds, the record is logged as an error, and this process writes it
when the store is available again. When the store fails during the change, the request fails. Unless the store has
refused the change, its outcome is unknown, and the record says that the change may have been made. A record is lost
when the process is killed between the change and its record. It is only in the process's log when the process ends
while the record waits for the store.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import Awaitable
from dataclasses import asdict, dataclass
from functools import partial
from typing import TypeVar

from queue_engine.aio import retry_while_unavailable
from queue_engine.domain.audit import Action, AuditFilter, AuditPage, Change
from queue_engine.domain.errors import InvalidRequest, StoreUnavailable
from queue_engine.domain.principals import Principal
from queue_engine.engine.patience import from_store
from queue_engine.store.audit import EVERYTHING, AuditStore, is_record_id
from queue_engine.store.redis.client import is_refused_write

T = TypeVar("T")
log = logging.getLogger(__name__)

MAX_UNWRITTEN_PER_TENANT = 1000
"""Limit of a tenant's records that wait for the store, so that one tenant does not displace the records of others.
Further ones are only in the log of this process."""
MAX_UNWRITTEN = 10_000
"""Limit of the records of all tenants that wait for the store. They take some megabytes."""


@dataclass(frozen=True)
class _Unwritten:
    tenant: str
    change_id: str
    change: Change

    def is_same_as(self, other: _Unwritten) -> bool:
        """Return True if both records are of the same change, as when a client repeats its request in an outage."""
        return (self.tenant, self.change) == (other.tenant, other.change)


class Audit:
    """The audit log of each tenant."""

    def __init__(self, audit: AuditStore) -> None:
        self._audit = audit
        self._unwritten: dict[str, deque[_Unwritten]] = {}
        """Records that wait for the store, by tenant, oldest first. No tenant has an empty queue."""
        self._writing: asyncio.Task[None] | None = None

    async def change(
        self, principal: Principal, action: Action, target: str, call: Awaitable[T], *, tenant: str | None = None
    ) -> T:
        """Return the result of a call of the store that makes a change. Raises StoreUnavailable.

        If the store is unavailable, the call may have made the change, so the change is recorded as not certain. A
        change that the store has refused is not recorded.
        """
        try:
            return await from_store(call)
        except StoreUnavailable as error:
            if not is_refused_write(error):
                record = _record(principal, action, target, tenant, is_certain=False)
                if not any(record.is_same_as(one) for one in self._unwritten.get(record.tenant, ())):
                    self._keep(record, error)
            raise

    async def note(self, principal: Principal, action: Action, target: str, *, tenant: str | None = None) -> None:
        """Record a change that the principal has made, in the log of its tenant or of `tenant`.

        Does not raise StoreUnavailable, because the change has been made.
        """
        record = _record(principal, action, target, tenant)
        try:
            await from_store(self._write(record))
        except StoreUnavailable as error:
            self._keep(record, error)

    async def page(
        self, principal: Principal, *, before: str | None, size: int, wanted: AuditFilter = EVERYTHING
    ) -> AuditPage:
        """Return the tenant's records that match, newest first: see `AuditStore.page`.

        Raises InvalidRequest, StoreUnavailable.
        """
        if before is not None and not is_record_id(before):
            raise InvalidRequest("before", "must be the id of a record")
        return await from_store(self._audit.page(principal.tenant, before=before, size=size, wanted=wanted))

    async def _write(self, record: _Unwritten) -> None:
        await self._audit.append(record.tenant, record.change_id, record.change)

    def _keep(self, record: _Unwritten, error: StoreUnavailable) -> None:
        is_full = self._is_full(record.tenant)
        facts = {"tenant": record.tenant, **asdict(record.change)}
        text = "an audit record is only in this log" if is_full else "an audit record waits for the store"
        log.error("%s: the store is unavailable: %s", text, error.reason, extra=facts)
        if is_full:
            return
        self._unwritten.setdefault(record.tenant, deque()).append(record)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_all(), name="write audit records")

    def _is_full(self, tenant: str) -> bool:
        if len(self._unwritten.get(tenant, ())) >= MAX_UNWRITTEN_PER_TENANT:
            return True
        return sum(len(records) for records in self._unwritten.values()) >= MAX_UNWRITTEN

    async def _write_all(self) -> None:
        while self._unwritten:
            tenant, records = next(iter(self._unwritten.items()))
            write = partial(self._write_kept, records[0])
            await retry_while_unavailable(write, passing=_reason, what="audit")
            records.popleft()
            if not records:
                del self._unwritten[tenant]

    async def _write_kept(self, record: _Unwritten) -> None:
        await from_store(self._write(record))


def _record(
    principal: Principal, action: Action, target: str, tenant: str | None, *, is_certain: bool = True
) -> _Unwritten:
    change = Change(action, target, principal.key_id, principal.key_name, principal.address, is_certain)
    return _Unwritten(principal.tenant if tenant is None else tenant, uuid.uuid4().hex, change)


def _reason(error: BaseException) -> str | None:
    return error.reason if isinstance(error, StoreUnavailable) else None
