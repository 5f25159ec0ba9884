"""Suspects: tasks that may crash their worker, because the worker crashed during earlier attempts.

A suspect runs alone, so that it does not make attempts of other tasks fail again and again. It waits until all running
calls have ended, and no other call starts until it has run. Because that may take long, a busy agent first releases a
suspect, and claims nothing for PASSED_ON_SECONDS, so that an idle agent can claim it. When the busy agent claims it a
second time, it keeps it: if all agents are busy, one of them has to wait for the suspect's turn.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from contextlib import AbstractAsyncContextManager

from queue_engine.domain.attempts import StartedAttempt
from worker_agent.gate import Gate

log = logging.getLogger(__name__)

PASSED_ON_SECONDS = 2.0
"""Time for which an agent that has released a suspect claims nothing. An idle agent hears the bell and claims in
separate calls, over HTTPS by way of an API process, and a busy agent that waits for the bell would be faster."""
MAX_PASSED_ON = 10_000
"""Maximum number of suspects that an agent remembers to have released for idle agents."""


class Isolation:
    """Lets the calls of an agent run at the same time, and each suspect's call alone."""

    def __init__(self) -> None:
        self._gate = Gate()
        self._passed_on: OrderedDict[str, None] = OrderedDict()

    @property
    def is_open(self) -> bool:
        """True unless a suspect runs or waits to run."""
        return self._gate.is_open

    async def wait_until_open(self) -> None:
        """Wait until no suspect runs or waits to run."""
        await self._gate.wait_until_open()

    def turn(self, attempt: StartedAttempt) -> AbstractAsyncContextManager[None]:
        """Return the context in which the attempt may call the container; entering it waits for the turn."""
        return self._gate.passed(alone=attempt.is_suspect)

    def passes_on(self, attempt: StartedAttempt) -> bool:
        """Return True, and remember it, if the attempt is a suspect that should be released for an idle agent."""
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
