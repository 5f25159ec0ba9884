"""A gate that admits many coroutines at the same time, or a single one alone."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import AbstractAsyncContextManager


class Gate:
    """A fair lock with shared and exclusive holders, which are admitted in the order in which they arrive.

    An exclusive holder waits until all others have left; later arrivals wait behind it.
    """

    def __init__(self) -> None:
        self._inside = 0
        self._alone = False
        self._waiting: deque[tuple[bool, asyncio.Future[None]]] = deque()
        self._open = asyncio.Event()
        self._open.set()

    @property
    def is_open(self) -> bool:
        """True if no exclusive holder is inside and none waits."""
        return self._open.is_set()

    @property
    def is_empty(self) -> bool:
        """True if no holder is inside."""
        return self._inside == 0

    async def wait_until_open(self) -> None:
        """Wait until no exclusive holder is inside and none waits."""
        await self._open.wait()

    def passed(self, *, alone: bool) -> AbstractAsyncContextManager[None]:
        """Hold the gate, shared or alone. Cancellation while waiting leaves the gate unchanged."""
        return _Pass(self, alone=alone)

    async def enter(self, *, alone: bool) -> None:
        """Become a holder, until `leave` is called."""
        if not alone and self.is_open:  # nothing waits: no future is needed
            self._inside += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((alone, turn))
        self._let_in()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._waiting.remove((alone, turn))
            else:  # admitted at the same moment
                self._inside -= 1
                self._alone = False
            self._let_in()
            raise

    def leave(self) -> None:
        """End a hold, and admit those whose turn it is."""
        self._inside -= 1
        self._alone = False
        if not self.is_open:
            self._let_in()

    def _let_in(self) -> None:
        while self._waiting and not self._alone:
            alone, turn = self._waiting[0]
            if alone and self._inside:
                break
            self._waiting.popleft()
            self._inside += 1
            self._alone = alone
            turn.set_result(None)
        closed = self._alone or any(alone for alone, _ in self._waiting)
        (self._open.clear if closed else self._open.set)()


class _Pass:
    """A context that holds the gate. A class, because an asynccontextmanager costs several times as much."""

    def __init__(self, gate: Gate, *, alone: bool) -> None:
        self._gate = gate
        self._alone = alone

    async def __aenter__(self) -> None:
        await self._gate.enter(alone=self._alone)

    async def __aexit__(self, *_: object) -> None:
        self._gate.leave()
