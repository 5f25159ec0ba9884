"""Leadership: of several controllers one runs the backend."""

from __future__ import annotations

from queue_engine.store.calls import Scripts
from queue_engine.store.keys import LEADER


class Leadership:
    """A lease that one controller holds at a time. The holder renews it well before it runs out."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts

    async def hold(self, controller_id: str, *, lease_ms: int) -> bool:
        """Take the lease, or renew one's own. False while another holds it."""
        reply = await self._scripts.hold_leadership(leader=LEADER, controller_id=controller_id, lease_ms=lease_ms)
        return reply.word == "OK"

    async def give_up(self, controller_id: str) -> None:
        """End one's own lease at once; does nothing when another holds it."""
        await self._scripts.yield_leadership(leader=LEADER, controller_id=controller_id)
