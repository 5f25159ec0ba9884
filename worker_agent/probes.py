"""Probe a container: check that its port is open or its ready path responds 2xx, and find where it listens instead.

A probe must not disturb a server that accepts one connection at a time and has a short listen queue: a few probes that
the server has not accepted yet fill the queue, and no task can connect. So at most one probe waits in the queue of a
container that was ready. Its connection stays open until the server has accepted and closed it; until then no other
probe connects.
"""

from __future__ import annotations

import asyncio
import re
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import psutil

from queue_engine.rules.hosts import bracketed
from worker_agent.readiness import Finding, Probed

CONNECT_TIMEOUT_SECONDS = 1.0
READY_TIMEOUT_SECONDS = 2.0
_CLOSE_SECONDS = 0.2
"""Time for which a response's body is read, so that most servers finish writing it."""
_MAX_LINE_BYTES = 64 * 1024
_MAX_HEADERS = 1000
_KEEPALIVE_SECONDS = 10
_STATUS_LINE = re.compile(rb"HTTP/1\.[0-9] ([1-5][0-9]{2})(?: [^\r\n]*)?\r?\n")


@dataclass(frozen=True)
class Target:
    """The address on which a container is expected to listen."""

    hosts: tuple[str, ...]
    """Hosts that are tried in order, because a server may listen on `::1` only."""
    port: int
    name: str = ""
    """The container's name for the port, such as `$PORT`."""

    def __str__(self) -> str:
        return f"{bracketed(self.hosts[0])}:{self.port}" + (f" ({self.name})" if self.name else "")


class Probe(Protocol):
    """A method to find out if a container is ready."""

    @property
    def host(self) -> str:
        """The host on which the container was last found to listen."""
        ...

    async def probe(self, *, was_ready: bool) -> Probed:
        """Return the result of a probe. Raises only CancelledError.

        A container that `was_ready` may be busy, so the connection stays open if it has not responded in time.
        """
        ...

    def has_other_connections(self) -> bool:
        """Return True if another client is connected to the container, as far as this machine can tell. Blocks."""
        ...

    async def aclose(self) -> None:
        """Close the open connections."""
        ...


