"""The audit log of a tenant keeps the newest records, each once."""

from typing import Any

from queue_engine.domain.audit import MAX_AUDIT_RECORDS, MAX_SCANNED_RECORDS, Action, AuditFilter, Change
from queue_engine.store.store import Store
from tests.store.bench import TENANT
from tests.store.probe import Probe

LOG = f"{{qe}}:audit:{TENANT}"
STORED: dict[Any, Any] = {
    "id": "1", "action": "stop_endpoint", "target": "a", "key": "k", "name": "n", "address": "",
}  # fmt: skip
"""A record as it is stored."""


def change(target: str) -> Change:
    return Change(Action.STOP_ENDPOINT, target, "0123456789abcdef", "shift", "192.0.2.7")


async def test_records_are_read_newest_first_in_pages(store: Store) -> None:
    for number in range(5):
        await store.audit.append(TENANT, f"c{number}", change(f"endpoint {number}"))
    first = await store.audit.page(TENANT, before=None, size=3)
    assert [record.change for record in first.records] == [change(f"endpoint {number}") for number in (4, 3, 2)]
    assert first.has_more
    rest = await store.audit.page(TENANT, before=first.records[-1].record_id, size=3)
    assert [record.change.target for record in rest.records] == ["endpoint 1", "endpoint 0"]
    assert not rest.has_more
    assert (await store.audit.page("other", before=None, size=3)).records == ()


async def test_a_repeated_record_is_written_once(store: Store, probe: Probe) -> None:
    for name in ("a", "b", "a", "b", "c"):
        await store.audit.append(TENANT, name, change(name))
    assert [fields["target"] for fields in (await probe.stream(LOG)).values()] == ["a", "b", "c"]


async def test_the_oldest_records_beyond_the_limit_are_removed(store: Store, probe: Probe) -> None:
    pipeline = store.redis.pipeline(transaction=False)
    for number in range(MAX_AUDIT_RECORDS):
        pipeline.xadd(LOG, {"id": number, "action": "stop_endpoint"}, id=f"{number + 1}-0")
    await pipeline.execute()
    for number in range(3):
        await store.audit.append(TENANT, f"c{number}", change("endpoint 1"))
    assert await probe.ask("XLEN", LOG) == MAX_AUDIT_RECORDS
    assert next(iter(await probe.stream(LOG))) == "4-0"


async def test_an_action_of_a_later_version_is_shown_as_stored(store: Store, probe: Probe) -> None:
    await store.audit.append(TENANT, "c1", change("endpoint 1"))
    fields = ("id", "c2", "action", "clone_endpoint", "target", "endpoint 2", "key", "k", "name", "", "address", "")
    await probe.ask("XADD", LOG, "*", *fields)
    page = await store.audit.page(TENANT, before=None, size=10)
    assert [record.change.action for record in page.records] == ["clone_endpoint", "stop_endpoint"]


async def test_a_page_looks_at_a_limited_number_of_records_and_the_next_one_goes_on(store: Store) -> None:
    pipeline = store.redis.pipeline(transaction=False)
    for number in range(1, MAX_SCANNED_RECORDS + 11):
        target = "endpoint 7" if number <= 3 else "endpoint 71, task endpoint-7"
        pipeline.xadd(LOG, {**STORED, "target": target}, id=f"{number}-0")
    await pipeline.execute()
    wanted = AuditFilter(target="endpoint 7")
    first = await store.audit.page(TENANT, before=None, size=10, wanted=wanted)
    assert (first.records, first.has_more, first.looked_at) == ((), True, MAX_SCANNED_RECORDS)
    assert first.next_before == "11-0"
    rest = await store.audit.page(TENANT, before=first.next_before, size=10, wanted=wanted)
    assert [record.record_id for record in rest.records] == ["3-0", "2-0", "1-0"]
    assert (rest.has_more, rest.looked_at) == (False, 10)
    two = await store.audit.page(TENANT, before="11-0", size=2, wanted=wanted)
    assert ([record.record_id for record in two.records], two.has_more, two.next_before) == (
        ["3-0", "2-0"],
        True,
        "2-0",
    )


async def test_a_period_reads_its_own_records_only(store: Store) -> None:
    for number in range(1, 8):
        await store.redis.xadd(LOG, {**STORED}, id=f"{number * 100}-5")
    period = AuditFilter(from_ms=200, to_ms=600)
    page = await store.audit.page(TENANT, before=None, size=10, wanted=period)
    assert [record.at_ms for record in page.records] == [500, 400, 300, 200]
    assert page.looked_at == 4
    older = await store.audit.page(TENANT, before="400-5", size=10, wanted=period)
    assert [record.at_ms for record in older.records] == [300, 200]
    newer = await store.audit.page(TENANT, before="700-5", size=1, wanted=period)
    assert ([record.at_ms for record in newer.records], newer.has_more) == ([500], True)


async def test_a_period_may_be_before_the_epoch(store: Store) -> None:
    await store.redis.xadd(LOG, {**STORED}, id="100-5")
    for number, period in ((1, AuditFilter(from_ms=-5)), (0, AuditFilter(from_ms=-9, to_ms=-5))):
        page = await store.audit.page(TENANT, before=None, size=10, wanted=period)
        assert len(page.records) == number
