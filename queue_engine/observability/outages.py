"""What a process logs while the store is away: one line when it begins, one when it is over.

Many loops and tasks meet the same outage, and each of them retries. They say so here instead of logging by themselves:

    20:11:03 WARNING the store is away: it cannot be reached   {"what": "heartbeats"}
    20:11:25 WARNING the store is back                         {"seconds": 21.4, "failed_calls": 312, "calls": {…}}

An outage is over when every caller that has met it has succeeded again. That is awaited for SETTLE_SECONDS, so that
callers which recover one after the other, or fail in turns, make one outage and not many. A caller that has not called
for SILENT_SECONDS is forgotten: another process may do its work by now.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

log = logging.getLogger(__name__)

SETTLE_SECONDS = 1.0
SILENT_SECONDS = 60.0
MAX_REASONS = 8
"""Reasons of one outage that are logged, each of them once."""


@dataclass
class _Outage:
    """Times by the monotonic clock."""

    loop: asyncio.AbstractEventLoop
    began: float
    ended: float = 0.0
    """When a call was last refused, or served again."""
    served: bool = False
    """The latest call was served."""
    reasons: list[str] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    callers: dict[Hashable, float] = field(default_factory=dict)
    """Those that have failed and not been served since, with the time."""


class Outages:
    """The outages of one service that this process needs, one after the other."""

    def __init__(self, service: str, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._service = service
        self._monotonic = monotonic
        self._outage: _Outage | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def goes_on(self) -> bool:
        """An outage that has not ended. May be read by another thread."""
        return self._outage is not None

    def failed(self, caller: Hashable, what: str, reason: str) -> None:
        """Note a failed call. `caller` has failed until it is given to `succeeded` or `left`; `what` names its work."""
        outage = self._current()
        outage.calls[what] += 1
        outage.callers[caller] = outage.ended = self._monotonic()
        outage.served = False
        if reason not in outage.reasons and len(outage.reasons) < MAX_REASONS:
            still = "still " if outage.reasons else ""
            outage.reasons.append(reason)
            log.warning("%s is %saway: %s", self._service, still, reason, extra={"what": what})
        self._look_in(outage, SILENT_SECONDS)

    def succeeded(self, caller: Hashable) -> None:
        """Note that `caller` is served again. Does nothing for one that has not failed."""
        outage = self._outage
        if outage is not None and outage.callers.pop(caller, None) is not None:
            outage.ended = self._monotonic()
            outage.served = True
            self._look_in(outage, SETTLE_SECONDS)

    def left(self, caller: Hashable) -> None:
        """Note that `caller` has ended without being served: that says nothing of the service."""
        outage = self._outage
        if outage is not None and outage.callers.pop(caller, None) is not None:
            self._look_in(outage, SETTLE_SECONDS)

    def _current(self) -> _Outage:
        """Return the outage that goes on, or a new one; that of another event loop has ended with it."""
        loop = asyncio.get_running_loop()
        if self._outage is None or self._outage.loop is not loop:
            self._outage = _Outage(loop, self._monotonic())
        return self._outage

    def _look_in(self, outage: _Outage, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not outage.loop.is_closed():
            self._timer = outage.loop.call_later(seconds, self._look, outage)

    def _look(self, outage: _Outage) -> None:
        """End the outage when no caller waits any longer."""
        heard_after = self._monotonic() - SILENT_SECONDS
        outage.callers = {caller: at for caller, at in outage.callers.items() if at > heard_after}
        if outage.callers:
            self._look_in(outage, SILENT_SECONDS)
            return
        self._outage = None
        if outage.served:
            facts = {"seconds": round(outage.ended - outage.began, 1), "failed_calls": outage.calls.total()}
            log.warning("%s is back", self._service, extra={**facts, "calls": dict(outage.calls)})


STORE = Outages("the store")
"""The store's outages, as this process has met them. One for a process, as its log is."""
