"""A response's body is kept in memory of about its size."""

import asyncio
import tracemalloc

from queue_engine.net.response_head import Head
from worker_agent.response_reader import ResponseReader

PIECES = 200_000


async def test_a_body_in_small_pieces_takes_memory_of_about_its_size() -> None:
    reader = ResponseReader(asyncio.timeout(10), max_bytes=2**20, failure_body_seconds=1)
    reader.begin(Head(200, [(b"content-type", b"text/plain")]))
    tracemalloc.start()
    try:
        for number in range(PIECES):
            reader.feed(b"%03d" % (number % 1000))
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert used < 2 * 3 * PIECES
    output = (await reader.success()).output
    assert output is not None
    assert output.startswith(b'"000001002')


async def test_a_body_in_one_piece_and_in_several_is_the_same() -> None:
    async def output_of(*pieces: bytes) -> bytes | None:
        reader = ResponseReader(asyncio.timeout(10), max_bytes=100, failure_body_seconds=1)
        reader.begin(Head(200, [(b"content-type", b"application/json")]))
        for piece in pieces:
            reader.feed(piece)
        return (await reader.success()).output

    assert await output_of(b"[1, 2]") == await output_of(b"[1", b", ", b"2]") == b"[1, 2]"
