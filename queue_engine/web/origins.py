"""Which hosts and which pages may use the console.

A browser says in `Host` which name it has used, and in `Origin` which page makes a request. A console that listens on
loopback is used by a loopback name only: another name means that a page has its own name resolved to this machine (DNS
rebinding).
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.types import Scope

from queue_engine.api.http.errors import ForeignPage
from queue_engine.api.http.headers import named
from queue_engine.api.http.operations import SAFE_METHODS
from queue_engine.rules.hosts import is_loopback

_ORIGIN, _HOST = b"origin", b"host"


@dataclass(frozen=True)
class Origins:
    """The origins of the console. `public` is that of QUEUE_ENGINE_PUBLIC_URL; None without it."""

    public: str | None
    only_loopback: bool
    """True if the API listens on loopback."""

    def check(self, scope: Scope) -> None:
        """Raise ForeignPage if the request names another host, or comes from a page that is not the console's.

        A request that changes something must have an `Origin`, which browsers send with each such request.
        """
        host = self._checked_host(scope)
        given = [value.decode("latin-1") for name, value in scope["headers"] if name == _ORIGIN]
        if not given and scope["method"] in SAFE_METHODS:
            return
        if len(given) != 1 or not self._is_own(given[0], host):
            raise ForeignPage("Origin: must be the console's own")

    def check_host(self, scope: Scope) -> None:
        """Raise ForeignPage if the request names another host."""
        self._checked_host(scope)

    def of(self, scope: Scope) -> str:
        """Return the origin at which the client of a request finds the console."""
        return self.public or f"{scope['scheme']}://{named(scope).get(_HOST, b'').decode('latin-1')}"

    def _checked_host(self, scope: Scope) -> str:
        host = named(scope).get(_HOST, b"").decode("latin-1")
        is_public = self.public is not None and host == urlsplit(self.public).netloc
        if self.only_loopback and not is_public and not _is_loopback(host):
            raise ForeignPage("Host: the console listens on loopback, so it is used as 127.0.0.1 or localhost")
        return host

    def _is_own(self, origin: str, host: str) -> bool:
        if origin == self.public:
            return True
        scheme, _, authority = origin.partition("://")
        is_allowed = self.public is None or _is_loopback(host)
        return is_allowed and scheme in ("http", "https") and authority != "" and authority == host


def _is_loopback(authority: str) -> bool:
    try:
        host = urlsplit(f"//{authority}").hostname
    except ValueError:
        return False
    return host is not None and is_loopback(host)
