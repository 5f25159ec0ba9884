"""Seals the headers of tasks with a key of their endpoint, for agents that do not have the secret key.

The API seals the headers of a task that it accepts for the agents too. A process of version 0.2 does not. An agent
that claims such a task asks for its headers and releases the task at no cost. The leading controller, which has the
secret key, seals the headers, and the next claim of the task finds them. A task that no agent claims is not changed. A
rotation of the secret key seals the headers of all tasks.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable

from redis.asyncio import Redis

from queue_engine.crypto.sealing import SecretKeyMissing
from queue_engine.store.keys import UNSEALED, parse_member
from queue_engine.store.tasks import TaskStore

log = logging.getLogger(__name__)

TAKEN_AT_ONCE = 200
"""Limit of the tasks in one step."""


class HeaderSealing:
    """The requests of agents for headers. Two concurrent steps are safe."""

    def __init__(self, redis: Redis, tasks: TaskStore) -> None:
        self._redis = redis
        self._tasks = tasks

    async def step(self) -> int:
        """Seal the headers of the tasks that agents ask for; return their number. Raises RedisError.

        A request is lost when the process dies after taking it. The agent then asks again with its next claim.
        """
        taken = await self._redis.spop(UNSEALED, TAKEN_AT_ONCE)  # type: ignore[misc]
        by_endpoint = _by_endpoint(name.decode("utf-8", "replace") for name in taken or ())
        try:
            await asyncio.gather(*(self._tasks.reseal(*one) for one in by_endpoint.items()))
        except SecretKeyMissing:
            log.warning("agents ask for the headers of tasks, and this process has no secret key to open them")
        return len(taken or ())


def _by_endpoint(names: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        endpoint_id, task_id = parse_member(name)
        found[endpoint_id].append(task_id)
    return found
