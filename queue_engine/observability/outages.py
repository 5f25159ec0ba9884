"""The log lines about an outage of the store: one when it begins, and one when it is over.

Many loops and tasks retry during the same outage. They report to this module instead of logging each failure:

    20:11:03 WARNING the store is away: it cannot be reached   {"what": "heartbeats"}
    20:11:25 WARNING the store is back                         {"seconds": 21.4, "failed_calls": 312, "calls": {…}}

An outage is over when every caller that has failed has succeeded again. The end is logged after another SETTLE_SECONDS,
so that callers which recover or fail one after the other make a single outage. A caller that has not called for
SILENT_SECONDS is ignored, because another process may have taken over its work.
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
"""Maximum number of reasons of an outage that are logged, each of them once."""


@dataclass
class _Outage:
    """An outage. Times are monotonic."""

    loop: asyncio.AbstractEventLoop
    began: float
    ended: float = 0.0
    """Time of the latest failure, or success after a failure."""
    served: bool = False
    """True if the latest call has succeeded."""
    reasons: list[str] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    callers: dict[Hashable, float] = field(default_factory=dict)
    """Callers that have failed and not succeeded since, with the time of the failure."""


class Outages:
    """The outages of a service that this process depends on."""

    def __init__(self, service: str, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.service = service
        """Its name in the log lines."""
        self._monotonic = monotonic
        self._outage: _Outage | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def goes_on(self) -> bool:
        """True while there is an outage. May be read from another thread."""
        return self._outage is not None

    def failed(self, caller: Hashable, what: str, reason: str) -> None:
        """Note a failed call. `caller` counts as failed until `succeeded` or `left`; `what` names its work."""
        outage = self._current()
        outage.calls[what] += 1
        outage.callers[caller] = outage.ended = self._monotonic()
        outage.served = False
        if reason not in outage.reasons and len(outage.reasons) < MAX_REASONS:
            still = "still " if outage.reasons else ""
            outage.reasons.append(reason)
            log.warning("%s is %saway: %s", self.service, still, reason, extra={"what": what})
        self._look_in(outage, SILENT_SECONDS)

    def succeeded(self, caller: Hashable) -> None:
        """Note that a call of `caller` has succeeded. Does nothing if it has not failed before."""
        outage = self._outage
        if outage is not None and outage.callers.pop(caller, None) is not None:
            outage.ended = self._monotonic()
            outage.served = True
            self._look_in(outage, SETTLE_SECONDS)

    def left(self, caller: Hashable) -> None:
        """Note that `caller` has ended without success, so that the outage no longer waits for it."""
        outage = self._outage
        if outage is not None and outage.callers.pop(caller, None) is not None:
            self._look_in(outage, SETTLE_SECONDS)

    def _current(self) -> _Outage:
        """Return the current outage, or a new one. An outage of another event loop has ended with that loop."""
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
        """End the outage if no caller waits."""
        heard_after = self._monotonic() - SILENT_SECONDS
        outage.callers = {caller: at for caller, at in outage.callers.items() if at > heard_after}
        if outage.callers:
            self._look_in(outage, SILENT_SECONDS)
            return
        self._outage = None
        if outage.served:
            facts = {"seconds": round(outage.ended - outage.began, 1), "failed_calls": outage.calls.total()}
            log.warning("%s is back", self.service, extra={**facts, "calls": dict(outage.calls)})


STORE = Outages("the store")
"""The outages of the store in this process. There is one instance per process, because there is one log."""
