"""Leadership: of several controllers one runs the backend."""

from __future__ import annotations

from queue_engine.store.client import word_of
from queue_engine.store.keys import LEADER
from queue_engine.store.scripts import ScriptRunner


class Leadership:
    """A lease that one controller holds at a time. The holder renews it well before it runs out."""

    def __init__(self, scripts: ScriptRunner) -> None:
        self._scripts = scripts

    async def hold(self, controller_id: str, *, lease_ms: int) -> bool:
        """Take the lease, or renew one's own. False while another holds it."""
        return word_of(await self._scripts.run("hold_leadership", [LEADER], [controller_id, lease_ms])) == "OK"

    async def give_up(self, controller_id: str) -> None:
        """End one's own lease at once; does nothing when another holds it."""
        await self._scripts.run("yield_leadership", [LEADER], [controller_id])