class PortProbe:
    """Connects, closes its sending side, and waits in the background until the server has closed its side too."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._closing: asyncio.Task[None] | None = None
        self.host = target.hosts[0]

    async def probe(self, *, was_ready: bool) -> Probed:
        del was_ready
        if self._closing is None or self._closing.done():
            connected = await _connect(self._target, self.host)
            if isinstance(connected, Probed):
                return connected
            self.host = connected.host
            self._closing = asyncio.create_task(_see_closed(connected), name="probe")
        # While the earlier connection is open, the server lives, and has not accepted the connection yet.
        return Probed(Finding.READY, "the container accepts connections")

    def has_other_connections(self) -> bool:
        return has_connections(self._target.port)

    async def aclose(self) -> None:
        if self._closing is not None:
            await _end(self._closing)


class ReadyPathProbe:
    """Sends `GET` for the ready path over a new connection. Does not follow redirects."""

    def __init__(self, target: Target, path: str) -> None:
        self._target = target
        self._path = path
        self._asked: asyncio.Task[Probed] | None = None
        self._local_port: int | None = None
        self.host = target.hosts[0]

    async def probe(self, *, was_ready: bool) -> Probed:
        if self._asked is None:
            self._asked = asyncio.create_task(self._ask(), name="ready path")
        done, _ = await asyncio.wait({self._asked}, timeout=READY_TIMEOUT_SECONDS)
        if done:
            found = self._asked.result()
            self._asked = None
            return found
        if not was_ready:
            await self.aclose()
        return Probed(Finding.SILENT, f"GET {self._path} did not respond within {READY_TIMEOUT_SECONDS:g} s")

    def has_other_connections(self) -> bool:
        return has_connections(self._target.port, besides=self._local_port)

    async def aclose(self) -> None:
        if self._asked is not None:
            await _end(self._asked)
            self._asked = None

    async def _ask(self) -> Probed:
        connected = await _connect(self._target, self.host)
        if isinstance(connected, Probed):
            return connected
        self.host, self._local_port = connected.host, connected.local_port
        try:
            status = await _get(connected, self._path, self._target.port)
        except (OSError, EOFError):
            return Probed(Finding.UNREADY, f"GET {self._path}: the connection was closed without a response")
        except ValueError:
            return Probed(Finding.UNREADY, f"GET {self._path}: the response is not HTTP/1")
        finally:
            connected.writer.close()
            self._local_port = None
        finding = Finding.READY if 200 <= status < 300 else Finding.UNREADY
        return Probed(finding, f"GET {self._path} answered {status}")


class SettledProbe:
    """A probe for a container without a known port: the container is ready after it has run for `settle_seconds`."""

    def __init__(self, host: str, settle_seconds: float) -> None:
        self.host = host
        self._settle_seconds = settle_seconds
        self._since: float | None = None

    async def probe(self, *, was_ready: bool) -> Probed:
        del was_ready
        now = asyncio.get_running_loop().time()
        if self._since is None:
            self._since = now
        if now - self._since < self._settle_seconds:
            return Probed(Finding.UNREADY, "the container has just started")
        return Probed(Finding.READY, "the container runs")

    def has_other_connections(self) -> bool:
        return False

    async def aclose(self) -> None:
        """Do nothing, because there are no connections."""


def has_connections(port: int, *, besides: int | None = None) -> bool:
    """Return True if a client is connected to this port of this machine; False if the system does not list connections.

    Connections from the port `besides`, and those whose client has closed its side, do not count.
    """
    try:
        found = psutil.net_connections("tcp")
    except (psutil.Error, OSError):
        return False
    ours = (one for one in found if one.laddr and one.laddr.port == port and one.status == psutil.CONN_ESTABLISHED)
    return any(one.raddr and one.raddr.port != besides for one in ours)


def where_children_listen(target: Target) -> str:
    """Return a text, to be appended to a message, that names the ports on which this process's children listen.

    The text is empty if there are no children. The agent's children are the container's processes; a container that
    was started elsewhere has none. Blocks.
    """
    try:
        return where_listened(psutil.Process().children(recursive=True), target)
    except psutil.Error:
        return ""


def where_listened(processes: list[psutil.Process], target: Target) -> str:
    """Return the same text for these processes; empty if there are none."""
    if not processes:
        return ""
    found = _listening(processes)
    if not found:
        return "; the container listens on no TCP port"
    at_port = sorted(address for address, port in found if port == target.port)
    if at_port:
        return f"; the container listens there on {', '.join(at_port)} only, not on {target.hosts[0]}"
    ports = sorted({port for _, port in found})[:5]
    return f"; the container listens on port {', '.join(map(str, ports))} instead"


def _listening(processes: list[psutil.Process]) -> set[tuple[str, int]]:
    found: set[tuple[str, int]] = set()
    for process in processes:
        with suppress(psutil.Error, OSError):
            sockets = process.net_connections("tcp")
            found |= {(one.laddr.ip, one.laddr.port) for one in sockets if one.status == psutil.CONN_LISTEN}
    return found


@dataclass(frozen=True)
class _Connected:
    host: str
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def local_port(self) -> int:
        return int(self.writer.get_extra_info("sockname")[1])

    @property
    def is_to_itself(self) -> bool:
        """True if the connection is to itself: if no process listens on a port, the system may use it as local port."""
        return bool(self.writer.get_extra_info("sockname") == self.writer.get_extra_info("peername"))


async def _connect(target: Target, first: str) -> _Connected | Probed:
    """Connect to the first host that accepts, or return the finding if none does."""
    silent = None
    for host in (first, *(host for host in target.hosts if host != first)):
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                reader, writer = await asyncio.open_connection(host, target.port, limit=_MAX_LINE_BYTES)
        except TimeoutError:
            silent = f"{bracketed(host)}:{target.port} accepts no connection within {CONNECT_TIMEOUT_SECONDS:g} s"
            continue
        except OSError:
            continue
        connected = _Connected(host, reader, writer)
        if not connected.is_to_itself:
            return connected
        writer.close()
    if silent is not None:
        return Probed(Finding.SILENT, silent)
    return Probed(Finding.REFUSED, f"nothing accepts connections on {target}")


async def _see_closed(connected: _Connected) -> None:
    """Close the sending side, and wait until the server has closed its side or has sent data."""
    try:
        _keep_alive(connected.writer.get_extra_info("socket"))
        connected.writer.write_eof()
        await connected.reader.read(1)
    except OSError:
        return  # reset: the server has ended
    finally:
        connected.writer.close()


def _keep_alive(connection: socket.socket) -> None:
    """Enable TCP keep-alive, so that the connection breaks if the other machine is unreachable."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_SECONDS)


async def _get(connected: _Connected, path: str, port: int) -> int:
    """Return the status of the final response. Raises OSError, EOFError, and ValueError if it is not HTTP/1."""
    host = f"{bracketed(connected.host)}:{port}"
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    connected.writer.write(request.encode("ascii"))
    for _ in range(_MAX_HEADERS):
        status = await _read_head(connected.reader)
        if status >= 200:
            with suppress(TimeoutError, OSError):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await connected.reader.read(_MAX_LINE_BYTES)
            return status
    raise ValueError("too many interim responses")


async def _read_head(reader: asyncio.StreamReader) -> int:
    first = await reader.readline()
    if not first:
        raise EOFError
    match = _STATUS_LINE.fullmatch(first)
    if match is None:
        raise ValueError("no status line")
    for _ in range(_MAX_HEADERS):
        if (await reader.readline()).strip() == b"":
            return int(match[1])
    raise ValueError("too many headers")


async def _end(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait({task})
