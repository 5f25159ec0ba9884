"""Long bodies are split in steps, so that the event loop serves other requests after each."""

import asyncio

import pytest
from starlette.requests import Request
from starlette.types import Message

from queue_engine.api.http.bodies import MAX_SPLIT_BYTES, BodyReader, TenantBodies
from queue_engine.domain.errors import InvalidRequest
from queue_engine.rules.json_pieces import PIECE_BYTES
from queue_engine.rules.strict_json import JsonObject


async def read(text: bytes) -> JsonObject:
    async def receive() -> Message:
        return {"type": "http.request", "body": text}

    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(text))]
    request = Request({"type": "http", "headers": headers}, receive)
    reader = BodyReader(2 * len(text), 9.0, TenantBodies(0))
    return await reader.read_object(request, "a", frozenset({"a"}), frozenset({"input"}))


@pytest.mark.parametrize("is_long", [False, True])
async def test_other_requests_are_served_while_a_long_body_is_split(is_long: bool) -> None:
    text = b'"%b"' % (b"x" * (MAX_SPLIT_BYTES if is_long else 1))
    reading = asyncio.create_task(read(b'{"a": 1, "input": %b}' % text))
    turns = 0
    while not reading.done():
        turns += 1
        await asyncio.sleep(0)
    body = await reading
    assert (body.values, body.raw) == ({"a": 1}, {"input": text})
    assert (turns > MAX_SPLIT_BYTES // PIECE_BYTES) is is_long


async def test_a_long_body_that_is_not_json_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"body: is not valid JSON \(after character"):
        await read(b'{"a": 1, "input": ["%b",]}' % (b"x" * MAX_SPLIT_BYTES))
