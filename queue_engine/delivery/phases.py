"""Measure the phases of a delivery attempt."""

from __future__ import annotations

import time
from collections.abc import Callable

from queue_engine.domain.deliveries import Phases
from queue_engine.net.connection import Connection


class Stopwatch:
    """Measures one attempt. Its methods are called in their order; after an error the later ones are left out.

    An attempt that is repeated on a new connection is measured from there. `monotonic` must be the clock of the
    connections.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self.connecting()

    def connecting(self) -> None:
        """Begin: a connection is opened, or a kept one is found."""
        self._began_at = self._monotonic()
        self._connection: Connection | None = None
        self._is_kept = False
        self._connected_at = self._head_at = 0.0

    def connected(self, connection: Connection) -> None:
        """Note that the connection can be used."""
        self._connected_at = self._monotonic()
        self._connection = connection
        self._is_kept = connection.is_kept

    def got_head(self) -> None:
        """Note that the head of the response has arrived."""
        self._head_at = self._monotonic()

    def phases(self) -> Phases:
        """Return the phases. The phase in which the attempt has failed ends now."""
        now = self._monotonic()
        if self._connection is None:
            return Phases(connect_ms=_ms(now - self._began_at))
        tls_seconds, sent_at = self._connection.tls_seconds, self._connection.sent_at
        if sent_at is not None and sent_at < self._connected_at:  # that of an earlier request
            sent_at = None
        connect_seconds = self._connected_at - self._began_at - (tls_seconds or 0.0)
        return Phases(
            connect_ms=None if self._is_kept else _ms(connect_seconds),
            tls_ms=None if self._is_kept or tls_seconds is None else _ms(tls_seconds),
            send_ms=_ms((now if sent_at is None else sent_at) - self._connected_at),
            wait_ms=None if sent_at is None else _ms((self._head_at or now) - sent_at),
        )


def _ms(seconds: float) -> int:
    return max(0, round(seconds * 1000))
