"""The rate of the writes to a cluster, so that a controller does not flood its API server."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from queue_engine.backends.turns import ENGINE, Party, Turns

WRITES_PER_SECOND = 20.0
BURST = 40
MAX_PAUSE_SECONDS = 60.0
"""Maximum of the time that a server may ask to wait, so that a wrong value does not stop all work."""


class Budget:
    """Lets `burst` writes pass at once, and `per_second` after them. Tenants and their endpoints take turns.

    `clock` is that of the event loop unless a test passes another one in.
    """

    def __init__(
        self, per_second: float = WRITES_PER_SECOND, burst: int = BURST, *, clock: Callable[[], float] | None = None
    ) -> None:
        self._per_second = per_second
        self._burst = burst
        self._clock = clock
        self._passes = float(burst)
        self._counted_at = -math.inf
        """Time for which the passes were counted."""
        self._paused_until = -math.inf
        self._waiting: Turns[asyncio.Future[None]] = Turns()
        self._timer: asyncio.TimerHandle | None = None

    async def take(self, party: Party = ENGINE) -> None:
        """Wait for a pass."""
        if not self._waiting and self._wait_for_pass() <= 0:
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.add(party, turn)
        if self._timer is None:
            self._let_pass()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._passes += 1  # because the caller does not use it
            self._waiting.remove(party, turn)
            raise

    def pause(self, seconds: float) -> None:
        """Let nothing pass for a time, because the server asks for it."""
        self._paused_until = max(self._paused_until, self._now() + min(seconds, MAX_PAUSE_SECONDS))

    def _let_pass(self) -> None:
        """Let callers pass, and set the timer for the others: one for all of them."""
        self._timer = None
        while self._waiting:
            if (wait_seconds := self._wait_for_pass()) > 0:
                self._timer = asyncio.get_running_loop().call_later(wait_seconds, self._let_pass)
                return
            turn = self._waiting.pop()
            if turn.done():  # its caller was cancelled a moment ago
                self._passes += 1
            else:
                turn.set_result(None)

    def _wait_for_pass(self) -> float:
        """Take a pass and return 0, or return the seconds until there may be one."""
        now = self._now()
        self._passes = min(self._burst, self._passes + (now - self._counted_at) * self._per_second)
        self._counted_at = now
        wait_seconds = max(self._paused_until - now, (1 - self._passes) / self._per_second)
        if wait_seconds > 0:
            return wait_seconds
        self._passes -= 1
        return 0.0

    def _now(self) -> float:
        return asyncio.get_running_loop().time() if self._clock is None else self._clock()
