"""The keep-alive time of connections, by a clock that the test moves."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from queue_engine.api.http.connections import CONNECTION, ConnectionLimits, Connections
from queue_engine.api.http.protocol import (
    ANONYMOUS_KEEP_ALIVE_SECONDS,
    KEEP_ALIVE_SECONDS,
    LimitedProtocol,
    limited_protocol,
)
from queue_engine.api.http.responses import success
from tests.unit.test_cycle import RecordingTransport

REQUEST = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
PATIENCE_SECONDS = 9.0


class Timer:
    def __init__(self, when: float, call: Callable[[], None]) -> None:
        self.when = when
        self.call = call
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Clock:
    """The part of an event loop that a connection uses, with timers that fire when the test moves the time."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[Timer] = []
        self.started = 0

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, call: Callable[[], None]) -> Timer:
        self.started += 1
        self.timers.append(Timer(when, call))
        return self.timers[-1]

    def call_later(self, delay: float, call: Callable[[], None]) -> Timer:
        return self.call_at(self.now + delay, call)

    def create_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)

    def pass_seconds(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [one for one in self.timers if not one.is_cancelled and one.when <= end]:
            first = min(due, key=lambda one: one.when)
            self.timers.remove(first)
            self.now = max(self.now, first.when)
            first.call()
        self.now = end


class Peer:
    """A connection to an application that responds at once, with or without a valid key."""

    def __init__(self, *, has_key: bool) -> None:
        self.clock = Clock()
        self.transport = RecordingTransport()

        async def app(scope: Scope, _receive: Receive, send: Send) -> None:
            if has_key:
                scope[CONNECTION].admit("default")
            await success("ok").send(send)

        connections = Connections(ConnectionLimits())
        config = uvicorn.Config(
            app, http=limited_protocol(PATIENCE_SECONDS, connections), ws="none", lifespan="off", log_config=None
        )
        config.load()
        state = ServerState()
        self._tasks = state.tasks
        kind: Any = config.http_protocol_class
        self.protocol: LimitedProtocol = kind(config, state, {}, self.clock)
        self.protocol.connection_made(self.transport)

    async def request(self) -> None:
        self.protocol.data_received(REQUEST)
        while self._tasks:
            await asyncio.gather(*self._tasks)
        assert self.transport.written.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("has_key", "seconds"), [(True, KEEP_ALIVE_SECONDS), (False, ANONYMOUS_KEEP_ALIVE_SECONDS)], ids=["key", "no key"]
)
async def test_a_connection_is_closed_after_its_keep_alive_time(has_key: bool, seconds: float) -> None:
    peer = Peer(has_key=has_key)
    await peer.request()
    peer.clock.pass_seconds(seconds - 0.1)
    assert not peer.transport.closed
    peer.clock.pass_seconds(0.2)
    assert peer.transport.closed


async def test_each_request_begins_the_keep_alive_time_again() -> None:
    peer = Peer(has_key=True)
    for _ in range(4):
        await peer.request()
        peer.clock.pass_seconds(KEEP_ALIVE_SECONDS * 0.7)
        assert not peer.transport.closed
    peer.clock.pass_seconds(KEEP_ALIVE_SECONDS * 0.4)
    assert peer.transport.closed


async def test_a_busy_connection_starts_no_timer_for_each_request() -> None:
    peer = Peer(has_key=True)
    await peer.request()
    before = peer.clock.started
    for _ in range(100):
        await peer.request()
    assert peer.clock.started == before


async def test_a_request_that_begins_and_stops_is_not_protected_by_the_keep_alive_time() -> None:
    peer = Peer(has_key=True)
    await peer.request()
    peer.protocol.data_received(REQUEST[:10])
    peer.clock.pass_seconds(PATIENCE_SECONDS + 0.1)
    assert b"did not arrive in time" in peer.transport.written


async def test_a_lost_connection_leaves_no_timer() -> None:
    peer = Peer(has_key=True)
    await peer.request()
    peer.protocol.connection_lost(None)
    assert all(timer.is_cancelled for timer in peer.clock.timers)
