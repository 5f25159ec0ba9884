"""The keys of open WebSockets are looked up together, and only while there are any."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from queue_engine.domain.api_keys import ApiKey
from queue_engine.domain.errors import StoreUnavailable
from queue_engine.domain.principals import Principal
from queue_engine.engine.key_lookups import MAX_BATCH
from queue_engine.engine.key_watch import KeyWatch
from tests.waiting import wait_until_async


class Records:
    """Keys that can be revoked, in a store that can be away."""

    def __init__(self) -> None:
        self.revoked: set[str] = set()
        self.is_away = False
        self.calls: list[list[str]] = []

    async def find(self, key_hash: str) -> ApiKey | None:
        raise AssertionError("keys are looked up together")

    async def find_all(self, hashes: Sequence[str]) -> Mapping[str, ApiKey | None]:
        self.calls.append(list(hashes))
        if self.is_away:
            raise StoreUnavailable("it is away")
        return {one: None if one in self.revoked else ApiKey(one, "acme", "", 0) for one in hashes}

    async def rounds(self, count: int) -> None:
        """Wait until as many further calls were made."""
        expected = len(self.calls) + count
        await wait_until_async(lambda: len(self.calls) >= expected)


def holder(key_hash: str) -> Principal:
    return ApiKey(key_hash, "acme", "", 0).principal()


async def test_users_of_a_key_share_its_look_up_and_all_see_its_end() -> None:
    records = Records()
    watch = KeyWatch(records, check_seconds=0.01)
    with ExitStack() as stack:
        ended = [stack.enter_context(watch.watched(holder(name))) for name in ("a", "a", "b")]
        await records.rounds(2)
        assert all(call == ["a", "b"] for call in records.calls)
        assert not any(event.is_set() for event in ended)
        records.revoked.add("a")
        await asyncio.gather(ended[0].wait(), ended[1].wait())
        assert not ended[2].is_set()


async def test_a_key_is_watched_until_its_last_user_ends_and_then_nothing_is_looked_up() -> None:
    records = Records()
    watch = KeyWatch(records, check_seconds=0.01)
    with watch.watched(holder("a")):
        with watch.watched(holder("a")):
            await records.rounds(1)
        await records.rounds(2)
    before = len(records.calls)
    with watch.watched(holder("b")):
        await records.rounds(2)
    assert all(call == ["b"] for call in records.calls[before:])


async def test_an_outage_ends_nothing_and_a_key_revoked_during_it_is_found_after_it() -> None:
    records = Records()
    watch = KeyWatch(records, check_seconds=0.01)
    with watch.watched(holder("a")) as ended:
        records.is_away = True
        records.revoked.add("a")
        await records.rounds(2)
        assert not ended.is_set()
        records.is_away = False
        await ended.wait()


async def test_a_call_has_a_limited_number_of_keys() -> None:
    records = Records()
    watch = KeyWatch(records, check_seconds=0.01)
    with ExitStack() as stack:
        for number in range(MAX_BATCH + 1):
            stack.enter_context(watch.watched(holder(str(number))))
        await records.rounds(2)
        assert [len(call) for call in records.calls[:2]] == [MAX_BATCH, 1]
