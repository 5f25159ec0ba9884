"""Waits for the bell of an endpoint, which rings when tasks may be claimed.

An agent that had a task a moment ago sends `BLPOP bell` and the claim in one write. The server executes the claim when
the bell rings, or when the wait ends without a bell. So a task begins after one round trip.

A script costs an idle server ten times as much as a plain command, and most agents of a large installation are idle. So
an agent that has been idle for a while sends `BLPOP bell` alone, waits for longer, and claims with a second round trip
when the bell has rung. If it dies in between, the bell is lost: then the next report of any agent of the endpoint rings
again (report_worker.lua). A bell is also lost on a connection that is dead without an error, and while the endpoint
moves to another server. So a report tells the idle agent that sent it that tasks are queued, and it claims without a
bell.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from queue_engine.store.keys import EndpointKeys
from queue_engine.store.redis.client import MAX_BLOCK_SECONDS, exchange_once
from queue_engine.store.redis.cluster import ClusterClient, is_redirection
from queue_engine.store.scripts import Argument, Script

log = logging.getLogger(__name__)

Command = Sequence[Argument]


class BellWait:
    """A wait for the bell before another command. The client of `blocking` must not repeat commands."""

    def __init__(self, blocking: Redis, keys: EndpointKeys) -> None:
        self._blocking = blocking
        self._keys = keys
        self.block_ms = 0
        """Limit of the next wait."""
        self.is_refused = False
        """True if the latest call did not wait, because the user of the store may not."""

    async def submit(self, script: Script, arguments: list[Argument]) -> Any:
        """Wait, and return the script's reply, undecoded. Raises RedisError."""
        _, reply = await self._exchange(("EVALSHA", script.sha, *arguments))
        return reply

    async def rings(self) -> bool:
        """Wait, and return True if the bell has rung, or the user of the store may not wait. Raises RedisError."""
        (heard,) = await self._exchange()
        return heard is not None

    async def _exchange(self, *after: Sequence[Argument]) -> list[Any]:
        """Wait, execute commands in the same write, and return all replies."""
        seconds = max(1, self.block_ms) / 1000  # 0 would be no limit
        commands = [("BLPOP", self._keys.bell, f"{seconds:.3f}"), *after]
        limit = max(seconds, MAX_BLOCK_SECONDS)

        async def send(client: Redis, asking: bool) -> list[Any]:
            if not asking:
                return _followed(await exchange_once(client, commands, block_seconds=limit))
            asked = [one for command in commands for one in (("ASKING",), command)]
            return _followed((await exchange_once(client, asked, block_seconds=limit))[1::2])

        if isinstance(self._blocking, ClusterClient):
            replies = await self._blocking.routed(self._keys.bell, send)
        else:
            replies = await send(self._blocking, False)
        is_refused = isinstance(replies[0], NoPermissionError)
        for reply in replies[is_refused:]:
            if isinstance(reply, Exception):
                raise reply
        self._note(is_refused=is_refused)
        return replies

    def _note(self, *, is_refused: bool) -> None:
        if is_refused and not self.is_refused:
            log.warning(
                "an idle agent may begin a task up to two seconds late: the user of the store lacks a right that this "
                "version needs (deploy/redis/users.acl)"
            )
        self.is_refused = is_refused


def _followed(replies: list[Any]) -> list[Any]:
    """Return the replies. Raises the first of them that names another node of the cluster."""
    for reply in replies:
        if is_redirection(reply):
            raise reply
    return replies
