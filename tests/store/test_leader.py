"""Leadership: a single controller of several leads, and another one soon after it has died."""

import asyncio

from queue_engine.store.keys import LEADER
from queue_engine.store.store import Store
from tests.store.probe import Probe
from tests.waiting import wait_until_async


async def test_of_controllers_at_once_one_leads(store: Store) -> None:
    held = await asyncio.gather(*(store.leadership.hold(f"c{number}", lease_ms=10_000) for number in range(10)))
    assert sum(held) == 1


async def test_the_leader_renews_its_lease(store: Store, probe: Probe) -> None:
    assert await store.leadership.hold("c1", lease_ms=1_000)
    assert await store.leadership.hold("c1", lease_ms=60_000)
    assert await probe.ask("PTTL", LEADER) > 50_000


async def test_a_leader_that_gives_up_is_followed_at_once(store: Store) -> None:
    await store.leadership.hold("c1", lease_ms=60_000)
    assert not await store.leadership.hold("c2", lease_ms=60_000)
    await store.leadership.give_up("c2")
    assert not await store.leadership.hold("c2", lease_ms=60_000)
    await store.leadership.give_up("c1")
    assert await store.leadership.hold("c2", lease_ms=60_000)
    assert not await store.leadership.hold("c1", lease_ms=60_000)


async def test_a_silent_leader_is_followed_when_its_lease_has_run_out(store: Store) -> None:
    await store.leadership.hold("c1", lease_ms=50)

    async def is_followed() -> bool:
        return await store.leadership.hold("c2", lease_ms=60_000)

    await wait_until_async(is_followed)
