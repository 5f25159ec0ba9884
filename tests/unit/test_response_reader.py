"""A response's body is kept in memory of about its size."""

import struct
import tracemalloc

import pytest

from queue_engine.aio import CommonTimeout
from queue_engine.net.response_head import Head
from worker_agent.response_reader import ResponseReader

PIECES = 200_000


async def test_a_body_in_small_pieces_takes_memory_of_about_its_size() -> None:
    reader = ResponseReader(CommonTimeout(10).limit(), max_bytes=2**20, failure_body_seconds=1)
    reader.begin(Head(200, [(b"content-type", b"text/plain")]))
    tracemalloc.start()
    try:
        for number in range(PIECES):
            reader.feed(b"%03d" % (number % 1000))
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert used < 2 * 3 * PIECES
    output = bytes((await reader.success()).output)
    assert output.startswith(b'"000001002')


@pytest.mark.parametrize("piece", [b'"' + b"x" * 65534 + b'",', b'"\\u00e9\xc3\xa9' + b"x" * 65520 + b'",'])
async def test_a_large_json_body_is_kept_once(piece: bytes) -> None:
    count = 64
    reader = ResponseReader(CommonTimeout(10).limit(), max_bytes=2**24, failure_body_seconds=1)
    reader.begin(Head(200, [(b"content-type", b"application/json")]))
    tracemalloc.start()
    try:
        reader.feed(b"[")
        for _ in range(count):
            reader.feed(bytes(piece))
        reader.feed(b"1]")
        output = (await reader.success()).output
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert output == b"[" + piece * count + b"1]"
    assert peak < 1.3 * len(piece) * count  # a growing body has some room


async def test_a_large_body_that_is_not_json_becomes_text_or_base64() -> None:
    async def output_of(body: bytes) -> bytes:
        reader = ResponseReader(CommonTimeout(10).limit(), max_bytes=2**24, failure_body_seconds=1)
        reader.begin(Head(200, [(b"content-type", b"application/json")]))
        reader.feed(body[:10])
        reader.feed(body[10:])
        return bytes((await reader.success()).output)

    assert await output_of(b"x" * 200_000) == b'"%b"' % (b"x" * 200_000)
    assert await output_of(b"\xef\xbb\xbf[" + b"1," * 100_000 + b"1]") == b"[" + b"1," * 100_000 + b"1]"
    assert (await output_of(b'"' + b"x" * 200_000 + b'\xff"')).startswith(
        b'{"contentType": "application/json", "base64"'
    )


async def test_a_body_in_one_piece_and_in_several_is_the_same() -> None:
    async def output_of(*pieces: bytes) -> bytes:
        reader = ResponseReader(CommonTimeout(10).limit(), max_bytes=100, failure_body_seconds=1)
        reader.begin(Head(200, [(b"content-type", b"application/json")]))
        for piece in pieces:
            reader.feed(piece)
        return bytes((await reader.success()).output)

    assert await output_of(b"[1, 2]") == await output_of(b"[1", b", ", b"2]") == b"[1, 2]"


async def test_a_large_request_is_not_kept_beside_its_response() -> None:
    request = memoryview(bytes(100_000))
    reader = ResponseReader(CommonTimeout(10).limit(), max_bytes=100, failure_body_seconds=1, request_body=request)
    assert reader.begin(Head(200, []))
    with pytest.raises(ValueError, match="released"):
        len(request)


async def test_a_response_may_come_before_the_large_request_is_sent() -> None:
    request = memoryview(bytearray(100_000))
    reader = ResponseReader(CommonTimeout(10).limit(), max_bytes=100, failure_body_seconds=1, request_body=request)
    being_sent = struct.iter_unpack("B", request)  # holds the buffer, as a transport does
    assert reader.begin(Head(200, []))
    assert sum(1 for _ in being_sent) == len(request)
