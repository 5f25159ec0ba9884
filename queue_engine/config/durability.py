"""How far a write must have got before it is acknowledged: `docs/operations/high-availability.md`."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_TIMEOUT_SECONDS = 2.0
MAX_TIMEOUT_SECONDS = 2.5
"""Below the time after which a connection that answers nothing is given up."""


@dataclass(frozen=True)
class Durability:
    """Acknowledged is what `replicas` replicas have, and with `disk` what the master and they have on disk."""

    replicas: int = 0
    disk: bool = False
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS

    @property
    def waits(self) -> bool:
        """Whether anything is waited for: if not, the store's own persistence is all there is."""
        return self.replicas > 0 or self.disk


def parse_durability(text: str, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> Durability:
    """`store`, `replica`, `replicas:N`, `disk` or `disk+replica`. Raises ValueError."""
    named = {"store": (0, False), "replica": (1, False), "disk": (0, True), "disk+replica": (1, True)}
    word, _, number = text.strip().lower().partition(":")
    if word in named and not number:
        replicas, disk = named[word]
    elif word == "replicas" and number.isascii() and number.isdigit() and 1 <= int(number) <= 100:
        replicas, disk = int(number), False
    else:
        raise ValueError("must be store, replica, replicas:N (N from 1 to 100), disk or disk+replica")
    return Durability(replicas, disk, timeout_seconds)
