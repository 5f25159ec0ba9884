"""Audit records that wait for the store: their bound for each tenant and in all."""

import asyncio
from typing import Any

import pytest

from queue_engine.domain.audit import Action
from queue_engine.domain.errors import StoreUnavailable
from queue_engine.domain.principals import Principal, Role
from queue_engine.engine.audit import MAX_UNWRITTEN, MAX_UNWRITTEN_PER_TENANT, Audit
from tests.waiting import wait_until_async


class Records:
    """A store of records that does not respond until `is_available` is set."""

    def __init__(self) -> None:
        self.is_available = asyncio.Event()
        self.written: dict[str, list[str]] = {}

    async def append(self, tenant: str, _change_id: str, change: Any) -> None:
        await self.is_available.wait()
        self.written.setdefault(tenant, []).append(change.target)

    def count(self) -> int:
        return sum(len(targets) for targets in self.written.values())


async def lose_reply() -> None:
    raise StoreUnavailable("it does not respond")


async def change(audit: Audit, tenant: str, target: str) -> None:
    with pytest.raises(StoreUnavailable):
        await audit.change(Principal(tenant, Role.ADMIN, "k"), Action.STOP_ENDPOINT, target, lose_reply())


async def test_the_records_of_one_tenant_do_not_displace_those_of_another() -> None:
    records = Records()
    audit = Audit(records)  # type: ignore[arg-type]
    for number in range(MAX_UNWRITTEN_PER_TENANT + 5):
        await change(audit, "busy", f"endpoint {number}")
    await change(audit, "quiet", "endpoint 1")
    records.is_available.set()
    await wait_until_async(lambda: "quiet" in records.written, message="the record of the other tenant is not written")
    assert records.written == {
        "busy": [f"endpoint {number}" for number in range(MAX_UNWRITTEN_PER_TENANT)],
        "quiet": ["endpoint 1"],
    }


async def test_the_records_of_all_tenants_are_bounded() -> None:
    records = Records()
    audit = Audit(records)  # type: ignore[arg-type]
    for number in range(MAX_UNWRITTEN + 5):
        await change(audit, f"t{number % 100}", f"endpoint {number}")
    records.is_available.set()
    await wait_until_async(lambda: records.count() >= MAX_UNWRITTEN, message="the records are not written")
    await asyncio.sleep(0)
    assert records.count() == MAX_UNWRITTEN
