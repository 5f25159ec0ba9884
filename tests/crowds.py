"""Receivers that hang or respond slowly, and the deliveries of a tenant to them, for measurements and faults.

python -m tests.crowds --ports 400 --seconds 1.9 --file FILE

opens that many ports on loopback, and a name server that does not respond. It writes their numbers into the file as
JSON, and responds to each request after that time; without `--seconds` never.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from queue_engine.domain.endpoints import EndpointConfig, Resource, ServiceMode
from queue_engine.domain.tasks import NewTask, Succeeded, TaskSpec
from queue_engine.store.store import Store

AT_ONCE = 250
"""Tasks that are brought to their end at once."""
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass(frozen=True)
class Ports:
    """The ports of receivers that run."""

    receivers: tuple[int, ...]
    name_server: int

    @classmethod
    def read(cls, file: Path) -> Ports | None:
        """Return the ports in the file; None before the receivers listen."""
        if not file.exists():
            return None
        found = json.loads(file.read_text())
        return cls(tuple(found["receivers"]), found["name_server"])


def command(file: Path, *, ports: int, seconds: float | None) -> list[str]:
    """Return the arguments of Python for receivers that write their ports into `file`."""
    words = ["-m", "tests.crowds", "--ports", str(ports), "--file", str(file)]
    return words if seconds is None else [*words, "--seconds", str(seconds)]


async def deliver_to(store: Store, tenant: str, urls: Sequence[str], *, each: int, prefix: str) -> str:
    """Let `each` deliveries of a tenant to each URL be due: tasks of a new endpoint that have ended. Return its id."""
    config = EndpointConfig(prefix, "none", ServiceMode.QUEUE, (Resource("here", "CPU", 1),), 0, 20)
    endpoint_id = (await store.endpoints.create(tenant, config)).endpoint_id
    targets = [url for _ in range(each) for url in urls]
    for first in range(0, len(targets), AT_ONCE):
        some = enumerate(targets[first : first + AT_ONCE], first)
        await end_tasks(store, tenant, endpoint_id, {f"{prefix}-{number}": url for number, url in some})
    return endpoint_id


async def end_tasks(store: Store, tenant: str, endpoint_id: str, webhooks: dict[str, str]) -> None:
    """Submit tasks, each with its webhook by its id, and end them as an agent would."""
    queue = store.queue(endpoint_id=endpoint_id, worker_id="crowd", lease_ms=3_600_000)
    specs = {name: TaskSpec(8000, "/run", {}, url, destination_of(url), None) for name, url in webhooks.items()}
    made = (NewTask(name, endpoint_id, tenant, spec, b"{}", "0" * 32) for name, spec in specs.items())
    await asyncio.gather(*(store.tasks.enqueue(task) for task in made))
    left = len(webhooks)
    while left > 0:
        entries = await queue.claim(left, block_ms=1000)
        started = await asyncio.gather(*(queue.start(entry, address="127.0.0.1:9000") for entry in entries))
        leases = [one.lease for one in started if one is not None]
        await asyncio.gather(*(queue.settle(lease, Succeeded(b"1")) for lease in leases))
        left -= len(leases)


def destination_of(url: str) -> str:
    """Return `scheme://host:port` of a URL that has all three."""
    return url.rpartition("/")[0]


class _Silent(asyncio.DatagramProtocol):
    """A name server that does not respond."""


async def _serve(file: Path, ports: int, seconds: float | None) -> None:
    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (int(line[15:]) for line in head.lower().splitlines() if line.startswith(b"content-length:")), 0
                )
                await reader.readexactly(length)
                if seconds is None:
                    await reader.read()
                    return
                await asyncio.sleep(seconds)
                writer.write(RESPONSE)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    servers = [await asyncio.start_server(respond, "127.0.0.1", 0, backlog=64) for _ in range(ports)]
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        _Silent, local_addr=("127.0.0.1", 0), family=socket.AF_INET
    )
    written = file.with_suffix(".new")
    written.write_text(
        json.dumps(
            {
                "receivers": [server.sockets[0].getsockname()[1] for server in servers],
                "name_server": transport.get_extra_info("sockname")[1],
            }
        )
    )
    written.rename(file)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ports", type=int, required=True)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--file", type=Path, required=True)
    options = parser.parse_args()
    asyncio.run(_serve(options.file, options.ports, options.seconds))


if __name__ == "__main__":
    main()
