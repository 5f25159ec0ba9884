"""Look up host names as the system does, in threads that do not outlive their use.

The event loop's own look-up cannot be cancelled: the loop, and then the end of the process, wait for it. While no name
server responds, that is half a minute. Here each look-up has a daemon thread, which the end of the process does not
wait for. Simultaneous look-ups of one name share a thread, so that retries during an outage do not add up.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from contextlib import suppress
from typing import Any

from aiohappyeyeballs import AddrInfoType

_Key = tuple[asyncio.AbstractEventLoop, str, int, int]
_under_way: dict[_Key, asyncio.Future[list[AddrInfoType]]] = {}


async def look_up(host: str, port: int, *, flags: int = 0) -> list[AddrInfoType]:
    """Return the addresses of a host for a stream, in the order of preference. Raises OSError and UnicodeError."""
    loop = asyncio.get_running_loop()
    key = (loop, host, port, flags)
    found = _under_way.get(key)
    if found is None:
        found = loop.create_future()
        thread = threading.Thread(target=_look_up, args=(key, found), name="look up a name", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the limit of threads is reached
            raise OSError(f"{host} cannot be looked up: {error}") from error
        _under_way[key] = found
        found.add_done_callback(lambda _: _under_way.pop(key, None))
    return await asyncio.shield(found)


def is_literal(host: str) -> bool:
    """Return True if the host is an IP address, False if it is a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _look_up(key: _Key, found: asyncio.Future[list[AddrInfoType]]) -> None:
    loop, host, port, flags = key
    result: Any
    try:
        result = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    except Exception as error:  # noqa: BLE001 - whatever it is, the callers must not wait without end
        result = error
    with suppress(RuntimeError):  # the loop was closed, so no caller waits
        loop.call_soon_threadsafe(_settle, found, result)


def _settle(found: asyncio.Future[list[AddrInfoType]], result: Any) -> None:
    if found.done():
        return
    if isinstance(result, BaseException):
        found.set_exception(result)
        found.exception()  # all callers may have been cancelled
    else:
        found.set_result(result)
