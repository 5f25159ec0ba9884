"""The agent's part in the end of its pod: the container must not be signalled before the agent has drained.

Kubernetes signals all containers of a pod at once. The container's preStop hook therefore requests `/drained` of the
agent, and the kubelet signals the container after the response:

    pod deleted -> SIGTERM to the agent: it drains
                -> the hook's request waits, until the agent has drained -> response -> SIGTERM to the container

Each request gets its response within a limit, because the kubelet waits for it as long as the pod's grace period.
"""

from __future__ import annotations

import asyncio
import threading

from queue_engine.domain.agent_protocol import DRAINED_PATH
from queue_engine.observability.exporter import Page, PageServer

HOOK_MARGIN_SECONDS = 5.0
"""Maximum time of a response beyond the grace period."""
FIRST_CALL_SECONDS = 1.0
"""Time for which a drained agent waits for the hook's request, which may arrive after the signal."""
RESPONSE_SECONDS = 2.0
"""Maximum time for which a drained agent waits until its responses are sent."""
HEALTH_PATH = "/healthz"


class DrainHook:
    """Responds to `/drained` after `note_drained`, at the latest HOOK_MARGIN_SECONDS after the grace period."""

    def __init__(self, grace_seconds: float) -> None:
        self._limit_seconds = grace_seconds + HOOK_MARGIN_SECONDS
        self._called = threading.Event()
        self._drained = threading.Event()

    @property
    def pages(self) -> dict[str, Page]:
        """The pages to serve, by their paths. Each is called in a thread of its own, so that it may wait."""
        return {DRAINED_PATH: self._wait, HEALTH_PATH: lambda: b"ok\n"}

    async def finish(self, server: PageServer) -> None:
        """Note that nothing runs any longer, and return after the responses were sent. Takes a limited time."""
        self._drained.set()
        await asyncio.to_thread(self._finish, server)

    def _wait(self) -> bytes:
        self._called.set()
        return b"drained\n" if self._drained.wait(self._limit_seconds) else b"the grace period is over\n"

    def _finish(self, server: PageServer) -> None:
        if self._called.wait(FIRST_CALL_SECONDS):
            server.wait_until_idle(RESPONSE_SECONDS)
