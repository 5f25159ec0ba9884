"""Responses with lines that are made while they are sent."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from queue_engine.api.http.errors import ClientGone
from queue_engine.api.http.line_streams import NDJSON, LineStream
from tests.waiting import GIVE_UP_SECONDS


async def test_a_response_ends_when_its_client_disconnects_while_no_line_is_made() -> None:
    was_sent, sent, ended = asyncio.Event(), list[bytes](), list[str]()

    async def lines() -> AsyncGenerator[bytes, None]:
        try:
            yield b"1\n"
            await asyncio.Event().wait()
        finally:
            ended.append("lines")

    async def receive() -> dict[str, Any]:
        await was_sent.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if part := message.get("body"):
            sent.append(part)
            was_sent.set()

    response = LineStream(
        200, b"", NDJSON.encode(), lines=lines, receive=receive, at_end=lambda: ended.append("response")
    )
    async with asyncio.timeout(GIVE_UP_SECONDS):
        with pytest.raises(ClientGone):
            await response.send(send)
    assert (sent, ended) == ([b"1\n"], ["lines", "response"])
