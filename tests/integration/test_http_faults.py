"""The words for what real connections raise, through httpx on aiohttp's transport and through aiohttp itself."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import httpx
import pytest
from httpx_aiohttp import AiohttpTransport

from queue_engine.runtime.http_faults import fault_of
from tests.integration.receivers import (
    OK,
    Behaviour,
    Peer,
    Received,
    answering,
    answering_and_closing,
    receiver,
)

Call = Callable[[str], Awaitable[object]]


@pytest.fixture(params=["httpx on aiohttp", "httpx", "aiohttp"])
async def call(request: pytest.FixtureRequest) -> AsyncIterator[Call]:
    timeout = httpx.Timeout(20.0, read=0.3)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20, sock_read=0.3)) as session:

        async def through_aiohttp(url: str) -> object:
            async with session.post(url, data=b"x") as response:
                return await response.read()

        transport = AiohttpTransport(client=session) if request.param == "httpx on aiohttp" else None
        async with httpx.AsyncClient(transport=transport, timeout=timeout, trust_env=False) as client:

            async def through_httpx(url: str) -> object:
                return await client.post(url, content=b"x")

            yield through_aiohttp if request.param == "aiohttp" else through_httpx


async def fault_at(call: Call, url: str) -> str:
    try:
        await call(url)
    except Exception as error:  # noqa: BLE001 - whatever it is, there is a word for it
        return fault_of(error)
    return "none"


async def _silent(peer: Peer, _request: Received) -> None:
    await peer.until_it_leaves()


async def _reset(peer: Peer, _request: Received) -> None:
    peer.reset()


@pytest.mark.parametrize(
    ("behaviour", "fault"),
    [
        (answering(OK), "none"),
        (_silent, "read_timeout"),
        (_reset, "reset"),
        (answering_and_closing(b""), "reset"),
        (answering_and_closing(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart"), "reset"),
        (answering_and_closing(b"not HTTP at all\r\n\r\n"), "reset"),
    ],
)
async def test_a_connection_that_was_made_is_never_called_unmade(call: Call, behaviour: Behaviour, fault: str) -> None:
    async with receiver(behaviour) as target:
        assert await fault_at(call, target.url) == fault


async def test_a_closed_port_is_refused(call: Call) -> None:
    async with receiver(answering(OK)) as target:
        pass
    assert await fault_at(call, target.url) == "connect_refused"


async def test_a_wrong_protocol_is_a_tls_error(call: Call) -> None:
    async with receiver(answering(OK), greeting=b"HTTP/1.1 400 Bad Request\r\n\r\n") as target:
        assert await fault_at(call, target.url.replace("http:", "https:")) == "tls_error"


async def test_a_scheme_that_is_not_http_is_an_invalid_request(call: Call) -> None:
    assert await fault_at(call, "ftp://127.0.0.1/") == "invalid_request"


async def test_an_expired_wall_clock_is_a_read_timeout(call: Call) -> None:
    async with receiver(_silent) as target:

        async def in_no_time(url: str) -> None:
            async with asyncio.timeout(0.1):
                await call(url)

        assert await fault_at(in_no_time, target.url) == "read_timeout"
