"""Delivery processes note destinations with which something is wrong, and take orders to end a pause."""

from typing import Any

from queue_engine.domain.destinations import DestinationNote, Standing, destination_in, merged, origin_of
from queue_engine.store.keys import STANDINGS, resume_orders, standing_of
from queue_engine.store.standings import MAX_NOTED, MAX_ORDERS, TenantNote
from queue_engine.store.store import Store
from tests.store.probe import Probe

HOOKS = "https://hooks.example.net:443"


def parked(destination: str = HOOKS, **facts: Any) -> DestinationNote:
    return DestinationNote(destination, Standing.PARKED, **facts)


async def test_a_tenant_reads_the_notes_of_all_processes_about_its_own_destinations(store: Store) -> None:
    await store.standings.write("one", [TenantNote("a", parked(waiting=3)), TenantNote("b", parked("http://b:80"))])
    await store.standings.write("two", [TenantNote("a", parked(waiting=4, next_attempt_at_ms=5000, since_ms=-1000))])
    (found,) = merged(await store.standings.of_tenant("a"))
    assert (found.destination, found.standing, found.waiting) == (HOOKS, Standing.PARKED, 7)
    assert found.next_attempt_at_ms is not None
    assert found.since_ms is not None
    assert found.next_attempt_at_ms - found.since_ms == 6000
    assert abs(await store.now_ms() - found.since_ms - 1000) < 60_000
    assert [one.destination for one in await store.standings.of_tenant("b")] == ["http://b:80"]
    assert await store.standings.of_tenant("c") == []


async def test_nothing_is_left_when_nothing_is_wrong_any_more(store: Store, probe: Probe) -> None:
    before = await probe.keys()
    await store.standings.write("one", [TenantNote("a", parked())])
    assert await probe.keys() != before
    await store.standings.write("one", [])
    assert await probe.keys() == before


async def test_notes_and_orders_expire_and_are_limited(store: Store, probe: Probe) -> None:
    notes = [TenantNote("a", parked(f"http://h{number}:80")) for number in range(MAX_NOTED + 10)]
    await store.standings.write("one", notes)
    assert len(await store.standings.of_tenant("a")) == MAX_NOTED
    for number in range(MAX_NOTED):
        assert await store.standings.resume("a", f"http://h{number}:80") == 1
    assert await probe.ask("ZCARD", resume_orders("one")) == MAX_ORDERS
    for key in (STANDINGS, standing_of("one"), resume_orders("one")):
        assert 0 < await probe.ask("PTTL", key) <= 30_000


async def test_an_order_goes_once_to_each_process_that_has_noted_the_destination(store: Store) -> None:
    await store.standings.write("one", [TenantNote("a", parked())])
    await store.standings.write("two", [TenantNote("b", parked())])
    assert await store.standings.resume("a", HOOKS) == 1
    assert await store.standings.resume("c", HOOKS) == 0
    assert await store.standings.write("two", [TenantNote("b", parked())]) == []
    assert await store.standings.write("one", [TenantNote("a", parked())]) == [("a", HOOKS)]
    assert await store.standings.write("one", [TenantNote("a", parked())]) == []


async def test_a_repeated_order_does_not_push_out_that_of_another_tenant(store: Store) -> None:
    notes = [TenantNote("a", parked("http://a:80")), TenantNote("b", parked())]
    await store.standings.write("one", notes)
    assert await store.standings.resume("b", HOOKS) == 1
    for _ in range(MAX_ORDERS + 1):
        assert await store.standings.resume("a", "http://a:80") == 1
    assert await store.standings.write("one", notes) == [("b", HOOKS), ("a", "http://a:80")]


def test_a_destination_is_written_in_a_path_without_slashes() -> None:
    for destination in (HOOKS, "http://127.0.0.1:9", "http://[::1]:8080"):
        assert destination_in(origin_of(destination)) == destination
    for wrong in (
        "",
        "https://x:443",
        "https:x",
        "https:x:0",
        "https:x:99999",
        "ftp:x:1",
        "https:a/b:443",
        "http:a@b:1",
    ):
        assert destination_in(wrong) is None, wrong
