"""Resolve host names without threads, and without waiting for a slow name server more than once.

The event loop's own resolver uses a few threads for all names, so a few names whose servers do not respond would block
all others. `CachingResolver` caches results for a short time, makes a single lookup for concurrent callers, and has a
timeout.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Protocol

import aiodns
import aiodns.error

LOCALHOST_ADDRESSES = ("127.0.0.1", "::1")


class NameNotResolved(OSError):
    """The name has no address, or no server has responded in time."""


class NoAnswer(NameNotResolved):
    """No name server has responded, so it is unknown if the name has an address."""


class Lookup(Protocol):
    """Looks up a name in the network. `DnsLookup` implements it; tests use scripted results."""

    async def addresses(self, name: str) -> Sequence[str]:
        """Return all addresses of the name. Raises OSError if there is none."""

    async def close(self) -> None:
        """Cancel running lookups. Safe to call twice."""


@dataclass(frozen=True)
class ResolverLimits:
    """The timeout of a lookup, the times for which results are cached, and the maximum number of cached names."""

    lookup_seconds: float = 2.0
    positive_seconds: float = 30.0
    negative_seconds: float = 5.0
    names: int = 10_000


@dataclass(frozen=True)
class _Answer:
    addresses: tuple[str, ...]
    """Empty if the name was not resolved."""
    is_known: bool
    """True if a name server has responded."""
    expires_at: float


class CachingResolver:
    """Resolves through `lookup`. Use it on one event loop; `close` it once."""

    def __init__(
        self,
        lookup: Lookup,
        limits: ResolverLimits | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lookup = lookup
        self._limits = limits or ResolverLimits()
        self._monotonic = monotonic
        self._answers: OrderedDict[str, _Answer] = OrderedDict()
        self._under_way: dict[str, asyncio.Task[_Answer]] = {}

    async def addresses(self, host: str) -> tuple[str, ...]:
        """Return all addresses of a host, which may itself be an address. Raises NameNotResolved."""
        name = host.lower().removesuffix(".")
        if known := _known_without_asking(name):
            return known
        found = self._remembered(name)
        if found is None:
            found = await asyncio.shield(self._ask_once(name))
        if not found.addresses:
            kind = NameNotResolved if found.is_known else NoAnswer
            raise kind(f"{name[:253]} could not be resolved")
        return found.addresses

    async def close(self) -> None:
        """Cancel all lookups. Safe to call twice."""
        under_way = list(self._under_way.values())
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await self._lookup.close()

    def _remembered(self, name: str) -> _Answer | None:
        answer = self._answers.get(name)
        if answer is None or self._monotonic() >= answer.expires_at:
            return None
        return answer

    def _ask_once(self, name: str) -> asyncio.Task[_Answer]:
        """Return the running lookup of the name, or start one. It continues when a caller is cancelled."""
        task = self._under_way.get(name)
        if task is None:
            task = asyncio.create_task(self._ask(name), name=f"resolve {name[:64]}")
            self._under_way[name] = task
            task.add_done_callback(lambda _: self._under_way.pop(name, None))
        return task

    async def _ask(self, name: str) -> _Answer:
        addresses: tuple[str, ...] = ()
        is_known = True
        try:
            async with asyncio.timeout(self._limits.lookup_seconds):
                addresses = tuple(await self._lookup.addresses(name))
        except (NoAnswer, TimeoutError):
            is_known = False
        except OSError:
            pass
        seconds = self._limits.positive_seconds if addresses else self._limits.negative_seconds
        answer = _Answer(addresses, is_known, self._monotonic() + seconds)
        self._remember(name, answer)
        return answer

    def _remember(self, name: str, answer: _Answer) -> None:
        self._answers.pop(name, None)
        while len(self._answers) >= self._limits.names:
            self._answers.popitem(last=False)
        self._answers[name] = answer


_NO_ADDRESS = frozenset({aiodns.error.ARES_ENODATA, aiodns.error.ARES_ENOTFOUND, aiodns.error.ARES_EBADNAME})
"""Errors of c-ares for a name without an address. All other errors mean that no name server was reached."""


class DnsLookup:
    """Looks up names with c-ares, in /etc/hosts and with `name_servers` or those of /etc/resolv.conf."""

    def __init__(self, *, name_servers: Sequence[str] | None = None, try_seconds: float = 1.0) -> None:
        """Needs a running event loop. `try_seconds` is the timeout of a request to one server; there are two tries."""
        self._resolver = aiodns.DNSResolver(nameservers=name_servers, timeout=try_seconds, tries=2)

    async def addresses(self, name: str) -> list[str]:
        """Return all IPv4 and IPv6 addresses. Raises NameNotResolved."""
        try:
            answer = await self._resolver.getaddrinfo(name, type=socket.SOCK_STREAM)
        except aiodns.error.DNSError as error:
            kind = NameNotResolved if error.args[:1] and error.args[0] in _NO_ADDRESS else NoAnswer
            raise kind(str(error)) from error
        return [_text_of(node.addr) for node in answer.nodes]

    async def close(self) -> None:
        """Cancel running lookups. Safe to call twice."""
        await self._resolver.close()


def _text_of(sockaddr: tuple[bytes, int] | tuple[bytes, int, int, int]) -> str:
    """Return the address of a c-ares sockaddr, with the interface's number if it is link-local."""
    host = sockaddr[0].decode("ascii")
    return f"{host}%{sockaddr[3]}" if len(sockaddr) == 4 and sockaddr[3] else host


def _known_without_asking(name: str) -> tuple[str, ...] | None:
    if name == "localhost" or name.endswith(".localhost"):
        return LOCALHOST_ADDRESSES  # RFC 6761, section 6.3
    try:
        return (str(ip_address(name)),)
    except ValueError:
        return None
