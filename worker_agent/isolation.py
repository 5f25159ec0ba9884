"""Suspects: tasks that may be what kills their worker, because earlier attempts ended with a dead one.

A suspect runs alone, so that its neighbours do not pay for it again and again. It waits until all running calls have
ended, and no other call starts until it has run. Because that may take long, an agent that is busy first leaves a
suspect to agents that may be idle. The second time it keeps the suspect: when all agents are busy, one of them must
wait for it.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from contextlib import AbstractAsyncContextManager

from queue_engine.domain.attempts import StartedAttempt
from worker_agent.gate import Gate

log = logging.getLogger(__name__)

MAX_PASSED_ON = 10_000
"""Limit for the suspects that an agent remembers to have left to others."""


class Isolation:
    """Lets the calls of an agent run side by side, and those of suspects alone."""

    def __init__(self) -> None:
        self._gate = Gate()
        self._passed_on: OrderedDict[str, None] = OrderedDict()

    @property
    def is_open(self) -> bool:
        """False while a suspect runs, or waits to run."""
        return self._gate.is_open

    async def wait_until_open(self) -> None:
        """Return when no suspect runs or waits to run."""
        await self._gate.wait_until_open()

    def turn(self, attempt: StartedAttempt) -> AbstractAsyncContextManager[None]:
        """Return the context in which the attempt may call the container; entering it waits for the turn."""
        return self._gate.passed(alone=attempt.is_suspect)

    def passes_on(self, attempt: StartedAttempt) -> bool:
        """Return whether the attempt is a suspect that is left to another agent, and remember it if so."""
        task_id = attempt.lease.task_id
        if not attempt.is_suspect or self._gate.is_empty:
            return False
        if task_id in self._passed_on:
            del self._passed_on[task_id]
            return False
        self._passed_on[task_id] = None
        if len(self._passed_on) > MAX_PASSED_ON:
            self._passed_on.popitem(last=False)
        log.info("a suspect is left to an idle agent, if there is one", extra=attempt.ids)
        return True
