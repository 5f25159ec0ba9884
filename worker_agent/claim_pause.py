"""The pause in which an agent claims nothing, after a task whose headers it has no key for."""

from __future__ import annotations

import time
from collections.abc import Callable

from queue_engine.aio import Backoff

PAUSES = Backoff(60.0, 600.0)


class ClaimPause:
    """A pause that doubles with each unreadable task in a row, up to ten minutes.

    An agent that runs no task is always free, and would claim before all others. Its keys change by a restart only, but
    tasks without headers need none, and no other agent may be there: so it claims again, ever more rarely.
    `clock`: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, pauses: Backoff = PAUSES) -> None:
        self._clock = clock
        self._pauses = pauses
        self._until = clock()
        self._unreadable = 0
        """Reads with an unreadable task, in a row."""

    @property
    def seconds_left(self) -> float:
        """The rest of the pause; 0 when there is none."""
        return max(0.0, self._until - self._clock())

    def begin(self) -> None:
        """Pause. A second unreadable task of the same read does not prolong the pause."""
        if not self.seconds_left:
            self._unreadable += 1
            self._until = self._clock() + self._pauses.delay_after(self._unreadable)

    def note_readable(self) -> None:
        """Take into account that a task could be opened: the next pause is a short one again."""
        self._unreadable = 0
