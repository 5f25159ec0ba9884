"""Delivery processes note destinations with which something is wrong, and take orders to end a pause."""

import re
from typing import Any

import pytest

from queue_engine.domain.destinations import ORIGIN_RULE, DestinationNote, Standing, destination_in, merged, origin_of
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
    waiting = [word for number in range(MAX_ORDERS) for word in (number, f"order {number}")]
    await probe.ask("ZADD", resume_orders("one"), *waiting)
    assert await store.standings.resume("a", "http://h0:80") == 1
    orders = await probe.scores(resume_orders("one"))
    assert len(orders) == MAX_ORDERS
    assert '["a", "http://h0:80"]' in orders
    assert "order 0" not in orders
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
    # Orders of the same millisecond have no order of their own.
    assert sorted(await store.standings.write("one", notes)) == [("a", "http://a:80"), ("b", HOOKS)]


def test_a_destination_is_written_in_a_path_without_slashes() -> None:
    for destination in (HOOKS, "http://127.0.0.1:9", "http://[::1]:8080"):
        assert destination_in(origin_of(destination)) == destination
    assert destination_in("https:Hooks.Example.NET.:443") == HOOKS


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        ("", ORIGIN_RULE),
        ("https://x:443", ORIGIN_RULE),
        ("https:x", ORIGIN_RULE),
        ("ftp:x:1", ORIGIN_RULE),
        ("HTTPS:x:443", ORIGIN_RULE),
        ("https:a/b:443", ORIGIN_RULE),
        (f"https:{'x' * 300}:443", ORIGIN_RULE),
        ("https::443", ORIGIN_RULE),
        ("https:[:443", "must have a host name, an IPv4 address or an IPv6 address in brackets"),
        ("https:::443", "must have a port"),
        ("https:.:443", "must have a host of letters"),
        ("https:a_b:443", "must have a host of letters"),
        ("https:127.1:443", "must write an IPv4 address as four decimal numbers"),
        ("https:[::x]:443", "must have a valid IPv6 address"),
        ("https:x:0", "must have a port"),
        ("https:x:99999", "must have a port"),
        ("https:x:0443", "must have a port"),
        ("http:a@b:1", "must not have user info"),
        ("http:a#b:1", "must not have a fragment"),
        ("http:a b:1", "must be visible ASCII characters"),
        ("http:a%2eb:1", "must not have a % in the host"),
    ],
)
def test_an_origin_that_no_webhook_has_breaks_a_rule(wrong: str, rule: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(rule)}"):
        destination_in(wrong)
