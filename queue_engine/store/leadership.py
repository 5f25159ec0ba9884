"""Leadership: a single controller of several runs the backend."""

from __future__ import annotations

from queue_engine.store.calls import Scripts
from queue_engine.store.keys import LEADER


class Leadership:
    """A lease that at most one controller holds. The holder renews it well before it expires."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts

    async def hold(self, controller_id: str, *, lease_ms: int) -> bool:
        """Acquire or renew the lease. Return False while another controller holds it."""
        reply = await self._scripts.hold_leadership(leader=LEADER, controller_id=controller_id, lease_ms=lease_ms)
        return reply.word == "OK"

    async def give_up(self, controller_id: str) -> None:
        """Release the lease at once; does nothing when another controller holds it."""
        await self._scripts.yield_leadership(leader=LEADER, controller_id=controller_id)
