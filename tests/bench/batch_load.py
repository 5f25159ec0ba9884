"""A lean load generator for batches: streams of JSON lines, whose results are read while the lines are sent.

It runs as a process of its own, so that its cost is not that of the server under test:

    python -m tests.bench.batch_load PORT PATH API_KEY LINES STREAMS BODY_FILE

POSTs the text in BODY_FILE as LINES lines, spread over STREAMS connections, with a batch id for each stream. It prints
`{"seconds": …, "cpu_seconds": …, "failures": …}`, where a failure is a line that was not accepted.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

HOST = "127.0.0.1"
CHUNK_LINES = 200


async def stream(port: int, path: str, api_key: str, lines: int, line: bytes) -> int:
    """Send lines in one request; return how many were not accepted."""
    reader, writer = await asyncio.open_connection(HOST, port)
    head = (
        f"POST {path}?batchId={os.urandom(8).hex()} HTTP/1.1\r\nHost: {HOST}:{port}\r\nX-Api-Key: {api_key}\r\n"
        f"Content-Type: application/x-ndjson\r\nContent-Length: {lines * len(line)}\r\n\r\n"
    )
    writer.write(head.encode())
    sending = asyncio.create_task(_send(writer, lines, line))
    accepted = 0
    await reader.readuntil(b"\r\n\r\n")
    while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
        accepted += (await reader.readexactly(size + 2)).count(b'"result":"accepted"')
    await sending
    writer.close()
    return lines - accepted


async def _send(writer: asyncio.StreamWriter, lines: int, line: bytes) -> None:
    for first in range(0, lines, CHUNK_LINES):
        writer.write(line * min(CHUNK_LINES, lines - first))
        await writer.drain()


async def _main() -> None:
    port, path, api_key, lines, streams, body_file = sys.argv[1:]
    line = Path(body_file).read_bytes() + b"\n"
    each = int(lines) // int(streams)
    started, cpu = time.perf_counter(), time.process_time()
    failures = await asyncio.gather(*(stream(int(port), path, api_key, each, line) for _ in range(int(streams))))
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    sys.stdout.write(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "failures": sum(failures)}) + "\n")


if __name__ == "__main__":
    import uvloop

    uvloop.run(_main())
