"""Links that can be broken: a TCP proxy between any two parts, in a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.faults.serving import break_connection

CHUNK_BYTES = 65536
CONNECT_SECONDS = 5.0


@dataclass(frozen=True)
class Condition:
    """How a link is. `up` is the direction from the client to the target."""

    refused: bool = False
    """Connections are reset as soon as they are made."""
    up_lost: bool = False
    """What clients send is accepted and goes nowhere."""
    down_lost: bool = False
    """The same for what the target answers."""
    delay_seconds: float = 0.0
    """How late everything arrives, in each direction."""
    lost_words: bytes = b""
    """Connections are lost in the direction up from the moment when these bytes are sent over them."""
    last_words: bytes = b""
    """What holds these bytes still reaches the target; then its connection is lost in both directions."""

    @property
    def hurts(self) -> bool:
        return self != Condition()


class Link:
    """One port that stands for `target_port`, both on loopback. Its methods may be called from any thread.

    While nothing listens there, connections lead to the first of `spare_ports` on which something does, as behind a
    load balancer.
    """

    def __init__(self, network: Network, name: str, target_port: int, spare_ports: Sequence[int] = ()) -> None:
        self.name = name
        self.target_port = target_port
        self.spare_ports = tuple(spare_ports)
        self.port = 0
        self._network = network
        self._condition = Condition()
        self._connections: set[_Connection] = set()

    @property
    def condition(self) -> Condition:
        return self._condition

    @property
    def has_lost(self) -> bool:
        """Whether a connection that is still open has lost something."""
        return any(connection.has_lost for connection in list(self._connections))

    def cut(self) -> None:
        """Reset every connection, and every new one, until `heal`."""
        self._set(Condition(refused=True))

    def reset(self) -> None:
        """Reset every connection; new ones may be made at once."""
        self._network.call(lambda: self._break(lambda _: True))

    def blackhole(self) -> None:
        """Accept and swallow everything in both directions until `heal`."""
        self._set(Condition(up_lost=True, down_lost=True))

    def lose_requests(self) -> None:
        """Half open: what clients send goes nowhere, until `heal`."""
        self._set(Condition(up_lost=True))

    def lose_replies(self) -> None:
        """Half open: targets act, and nobody hears of it, until `heal`."""
        self._set(Condition(down_lost=True))

    def lose_requests_with(self, words: bytes) -> None:
        """Lose only connections over which these bytes are sent from now on, until `heal`."""
        self._set(Condition(lost_words=words))

    def lose_replies_to(self, words: bytes) -> None:
        """Let requests with these bytes through, and lose their replies and all that follows, until `heal`."""
        self._set(Condition(last_words=words))

    def delay(self, seconds: float) -> None:
        """Everything arrives so much later, until `heal`."""
        self._set(Condition(delay_seconds=seconds))

    def heal(self) -> None:
        """All is well for new connections, and for old ones from which nothing was lost; the others are reset."""

        def apply() -> None:
            self._condition = Condition()
            self._break(lambda connection: connection.has_lost)

        self._network.call(apply)

    async def open(self) -> None:
        """Listen. Called by the network, in its loop."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]

    def _set(self, condition: Condition) -> None:
        def apply() -> None:
            self._condition = condition
            if condition.refused:
                self._break(lambda _: True)

        self._network.call(apply)

    def _break(self, which: Callable[[_Connection], bool]) -> None:
        for connection in [one for one in self._connections if which(one)]:
            connection.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self, writer)
        self._connections.add(connection)
        try:
            if self._condition.refused:
                return
            await connection.run(reader)
        except (OSError, TimeoutError):
            pass  # an end has gone, or the target is down
        finally:
            connection.abort()
            self._connections.discard(connection)


class _Connection:
    """One client's connection and the one to the target that belongs to it."""

    def __init__(self, link: Link, client: asyncio.StreamWriter) -> None:
        self._link = link
        self._client = client
        self._target: asyncio.StreamWriter | None = None
        self.has_lost = False

    def abort(self) -> None:
        for writer in (self._client, self._target):
            if writer is not None:
                break_connection(writer)

    async def run(self, reader: asyncio.StreamReader) -> None:
        if self._link.condition.up_lost:
            self.has_lost = True
            await self._swallow(reader)
            return
        async with asyncio.timeout(CONNECT_SECONDS):
            target_reader, self._target = await self._open()
        ways = {
            asyncio.create_task(self._pass(reader, self._target, upwards=True)),
            asyncio.create_task(self._pass(target_reader, self._client, upwards=False)),
        }
        _, rest = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in rest:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        *others, last = (self._link.target_port, *self._link.spare_ports)
        for port in others:
            with suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", port)
        return await asyncio.open_connection("127.0.0.1", last)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, upwards: bool) -> None:
        while data := await reader.read(CHUNK_BYTES):
            condition = self._link.condition
            if condition.delay_seconds:
                await asyncio.sleep(condition.delay_seconds)
            if self._is_lost(condition, data, upwards):
                self.has_lost = True
                continue
            writer.write(data)
            if upwards and condition.last_words and condition.last_words in data:
                self.has_lost = True  # before anything of the reply is read
            await writer.drain()

    def _is_lost(self, condition: Condition, data: bytes, upwards: bool) -> bool:
        if condition.last_words:
            return self.has_lost
        if condition.lost_words and upwards:
            return self.has_lost or condition.lost_words in data
        return condition.up_lost if upwards else condition.down_lost

    async def _swallow(self, reader: asyncio.StreamReader) -> None:
        while await reader.read(CHUNK_BYTES):
            continue


class Network:
    """All links of a run. Use as a context manager; at its end nothing of it is left."""

    def __init__(self) -> None:
        self.links: dict[str, Link] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="links", daemon=True)

    def link(self, name: str, target_port: int, spare_ports: Sequence[int] = ()) -> Link:
        """A new link; `name` says between which parts, and is this link's alone."""
        link = Link(self, name, target_port, spare_ports)
        asyncio.run_coroutine_threadsafe(link.open(), self._loop).result(10)
        self.links[name] = link
        return link

    def heal(self) -> None:
        """Heal what is hurt."""
        for link in self.links.values():
            if link.condition.hurts:
                link.heal()

    def call(self, function: Callable[[], None]) -> None:
        """Run `function` in the loop of the links, and return when it has run."""

        async def run() -> None:
            function()

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(_end_all(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _end_all() -> None:
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.gather(*tasks, return_exceptions=True)
