"""The words for what real connections raise, through plain aiohttp and through the connections of the engine."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest

from queue_engine.net.client_errors import error_type_of
from queue_engine.net.http_client import ResponseConnector
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


@pytest.fixture(params=["as the engine connects", "plain aiohttp"])
async def call(request: pytest.FixtureRequest) -> AsyncIterator[Call]:
    connector = ResponseConnector() if request.param == "as the engine connects" else None
    timeout = aiohttp.ClientTimeout(total=20, sock_read=0.3)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def post(url: str) -> object:
            async with session.post(url, data=b"x") as response:
                return await response.read()

        yield post


async def error_type_at(call: Call, url: str) -> str:
    try:
        await call(url)
    except Exception as error:  # noqa: BLE001 - whatever it is, there is a word for it
        return error_type_of(error)
    return "none"


async def _silent(peer: Peer, _request: Received) -> None:
    await peer.until_it_leaves()


async def _reset(peer: Peer, _request: Received) -> None:
    peer.reset()


@pytest.mark.parametrize(
    ("behaviour", "error_type"),
    [
        (answering(OK), "none"),
        (_silent, "read_timeout"),
        (_reset, "reset"),
        (answering_and_closing(b""), "reset"),
        (answering_and_closing(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart"), "reset"),
        (answering_and_closing(b"not HTTP at all\r\n\r\n"), "bad_response"),
    ],
)
async def test_a_connection_that_was_made_is_never_called_unmade(
    call: Call, behaviour: Behaviour, error_type: str
) -> None:
    async with receiver(behaviour) as target:
        assert await error_type_at(call, target.url) == error_type


async def test_a_closed_port_is_refused(call: Call) -> None:
    async with receiver(answering(OK)) as target:
        pass
    assert await error_type_at(call, target.url) == "connect_refused"


async def test_a_wrong_protocol_is_a_tls_error(call: Call) -> None:
    async with receiver(answering(OK), greeting=b"HTTP/1.1 400 Bad Request\r\n\r\n") as target:
        assert await error_type_at(call, target.url.replace("http:", "https:")) == "tls_error"


async def test_a_scheme_that_is_not_http_is_an_invalid_request(call: Call) -> None:
    assert await error_type_at(call, "ftp://127.0.0.1/") == "invalid_request"


async def test_an_expired_wall_clock_is_a_read_timeout(call: Call) -> None:
    async with receiver(_silent) as target:

        async def in_no_time(url: str) -> None:
            async with asyncio.timeout(0.1):
                await call(url)

        assert await error_type_at(in_no_time, target.url) == "read_timeout"
