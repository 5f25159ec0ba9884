"""The request of a container's preStop hook: when it gets its response."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from queue_engine.net.listening import listen
from queue_engine.observability.exporter import PageServer, port_of, serve_pages
from tests.waiting import GIVE_UP_SECONDS, wait_until
from worker_agent import drain_hook
from worker_agent.drain_hook import HOOK_MARGIN_SECONDS, DrainHook


@dataclass
class Serving:
    hook: DrainHook
    server: PageServer
    port: int

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", trust_env=False, timeout=GIVE_UP_SECONDS)

    def call(self) -> "Call":
        """Begin a request of the hook, which has arrived on return."""
        call = Call(self)
        wait_until(self.hook._called.is_set)
        return call


class Call(threading.Thread):
    def __init__(self, serving: Serving) -> None:
        super().__init__(daemon=True)
        self._serving = serving
        self.text: str | None = None
        self.start()

    def run(self) -> None:
        self.text = self._serving.get("/drained").text

    def ended(self) -> str | None:
        self.join(GIVE_UP_SECONDS)
        return self.text


def serving_with(grace_seconds: float, listener: socket.socket) -> Serving:
    hook = DrainHook(grace_seconds)
    return Serving(hook, serve_pages(listener, hook.pages), port_of(listener) or 0)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with listen("127.0.0.1", 0) as one:
        yield one


async def test_the_response_comes_after_the_drain_and_before_the_agents_end(listener: socket.socket) -> None:
    serving = serving_with(3600, listener)
    calls = [await asyncio.to_thread(serving.call) for _ in range(2)]
    assert serving.get("/healthz").text == "ok\n"
    assert [call.text for call in calls] == [None, None]
    await serving.hook.finish(serving.server)
    assert serving.server.wait_until_idle(0)
    assert [call.ended() for call in calls] == ["drained\n", "drained\n"]


def test_the_response_comes_soon_after_the_grace_period_whatever_happens(listener: socket.socket) -> None:
    serving = serving_with(0.05 - HOOK_MARGIN_SECONDS, listener)
    assert serving.call().ended() == "the grace period is over\n"


async def test_an_agent_without_a_hook_ends_after_a_limited_time(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain_hook, "FIRST_CALL_SECONDS", 0.05)
    serving = serving_with(3600, listener)
    await asyncio.wait_for(serving.hook.finish(serving.server), GIVE_UP_SECONDS)


async def test_a_hook_that_arrives_after_the_drain_gets_its_response(listener: socket.socket) -> None:
    serving = serving_with(3600, listener)
    finishing = asyncio.create_task(serving.hook.finish(serving.server))
    call = await asyncio.to_thread(serving.call)
    await finishing
    assert call.ended() == "drained\n"


async def test_a_client_that_reads_nothing_delays_the_agents_end_for_a_limited_time_only(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain_hook, "RESPONSE_SECONDS", 0.05)
    serving = serving_with(3600, listener)
    with socket.create_connection(("127.0.0.1", serving.port)) as slow:
        slow.sendall(b"GET /drained HTTP/1.1\r\n")  # the rest of the head does not come
        call = await asyncio.to_thread(serving.call)
        await asyncio.wait_for(serving.hook.finish(serving.server), GIVE_UP_SECONDS)
        assert call.ended() == "drained\n"


async def test_the_agent_stays_until_its_responses_are_sent() -> None:
    hook = DrainHook(3600)
    waited: list[float] = []

    class Server:
        def wait_until_idle(self, seconds: float) -> bool:
            assert hook._drained.is_set()
            waited.append(seconds)
            return True

    hook._called.set()
    await hook.finish(Server())
    assert waited == [drain_hook.RESPONSE_SECONDS]
