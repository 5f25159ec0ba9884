"""Sessions of the web console, and the links that begin one.

A session has two random halves. The browser keeps one in a cookie that no script reads, the other in the storage of
the console's origin, and each request has both. A cookie alone is worth nothing, because a browser sends it to every
port of a host, so that a page of another program on the same machine could use it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

SESSION_SECONDS = 7 * 86_400
"""Life of a session, however much it is used."""
IDLE_SECONDS = 12 * 3600
"""Time after its latest use at which a session ends."""
LINK_SECONDS = 600
"""Life of a link. It begins one session."""
MAX_SESSIONS_PER_KEY = 20
"""Limit of an API key's sessions, and limit of its links. A new one displaces the one that would end first."""

_HALF = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True)
class SessionHalves:
    """The two secrets of a session."""

    cookie: str = field(repr=False)
    header: str = field(repr=False)

    @property
    def is_well_formed(self) -> bool:
        """True if both halves can be of a session."""
        return _HALF.fullmatch(self.cookie) is not None and _HALF.fullmatch(self.header) is not None

    @property
    def secret(self) -> str:
        """The text whose hash the store has."""
        return f"{self.cookie}.{self.header}"


def is_link_token(text: str) -> bool:
    """Return True if the text can be the token of a link."""
    return _HALF.fullmatch(text) is not None
