"""Resolve host names without threads, and without waiting for a slow name server more than once.

The event loop's own resolver uses a few threads for all names, so a few names whose servers do not respond would block
all others. `CachingResolver` caches results for a short time, makes a single lookup for concurrent callers, and has a
timeout. Each owner, such as a tenant, has a limited number of lookups in progress, so that names of one owner whose
servers do not respond delay no name of another owner. Names without an address have a cache of their own, so that they
displace no addresses.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Protocol, cast

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
    """The timeout of a lookup, the times for which results are cached, and the limits of names and lookups."""

    lookup_seconds: float = 2.0
    positive_seconds: float = 30.0
    negative_seconds: float = 5.0
    names: int = 10_000
    """Maximum number of cached names with addresses, and of those without one."""
    lookups_each: int = 32
    """Maximum number of lookups of one owner that are in progress. Further ones wait."""


@dataclass(frozen=True)
class _Answer:
    addresses: tuple[str, ...]
    """Empty if the name was not resolved."""
    is_known: bool
    """True if a name server has responded."""
    expires_at: float


@dataclass
class _Owner:
    lookups: asyncio.Semaphore
    """The right to start another lookup."""
    users: int = 0
    """Number of callers and lookups that need the semaphore."""


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
        self._found: OrderedDict[str, _Answer] = OrderedDict()
        self._missing: OrderedDict[str, _Answer] = OrderedDict()
        self._under_way: dict[str, asyncio.Task[_Answer]] = {}
        self._owners: dict[str, _Owner] = {}

    async def addresses(self, host: str, owner: str = "") -> tuple[str, ...]:
        """Return all addresses of a host, which may itself be an address. Raises NameNotResolved.

        A lookup waits while `owner` has too many in progress, at most as long as a lookup may take. Then it ends as if
        no name server had responded.
        """
        name = _normalized(host)
        if known := _known_without_asking(name):
            return known
        found = self._remembered(name)
        if found is None:
            found = await self._look_up(name, owner)
        if not found.addresses:
            kind = NameNotResolved if found.is_known else NoAnswer
            raise kind(f"{name[:253]} could not be resolved")
        return found.addresses

    def seen(self, host: str) -> tuple[str, ...]:
        """Return the addresses that the latest lookup has found, also when they are no longer cached as valid."""
        name = _normalized(host)
        known = _known_without_asking(name)
        if known or name not in self._found:
            return known or ()
        return self._found[name].addresses

    async def close(self) -> None:
        """Cancel all lookups. Safe to call twice."""
        under_way = list(self._under_way.values())
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await self._lookup.close()

    def _remembered(self, name: str) -> _Answer | None:
        now = self._monotonic()
        for cache in (self._found, self._missing):
            answer = cache.get(name)
            if answer is not None and now < answer.expires_at:
                return answer
        return None

    async def _look_up(self, name: str, owner: str) -> _Answer:
        """Return the result of the running lookup of the name, or of a new one when it is the owner's turn."""
        if name in self._under_way:
            return await asyncio.shield(self._under_way[name])
        state = self._owners.setdefault(owner, _Owner(asyncio.Semaphore(self._limits.lookups_each)))
        state.users += 1
        try:
            async with asyncio.timeout(self._limits.lookup_seconds):
                await state.lookups.acquire()
        except BaseException as error:
            self._leave(owner, state)
            if isinstance(error, TimeoutError):
                raise NoAnswer(f"{name[:253]} was not looked up: there are too many lookups in progress") from None
            raise
        # Another caller may have asked for the same name during the wait.
        task, answer = self._under_way.get(name), self._remembered(name)
        if task is None and answer is None:
            return await asyncio.shield(self._ask_once(name, owner, state))
        state.lookups.release()
        self._leave(owner, state)
        return await asyncio.shield(task) if answer is None and task is not None else cast(_Answer, answer)

    def _leave(self, owner: str, state: _Owner) -> None:
        state.users -= 1
        if not state.users:
            del self._owners[owner]

    def _ask_once(self, name: str, owner: str, state: _Owner) -> asyncio.Task[_Answer]:
        """Start a lookup, which holds its owner's turn until it ends. It continues when a caller is cancelled."""
        task = asyncio.create_task(self._ask(name), name=f"resolve {name[:64]}")
        self._under_way[name] = task

        def end(_task: asyncio.Task[_Answer]) -> None:
            self._under_way.pop(name, None)
            state.lookups.release()
            self._leave(owner, state)

        task.add_done_callback(end)
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
        kept, other = (self._found, self._missing) if answer.addresses else (self._missing, self._found)
        if answer.is_known:  # while no server responds, what the name had is still the best guess
            other.pop(name, None)
        kept.pop(name, None)
        while len(kept) >= self._limits.names:
            kept.popitem(last=False)
        kept[name] = answer


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


def _normalized(host: str) -> str:
    return host.lower().removesuffix(".")


def _known_without_asking(name: str) -> tuple[str, ...] | None:
    if name == "localhost" or name.endswith(".localhost"):
        return LOCALHOST_ADDRESSES  # RFC 6761, section 6.3
    try:
        return (str(ip_address(name)),)
    except ValueError:
        return None
