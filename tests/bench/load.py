"""A lean HTTP load generator: one request at a time on each of a few kept-alive connections.

It runs as a process of its own, so that its cost is not that of the server under test:

    python -m tests.bench.load HOST PORT PATH API_KEY REQUESTS CONNECTIONS

reads one JSON body template from standard input, replaces `%d` in it by the number of the request, and prints
`{"seconds": …, "failures": …}`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time


async def post_all(host: str, port: int, path: str, api_key: str, bodies: list[bytes], connections: int) -> int:
    """POST all bodies; returns how many were not answered with 200."""
    waiting = iter(bodies)
    head = f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nX-Api-Key: {api_key}\r\nContent-Type: application/json\r\n"
    failures = await asyncio.gather(*(_connection(host, port, head, waiting) for _ in range(connections)))
    return sum(failures)


async def _connection(host: str, port: int, head: str, bodies: object) -> int:
    reader, writer = await asyncio.open_connection(host, port)
    failures = 0
    for body in bodies:  # type: ignore[attr-defined]
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        failures += not await _is_ok(reader)
    writer.close()
    return failures


async def _is_ok(reader: asyncio.StreamReader) -> bool:
    head = await reader.readuntil(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    await reader.readexactly(int(lengths[0].split(b":")[1]))
    return head.startswith(b"HTTP/1.1 200")


async def _main() -> None:
    host, port, path, api_key, requests, connections = sys.argv[1:]
    template = sys.stdin.read()
    bodies = [template.replace("%d", str(number)).encode() for number in range(int(requests))]
    started = time.perf_counter()
    failures = await post_all(host, int(port), path, api_key, bodies, int(connections))
    sys.stdout.write(json.dumps({"seconds": time.perf_counter() - started, "failures": failures}) + "\n")


if __name__ == "__main__":
    import uvloop

    uvloop.run(_main())
