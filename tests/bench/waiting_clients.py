"""Clients that wait for one task each, on a connection each, in a process of its own so that its cost is not the API's:

    python -m tests.bench.waiting_clients PORT PATH API_KEY PREFIX COUNT

They wait for the tasks `<PREFIX>_0`, `<PREFIX>_1`, … The delay of a response is the time from the task's recorded end,
which the response has in milliseconds, until all of it has arrived. All processes of a machine share that clock.
Prints `{"p50": …, "p99": …, "max": …, "failures": …}`, the delays in milliseconds.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time

from queue_engine.processes.file_limit import raise_file_limit
from tests.bench.figures import percentile

WAIT_SECONDS = 300
OTHER_FILES = 100
_FINISHED = re.compile(rb'"finishedAt":(\d+)')


async def run(port: int, path: str, api_key: str, prefix: str, count: int) -> dict[str, float]:
    """Wait for all tasks, and return the figures."""
    # The API limits connections on which no request has had a valid key.
    connecting = asyncio.Semaphore(100)
    delays = await asyncio.gather(
        *(_delay(port, f"{path}/{prefix}_{number}?wait={WAIT_SECONDS}", api_key, connecting) for number in range(count))
    )
    found = [one for one in delays if one is not None]
    if not found:
        return {"failures": count}
    figures = {"p50": percentile(found, 0.5), "p99": percentile(found, 0.99), "max": max(found)}
    return figures | {"failures": count - len(found)}


async def _delay(port: int, target: str, api_key: str, connecting: asyncio.Semaphore) -> float | None:
    """Return the delay of a response in milliseconds; None if it is no ended task."""
    async with connecting:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Api-Key: {api_key}\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    body = await reader.readexactly(int(head.partition(b"content-length:")[2].partition(b"\r\n")[0]))
    arrived_ms = time.time() * 1000
    writer.close()
    finished = _FINISHED.search(body)
    return None if finished is None else arrived_ms - int(finished[1])


def _main() -> None:
    import uvloop

    port, path, api_key, prefix, count = sys.argv[1:]
    raise_file_limit(int(count) + OTHER_FILES)
    figures = uvloop.run(run(int(port), path, api_key, prefix, int(count)))
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    _main()
