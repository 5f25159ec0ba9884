"""Topics are read while they are followed, whatever happens to one of them."""

import asyncio
from contextlib import ExitStack

import pytest

from queue_engine.domain.errors import TooManyRequests
from queue_engine.engine.topics import Source, State, Topics, Wanted
from tests.waiting import GIVE_UP_SECONDS

STATE = State(b"state", b"state")


class Scripted(Source):
    """A source whose reads give these outcomes, and then no news. A round takes no time."""

    gone = b"gone"

    def __init__(self, *outcomes: State | Exception) -> None:
        self._outcomes = list(outcomes)
        self.is_closed = False

    async def read(self) -> State | None:
        outcome = self._outcomes.pop(0) if self._outcomes else None
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def pause(self) -> None:
        await asyncio.sleep(0)

    def close(self) -> None:
        self.is_closed = True


async def test_a_topic_is_read_again_after_an_unexpected_error() -> None:
    source = Scripted(ValueError("broken"), STATE)
    with Topics().following("acme", "key", {"a": lambda: source}) as follower:
        assert await follower.next(GIVE_UP_SECONDS) == [b"state"]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert source.is_closed


async def test_a_source_is_closed_when_another_topic_of_the_stream_cannot_begin() -> None:
    source, topics = Scripted(STATE), Topics()

    def refused() -> Source:
        raise TooManyRequests("full", scope="waits", retry_after_seconds=1)

    wanted: Wanted = {"a": lambda: source, "b": refused}
    with pytest.raises(TooManyRequests), topics.following("acme", "key", wanted):
        raise AssertionError("the stream has begun")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert source.is_closed
    with topics.following("acme", "key", {"a": lambda: Scripted(STATE)}) as follower:
        assert await follower.next(GIVE_UP_SECONDS) == [b"state"]


async def test_tenants_that_follow_all_they_may_leave_room_for_another() -> None:
    topics = Topics()

    def wanted(tenant: str, count: int) -> Wanted:
        return {(tenant, number): lambda: Scripted(STATE) for number in range(count)}

    with ExitStack() as stack:
        for tenant, most in (("a", 100), ("b", 50), ("c", 25), ("d", 12)):
            rule = f"half of the topics that others leave at this server, now {most}"
            with pytest.raises(TooManyRequests, match=rule), topics.following(tenant, tenant, wanted(tenant, most + 1)):
                raise AssertionError("the stream has begun")
            stack.enter_context(topics.following(tenant, tenant, wanted(tenant, most)))
        with topics.following("a", "another client", wanted("a", 16)) as follower:  # the same topics need no room
            assert await follower.next(GIVE_UP_SECONDS)
