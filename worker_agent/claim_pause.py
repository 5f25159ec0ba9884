"""The pause in which an agent claims no tasks: after a task whose headers need a key that the agent does not have, and
after a task that it leaves to an idle agent."""

from __future__ import annotations

import time
from collections.abc import Callable

from queue_engine.aio import Backoff

PAUSES = Backoff(60.0, 600.0)


class ClaimPause:
    """A pause that doubles with each consecutive unreadable task, up to ten minutes.

    The pause is needed because an agent that cannot run its tasks always has free slots, and would claim tasks before
    all other agents. It is limited because tasks without headers need no key, and there may be no other agent for them.
    `clock` returns monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, pauses: Backoff = PAUSES) -> None:
        self._clock = clock
        self._pauses = pauses
        self._until = clock()
        self._unreadable = 0
        """Number of consecutive claims with an unreadable task."""

    @property
    def seconds_left(self) -> float:
        """Seconds until the pause ends; 0 if there is none."""
        return max(0.0, self._until - self._clock())

    def begin(self) -> None:
        """Begin a pause. A second unreadable task of the same claim does not prolong it."""
        if not self.seconds_left:
            self._unreadable += 1
            self._until = self._clock() + self._pauses.delay_after(self._unreadable)

    def wait(self, seconds: float) -> None:
        """Pause for this time, if no longer pause has begun. The next pause has the length that it would have."""
        self._until = max(self._until, self._clock() + seconds)

    def note_readable(self) -> None:
        """Note that a task's headers could be opened. The next pause has the initial length again."""
        self._unreadable = 0
