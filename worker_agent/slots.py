"""The slots of an agent, which limit the calls that run at the same time to its concurrency.

While calls are short, an agent begins a few attempts more than it has slots. They wait, with their leases, for the next
free slot. Otherwise each slot would be empty while the store is asked for the next task: an agent with 64 slots was
idle for a fifth of its time. The number follows the rate at which slots become free. The wait is short, because an idle
agent could run these tasks at once:

    slots that became free in the last 20 ms      0    1    2    10    64
    attempts that may wait                        0    0    1     5    32

For the same reason an attempt leaves its slot when its call has ended, before its outcome is recorded. As many attempts
as there are slots may be in that state, so that an agent without a store soon stops beginning calls.

The pace tells how fast tasks that wait begin here. A task takes its slot for its run and for the gap before it, in
which the slot was empty while the task was claimed. With calls of a millisecond the gaps are most of the time. A longer
gap than MAX_GAP_SECONDS does not count, because no task waited.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine

from queue_engine.domain.workers import Pace

log = logging.getLogger(__name__)

RECENT_SECONDS = 0.02
"""Time in which slots that became free count. It is longer than a claim and a start take."""
MAX_WAIT_SECONDS = 0.1
"""Maximum time for which an attempt waits for a slot. It is reached when calls suddenly take longer."""
MAX_GAP_SECONDS = 0.1
"""Maximum time for which a slot is empty between two tasks while tasks wait."""
MEAN_OF_RUNS = 64
"""Number of the latest runs that weigh most in the mean."""


class Slots:
    """Runs attempts, each in its own asyncio task, of which at most `limit` have a slot."""

    def __init__(
        self,
        limit: int,
        *,
        recent_seconds: float = RECENT_SECONDS,
        max_wait_seconds: float = MAX_WAIT_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.monotonic = monotonic
        """The clock of the pace."""
        self._limit = limit
        self._recent_seconds = recent_seconds
        self._max_wait_seconds = max_wait_seconds
        self._free = limit
        self._recent: deque[float] = deque(maxlen=limit)
        """The times at which slots became free recently."""
        self._waiting: deque[tuple[float, asyncio.Future[bool]]] = deque()
        """The time until which each attempt waits for a slot."""
        self._giving_up: asyncio.TimerHandle | None = None
        self._runners: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._left = 0
        """Number of attempts that have left their slot and still run."""
        self._has_room = asyncio.Event()
        self._empty_since: list[float] = []
        """The times at which the free slots became free, the latest last, without slots that no attempt has had."""
        self._spent_seconds = 0.0
        """Time of the latest runs and the gaps before them, each weighing less with every later run."""
        self._runs = 0.0
        """Number of these runs, with the same weights."""

    @property
    def pace(self) -> Pace:
        """The number of slots, and the mean time for which a task takes one."""
        return Pace(self._limit, round(self._spent_seconds / self._runs * 1000, 1) if self._runs else None)

    @property
    def runners(self) -> set[asyncio.Task[None]]:
        """The asyncio tasks of the attempts that run now."""
        return set(self._runners)

    @property
    def taken(self) -> int:
        """Number of slots that attempts have now."""
        return self._limit - self._free

    @property
    def room(self) -> int:
        """Number of attempts that may begin now; not positive if there is no room."""
        return self._limit + self._ahead - len(self._runners) + min(self._left, self._limit)

    @property
    def is_full(self) -> bool:
        """True if an attempt that begins now has to wait for a slot."""
        return len(self._runners) - self._left >= self._limit

    async def wait_for_room(self) -> int:
        """Wait until an attempt may begin, and return the number of those that may."""
        while (room := self.room) <= 0:
            self._has_room.clear()
            await self._has_room.wait()
        return room

    def run(self, attempt: Coroutine[None, None, None]) -> None:
        """Run an attempt. If it raises, the exception is logged and its lease expires."""
        if self._loop is None:  # kept, because asking for the loop is a call of the system
            self._loop = asyncio.get_running_loop()
        runner = self._loop.create_task(attempt)
        self._runners.add(runner)
        runner.add_done_callback(self._note_end)

    def slot(self) -> Slot:
        """Return the context in which an attempt has a slot; entering it waits for one.

        It returns False, and there is no slot, if none became free within `max_wait_seconds`. `leave` ends the hold of
        the slot before the context ends.
        """
        return Slot(self)

    async def take(self) -> bool:
        """Wait for a slot; return False if none became free in time. Cancellation leaves the slots unchanged."""
        if self._free:
            self._free -= 1
            gap = self.monotonic() - self._empty_since.pop() if self._empty_since else 0.0
            if gap <= MAX_GAP_SECONDS:
                self._spent_seconds += gap
            return True
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((_now() + self._max_wait_seconds, turn))
        if self._giving_up is None:
            self._give_up_later()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result():  # got a slot at the same moment
                self.give_back()
            raise

    def give_back(self, run_seconds: float | None = None) -> None:
        """Return a slot: the attempt that has waited for the longest time gets it.

        `run_seconds` is the time for which an attempt had it; None if it did not run.
        """
        self._recent.append(_now())
        if run_seconds is not None:
            weight = 1 - 1 / MEAN_OF_RUNS
            self._spent_seconds = self._spent_seconds * weight + run_seconds
            self._runs = self._runs * weight + 1
        while self._waiting:
            _, turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(True)
                return
        self._free += 1
        self._empty_since.append(self.monotonic())

    def note_left(self, change: int) -> None:
        """Note that an attempt has left its slot and still runs (1), or does no longer (-1)."""
        self._left += change
        self._has_room.set()

    @property
    def _ahead(self) -> int:
        """Number of attempts that may wait for a slot."""
        oldest = _now() - self._recent_seconds
        while self._recent and self._recent[0] < oldest:
            self._recent.popleft()
        return len(self._recent) // 2

    def _give_up_later(self) -> None:
        until, _ = self._waiting[0]
        self._giving_up = asyncio.get_running_loop().call_at(until, self._give_up)

    def _give_up(self) -> None:
        """End the waits that have taken too long."""
        self._giving_up = None
        while self._waiting and (self._waiting[0][0] <= _now() or self._waiting[0][1].done()):
            _, turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(False)
        if self._waiting:
            self._give_up_later()

    def _note_end(self, runner: asyncio.Task[None]) -> None:
        self._runners.discard(runner)
        self._has_room.set()
        if not runner.cancelled() and (error := runner.exception()) is not None:
            log.error("a task's runner failed; its lease will run out", exc_info=error)


class Slot:
    """A context that holds a slot. A class, because an asynccontextmanager costs several times as much."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._has_slot = False
        self._has_left = False
        self._began = 0.0

    async def __aenter__(self) -> bool:
        self._has_slot = await self._slots.take()
        self._began = self._slots.monotonic()
        return self._has_slot

    async def __aexit__(self, *_: object) -> None:
        if self._has_slot:
            self._slots.give_back(self._slots.monotonic() - self._began)
        elif self._has_left:
            self._slots.note_left(-1)

    def leave(self) -> None:
        """Give the slot to the next attempt. The attempt must have one."""
        self._has_slot, self._has_left = False, True
        self._slots.give_back(self._slots.monotonic() - self._began)
        self._slots.note_left(1)


def _now() -> float:
    """Return the time on the event loop's clock, which is this one. Asking for the loop costs more than the time."""
    return time.monotonic()
