"""Durability of a write before it is acknowledged: `docs/operations/high-availability.md`."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_TIMEOUT_SECONDS = 2.0
MAX_TIMEOUT_SECONDS = 2.5
"""Less than the time after which a connection without a reply is given up."""


@dataclass(frozen=True)
class Durability:
    """Requires an acknowledged write on `replicas` replicas; with `disk`, also on the disk of the master and of these
    replicas.
    """

    replicas: int = 0
    disk: bool = False
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS

    @property
    def waits(self) -> bool:
        """Return whether a write waits at all. Without a wait, only the store's own persistence protects it."""
        return self.replicas > 0 or self.disk


def parse_durability(text: str, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> Durability:
    """Parse `store`, `replica`, `replicas:N`, `disk` or `disk+replica`. Raises ValueError."""
    named = {"store": (0, False), "replica": (1, False), "disk": (0, True), "disk+replica": (1, True)}
    word, _, number = text.strip().lower().partition(":")
    if word in named and not number:
        replicas, disk = named[word]
    elif word == "replicas" and number.isascii() and number.isdigit() and 1 <= int(number) <= 100:
        replicas, disk = int(number), False
    else:
        raise ValueError("must be store, replica, replicas:N (N from 1 to 100), disk or disk+replica")
    return Durability(replicas, disk, timeout_seconds)
