"""Sharded channels that stay subscribed over lost connections, fail-overs and slots that move.

The channels of a place are in one slot. A line is one connection with the channels of one or more places:

    places ── line ──► the node that has their slots ── messages ──► listener

A single server, and the master behind sentinels, has one line. In a cluster, a line whose places are on several nodes
keeps those of one node, and further lines begin for the others. So there is a line for each node at first, and at most
one for each place after slots have moved.

A message that is sent while its channel is not subscribed is lost. Therefore the listener is called after each
subscription, and reads then what it may have missed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from queue_engine.aio import end_tasks, run_forever
from queue_engine.config.store_url import Address
from queue_engine.store.redis.client import COMMAND_TIMEOUT_SECONDS, unavailability
from queue_engine.store.redis.cluster import ClusterClient
from queue_engine.store.redis.connections import Watchful

SILENCE_SECONDS = 2.0
"""Time without a message after which the server is asked for a sign of life, and time for that sign. A frozen server
keeps its connections open, so its silence is the only sign that its replica may be the master by now."""


class Listener(Protocol):
    """Gets the messages of subscriptions. Its methods are called on the event loop, and must not raise."""

    def subscribed(self, place: int) -> None:
        """Note that the channels of a place are subscribed. Messages from before may be lost."""
        ...

    def received(self, message: bytes) -> None:
        """Take a message."""
        ...


class Subscriptions:
    """Subscribes the channels of `places`, each a number with names of channels in one slot."""

    def __init__(self, redis: Redis, places: Mapping[int, Sequence[str]], listener: Listener) -> None:
        self._redis = redis
        self._places = places
        self._listener = listener
        self._lines: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin to subscribe. Does nothing after the first call."""
        if not self._lines:
            self._begin(tuple(self._places))

    async def aclose(self) -> None:
        """Close all connections."""
        while self._lines:
            await end_tasks(*self._lines)

    def _begin(self, places: Sequence[int]) -> None:
        line = asyncio.create_task(self._follow(places), name="subscription")
        self._lines.add(line)
        line.add_done_callback(self._lines.discard)

    async def _follow(self, places: Sequence[int]) -> None:
        line = _Line(self, places)
        try:
            await run_forever(line.step, idle_seconds=0, name="subscription", passing=unavailability)
        finally:
            await line.close()

    async def on_one_node(self, places: Sequence[int]) -> tuple[Redis | None, Sequence[int]]:
        """Return the client of a node and the places that it serves, and begin further lines for the others.

        The client is None when no node serves the slots of these places. Raises RedisError.
        """
        if not isinstance(self._redis, ClusterClient):
            return self._redis, places
        by_node: dict[Address | None, list[int]] = {}
        await self._redis.refresh()
        for place in places:
            by_node.setdefault(self._redis.known_owner(self._places[place][0]), []).append(place)
        (node, kept), *others = by_node.items()
        for _, moved in others:
            self._begin(moved)
        return None if node is None else self._redis.client_of(node), kept

    def channels_of(self, place: int) -> Sequence[str]:
        """Return the channels of a place."""
        return self._places[place]

    def subscribed(self, place: int) -> None:
        """Tell the listener that a place is subscribed."""
        self._listener.subscribed(place)

    def received(self, message: bytes) -> None:
        """Give a message to the listener."""
        self._listener.received(message)


class _Line:
    """A connection with the channels of some places."""

    def __init__(self, all_of_them: Subscriptions, places: Sequence[int]) -> None:
        self._all = all_of_them
        self._places = places
        self._connection: Watchful | None = None
        self._is_asked = False
        """True while the server has not responded to the question for a sign of life."""

    async def step(self) -> int:
        """Connect and subscribe, or take the next messages. Always return 1. Raises when the connection is lost."""
        try:
            if self._connection is None:
                await self._subscribe()
            else:
                await self._listen(self._connection)
        except BaseException:
            await self.close()
            raise
        return 1

    async def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)

    async def _subscribe(self) -> None:
        client, self._places = await self._all.on_one_node(self._places)
        if client is None:
            raise RedisConnectionError("no node serves the slot of a channel")
        self._connection = connection = client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        self._is_asked = False
        channels = {place: self._all.channels_of(place) for place in self._places}
        await connection.send([("SSUBSCRIBE", *names) for names in channels.values()])
        missing = {name.encode() for names in channels.values() for name in names}
        while missing:
            found = await connection.received(COMMAND_TIMEOUT_SECONDS)
            if not found:
                raise RedisTimeoutError("the server does not reply in time")
            for message in found:
                self._take(message)
                match message:
                    case [b"ssubscribe", bytes(name), *_]:
                        missing.discard(name)
        for place in self._places:
            self._all.subscribed(place)

    async def _listen(self, connection: Watchful) -> None:
        found = await connection.received(SILENCE_SECONDS)
        if not found and self._is_asked:
            raise RedisTimeoutError("the server does not reply in time")
        self._is_asked = not found
        if self._is_asked:
            await connection.send([("PING",)])
        for message in found:
            self._take(message)

    def _take(self, message: object) -> None:
        """Give a message to the listener. Raises an error of the server, and when the node has lost a slot."""
        match message:
            case Exception():
                raise message
            case [b"smessage", _, bytes(text)]:
                self._all.received(text)
            case [b"sunsubscribe", *_]:
                raise RedisConnectionError("the slot of a channel has moved")
