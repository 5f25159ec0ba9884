"""The rate of the writes to a cluster, so that a controller does not flood its API server."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

WRITES_PER_SECOND = 20.0
BURST = 40
MAX_PAUSE_SECONDS = 60.0
"""Maximum of the time that a server may ask to wait, so that a wrong value does not stop all work."""


class Budget:
    """Lets `burst` writes pass at once, and `per_second` after them, in the order of the calls.

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
        self._turn = asyncio.Lock()

    async def take(self) -> None:
        """Wait for a pass."""
        async with self._turn:  # so that only the first of many callers has a timer
            while True:
                wait_seconds = self._wait_for_pass()
                if wait_seconds <= 0:
                    return
                await asyncio.sleep(wait_seconds)

    def pause(self, seconds: float) -> None:
        """Let nothing pass for a time, because the server asks for it."""
        self._paused_until = max(self._paused_until, self._now() + min(seconds, MAX_PAUSE_SECONDS))

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
