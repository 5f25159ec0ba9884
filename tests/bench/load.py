"""A lean HTTP load generator: one request at a time on each of a few kept-alive connections.

It runs as a process of its own, so that its cost is not that of the server under test:

    python -m tests.bench.load PORTS PATH API_KEY REQUESTS CONNECTIONS RATE BODY_FILE

POSTs the JSON template in BODY_FILE, with `%d` replaced by the number of the request and `%t` by CLOCK_MONOTONIC in
nanoseconds. PORTS are loopback ports, comma-separated; the connections are spread over them. RATE is in requests a
second, 0 for as many as possible. It prints `{"seconds": …, "cpu_seconds": …, "failures": …}`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Load:
    """The words of the command line."""

    ports: tuple[int, ...]
    path: str
    api_key: str
    requests: int
    connections: int
    rate: float
    template: bytes

    @classmethod
    def of(cls, words: list[str]) -> Load:
        ports, path, api_key, requests, connections, rate, body_file = words
        return cls(
            tuple(int(port) for port in ports.split(",")), path, api_key, int(requests), int(connections),
            float(rate), Path(body_file).read_bytes(),
        )  # fmt: skip

    def request(self, port: int, number: int) -> bytes:
        body = self.template
        if b"%" in body:
            body = body.replace(b"%d", b"%d" % number).replace(b"%t", b"%d" % time.monotonic_ns())
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nX-Api-Key: {self.api_key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


async def run(load: Load) -> int:
    """Send all requests; return how many had another status than 200."""
    numbers, began = iter(range(load.requests)), time.perf_counter()
    ports = (load.ports[index % len(load.ports)] for index in range(load.connections))
    failures = await asyncio.gather(*(_connection(load, port, numbers, began) for port in ports))
    return sum(failures)


async def _connection(load: Load, port: int, numbers: Iterator[int], began: float) -> int:
    reader, writer = await asyncio.open_connection(HOST, port)
    failures = 0
    for number in numbers:
        if load.rate:
            await asyncio.sleep(max(0.0, began + number / load.rate - time.perf_counter()))
        writer.write(load.request(port, number))
        failures += not await _is_ok(reader)
    writer.close()
    return failures


async def _is_ok(reader: asyncio.StreamReader) -> bool:
    head = await reader.readuntil(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    await reader.readexactly(int(lengths[0].split(b":")[1]))
    return head.startswith(b"HTTP/1.1 200")


async def _main() -> None:
    load = Load.of(sys.argv[1:])
    started, cpu = time.perf_counter(), time.process_time()
    failures = await run(load)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    sys.stdout.write(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "failures": failures}) + "\n")


if __name__ == "__main__":
    import uvloop

    uvloop.run(_main())
