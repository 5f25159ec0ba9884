"""The work of an ALB or CUSTOM endpoint's agent: before it ends, wait for the container's running requests."""

from __future__ import annotations

import asyncio
import logging

from queue_engine.aio import wait_for_event
from worker_agent.agent import Duty
from worker_agent.container import ContainerAddress
from worker_agent.probes import has_connections

log = logging.getLogger(__name__)

UNLISTED_SECONDS = 1.5
"""Time after which a worker that was marked as STOPPING gets no new requests: the API caches workers for one second."""
POLL_SECONDS = 0.1


class ServiceWork:
    """Claims no tasks. When the agent drains, running requests may finish within the grace period.

    Requests do not pass through the agent, so it looks for connections to the container's port on this machine. It
    cannot see connections to a container on another machine, and does not wait for them.
    """

    def __init__(self, address: ContainerAddress, *, grace_seconds: float) -> None:
        self._address = address
        self._grace_seconds = grace_seconds

    @property
    def running_tasks(self) -> int:
        return 0

    @property
    def pace(self) -> None:
        return None

    @property
    def problem(self) -> str:
        return ""

    async def run(self, duty: Duty) -> None:
        await duty.draining.wait()
        try:
            async with asyncio.timeout(self._grace_seconds):
                await self._requests_end(duty)
        except TimeoutError:
            log.warning("running requests are cut off: the grace period is over")

    async def _requests_end(self, duty: Duty) -> None:
        if self._address.probed_port is None or await wait_for_event(duty.container_ended, UNLISTED_SECONDS):
            return
        while await asyncio.to_thread(has_connections, self._address.probed_port):
            if await wait_for_event(duty.container_ended, POLL_SECONDS):
                return
