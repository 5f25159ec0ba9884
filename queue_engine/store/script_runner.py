"""Script execution: concurrent calls share one round trip."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from time import perf_counter
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, NoScriptError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from queue_engine.config.durability import Durability
from queue_engine.config.store_url import Address
from queue_engine.observability import metrics
from queue_engine.store.redis.client import NotDurable, after_loss, exchange, unavailability
from queue_engine.store.redis.cluster import ClusterClient, is_redirection, slot_of
from queue_engine.store.redis.connections import Watchful
from queue_engine.store.scripts import AGENT_SCRIPTS, Argument, Script, load_scripts

MAX_BATCH = 32
"""Script calls in one pipeline. With more, the calls of a busy process would all wait for one pipeline: the process has
nothing to do until it ends, and the store afterwards."""
MAX_UNDER_WAY = 2
"""Batches that are under way at once. With one, a busy agent waited for the store or the container for an eighth of its
time."""
STORE_DURABILITY = Durability()


@dataclass(slots=True)
class _Call:
    script: Script
    arguments: list[Argument]
    promises: bool
    done: asyncio.Future[Any]
    asked_at: float

    @property
    def key(self) -> str:
        """The first key. All keys of a call are on the same node of a cluster."""
        return str(self.arguments[1])


_Batch = list[_Call]


@dataclass
class _Lane:
    """Calls that are sent in batches, in the order of the calls."""

    sends_ahead: bool
    """True if a batch may be sent before the replies to the batch before have come."""
    waiting: deque[_Call] = field(default_factory=deque)
    flusher: asyncio.Task[None] | None = None
    connection: Watchful | None = None
    """The connection on which a further batch may be sent; None while there is none."""
    under_way: deque[_Batch] = field(default_factory=deque)
    """Batches that were sent, in their order, whose replies have not come."""
    unfinished: deque[tuple[_Batch, list[Any] | Exception]] = field(default_factory=deque)
    """Batches that need a second try, in their order, with the replies to the first one or its error."""
    is_due: bool = False
    """True if a batch will be sent ahead in the next round of the event loop."""

    def next_batch(self) -> _Batch:
        return [self.waiting.popleft() for _ in range(min(MAX_BATCH, len(self.waiting)))]

    def abandoned(self) -> list[_Call]:
        """Return the calls that were sent and get no replies any longer."""
        batches = [*(batch for batch, _ in self.unfinished), *self.under_way]
        self.unfinished.clear()
        self.under_way.clear()
        return [call for batch in batches for call in batch]


class ScriptRunner:
    """Runs scripts over one Redis client.

    Calls are sent in batches, in the order of the calls. Calls that come while two batches are under way are
    collected for the next one. In a cluster each node has batches of its own, and so have durable calls that wait for
    replicas or a disk, so that other calls do not wait with them. Only one batch of these is under way at a time.

    Two batches that are under way are sent on one connection, so the server executes them in their order. When the
    connection breaks, both are repeated in their order before any later call is sent:

        sent a b │ replies to a │ the connection breaks │ repeated b │ sent c
        sent a b │ the connection breaks │ repeated a │ repeated b │ sent c

    Every script is idempotent, so a call whose reply was lost is sent once more on a new connection. A second failure
    is raised as RedisError. A durable call raises NotDurable when it was executed and too few servers have acknowledged
    it. When it is repeated, it waits for the servers again.

    A server that does not know a script gets all scripts that it lacks. The calls of these scripts are then executed
    after others of the same batch, and of the batch after it. With `loads` False, as in an agent, the call raises
    NoScriptError, until a process of the engine has loaded them.
    """

    def __init__(self, redis: Redis, durability: Durability = STORE_DURABILITY, *, loads: bool = True) -> None:
        self._redis = redis
        self._loads = loads
        self._cluster = redis if isinstance(redis, ClusterClient) else None
        self._durability = durability
        self._mark = load_scripts()["mark"]
        self._lanes: dict[tuple[Address | None, bool], _Lane] = {}

    def submit(self, script: Script, arguments: list[Argument]) -> asyncio.Future[Any]:
        """Return a future of the script's reply, undecoded as redis-py returns it, or of a RedisError.

        `arguments` begin with the number of keys and the keys.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        promises = self._durability.waits and script.is_durable
        call = _Call(script, arguments, promises, done, perf_counter())
        place = (self._cluster.known_owner(call.key) if self._cluster is not None else None, promises)
        lane = self._lanes.get(place)
        if lane is None:
            lane = self._lanes[place] = _Lane(sends_ahead=self._cluster is None and not promises)
        lane.waiting.append(call)
        if lane.flusher is None:
            lane.flusher = loop.create_task(self._flush(lane))
        elif lane.connection is not None and not lane.is_due and len(lane.under_way) < MAX_UNDER_WAY:
            lane.is_due = True
            loop.call_soon(self._send_ahead, lane)  # later, so that the calls of this round are sent together
        return done

    async def confirm(self, key: str) -> None:
        """Wait until all writes sent to the server of `key` have the configured durability.

        Does nothing when no durability is configured. Raises NotDurable.
        """
        if self._durability.waits:
            await self.submit(self._mark, [1, _mark_beside(key)])

    async def _flush(self, lane: _Lane) -> None:
        try:
            while lane.waiting:
                if not lane.sends_ahead:
                    await self._send(lane.next_batch())
                    continue
                await self._converse(lane)
                while lane.unfinished:
                    await self._send(*lane.unfinished.popleft())
        finally:
            lane.flusher = None
            for call in lane.abandoned():
                _settle(call, RedisConnectionError("interrupted"))
            if lane.waiting:  # a cancelled flush must not strand the others
                lane.flusher = asyncio.create_task(self._flush(lane))

    async def _send(self, batch: _Batch, first: list[Any] | Exception | None = None) -> None:
        """Send a batch and settle its calls. `first` are the replies to its first try, or the error of that."""
        try:
            replies = await (
                self._exchange(batch, first) if self._cluster is None else self._spread(batch, self._cluster)
            )
        except BaseException as error:
            for call in batch:
                _settle(call, error if isinstance(error, Exception) else RedisConnectionError("interrupted"))
            if not isinstance(error, Exception):
                raise
            return
        for call, reply in zip(batch, replies, strict=True):
            _settle(call, reply)

    # Two batches on one connection of a single server

    async def _converse(self, lane: _Lane) -> None:
        """Send a batch, and on the same connection those that `_send_ahead` adds, until none is under way.

        When the connection breaks, all that are under way need a second try: the server may have executed the first
        ones of them. It has executed none without those before, because they were sent on one connection.
        """
        pool = self._redis.connection_pool
        lane.under_way.append(lane.next_batch())
        try:
            connection: Watchful = await pool.get_connection()
            try:
                connection.write(connection.packed(map(_command, lane.under_way[0])))
                lane.connection = connection
                self._send_ahead(lane)
                while lane.under_way:
                    await self._read(lane, connection)
                    self._send_ahead(lane)
            finally:
                lane.connection = None
                await pool.release(connection)
        except Exception as error:  # noqa: BLE001 - it is the error of their first try
            lane.unfinished += [(batch, error) for batch in lane.under_way]
            lane.under_way.clear()
            if isinstance(error, RedisConnectionError | RedisTimeoutError):
                await self._close_idle()

    async def _read(self, lane: _Lane, connection: Watchful) -> None:
        """Read the replies to the first batch that is under way, and settle its calls. Raises RedisError."""
        batch = lane.under_way[0]
        replies = await connection.replies(len(batch), are_all=lambda: len(lane.under_way) == 1)
        lane.under_way.popleft()
        if self._loads and any(isinstance(reply, NoScriptError) for reply in replies):
            lane.connection = None  # what comes later is sent after the calls whose scripts are missing
            lane.unfinished.append((batch, replies))
        else:
            for call, reply in zip(batch, replies, strict=True):
                _settle(call, reply)
        if connection.is_demoted:
            lane.connection = None
            if lane.under_way:
                raise RedisConnectionError("the server is a replica now")

    def _send_ahead(self, lane: _Lane) -> None:
        """Send the next batch if the connection may have one more under way, and all before was handed to the system.

        So the memory for what waits to be sent does not grow when the server is slow.
        """
        lane.is_due = False
        connection = lane.connection
        if connection is None or not lane.waiting or len(lane.under_way) >= MAX_UNDER_WAY:
            return
        if not connection.has_sent_all:
            return
        batch = lane.next_batch()
        try:
            packed = connection.packed(map(_command, batch))
        except DataError as error:
            for call in batch:
                _settle(call, error)
            return
        connection.write(packed)
        lane.under_way.append(batch)

    async def _exchange(self, batch: _Batch, first: list[Any] | Exception | None) -> list[Any]:
        """Return a reply or error for each call, repeating what was lost in the first try. Raises RedisError."""
        try:
            if isinstance(first, Exception):
                raise first
            if first is not None:
                return await self._completed(self._redis, batch, first)
            return await self._through(self._redis, batch)
        except (RedisConnectionError, RedisTimeoutError) as lost:
            if lost is not first:
                await self._close_idle()
            return after_loss(lost, await self._through(self._redis, batch))

    async def _close_idle(self) -> None:
        """Close the idle connections after a loss: after a fail-over they lead to the old server too."""
        with suppress(RedisError, OSError):  # a close that takes too long is a TimeoutError of redis-py
            await self._redis.connection_pool.disconnect(inuse_connections=False)

    # A cluster

    async def _spread(self, batch: _Batch, cluster: ClusterClient) -> list[Any]:
        """Send the calls of each node together. A call that is redirected is then sent alone."""
        groups: dict[Address, _Batch] = {}
        for call in batch:
            groups.setdefault(await cluster.owner(slot_of(call.key)), []).append(call)
        found = await asyncio.gather(*(self._at(node, calls, cluster) for node, calls in groups.items()))
        replies = {id(call): reply for of_node in found for call, reply in of_node}
        return [replies[id(call)] for call in batch]

    async def _at(self, node: Address, calls: _Batch, cluster: ClusterClient) -> list[tuple[_Call, Any]]:
        try:
            replies = await self._through(cluster.client_of(node), calls)
        except (RedisConnectionError, RedisTimeoutError) as lost:
            repeated = await self._elsewhere(node, calls, cluster)
            after_loss(lost, [reply for _, reply in repeated])
            return repeated
        except RedisError as error:
            return [(call, error) for call in calls]
        redirected = [
            self._routed(call, cluster, after=reply)
            for call, reply in zip(calls, replies, strict=True)
            if is_redirection(reply)
        ]
        others = iter(await asyncio.gather(*redirected))
        return [
            (call, next(others) if is_redirection(reply) else reply) for call, reply in zip(calls, replies, strict=True)
        ]

    async def _elsewhere(self, silent: Address, calls: _Batch, cluster: ClusterClient) -> list[tuple[_Call, Any]]:
        """Repeat calls whose node did not respond, once, at the nodes that own their keys now."""
        try:
            await cluster.note_silence(silent)
            groups: dict[Address, _Batch] = {}
            for call in calls:
                groups.setdefault(await cluster.owner(slot_of(call.key)), []).append(call)
        except RedisError as error:
            return [(call, error) for call in calls]
        found = await asyncio.gather(*(self._once_at(node, group, cluster) for node, group in groups.items()))
        return [pair for group in found for pair in group]

    async def _once_at(self, node: Address, calls: _Batch, cluster: ClusterClient) -> list[tuple[_Call, Any]]:
        try:
            replies = await self._through(cluster.client_of(node), calls)
        except RedisError as error:
            replies = [error] * len(calls)
        return [
            (call, await self._routed(call, cluster, after=reply) if is_redirection(reply) else reply)
            for call, reply in zip(calls, replies, strict=True)
        ]

    async def _routed(self, call: _Call, cluster: ClusterClient, *, after: Exception) -> Any:
        async def send(node: Redis, asking: bool) -> Any:
            (reply,) = await self._through(node, [call], asking=asking)
            if isinstance(reply, Exception):
                raise reply
            return reply

        try:
            return await cluster.routed(call.key, send, after=after)
        except RedisError as error:
            return error

    # A single server

    async def _through(self, client: Redis, batch: _Batch, *, asking: bool = False) -> list[Any]:
        """Return a reply or error for each call. Loads scripts that the server does not have. Raises RedisError."""
        return await self._completed(client, batch, await self._pipeline(client, batch, asking), asking=asking)

    async def _completed(self, client: Redis, batch: _Batch, replies: list[Any], *, asking: bool = False) -> list[Any]:
        """Return the replies, with those of calls whose scripts were missing after loading these."""
        missing = [index for index, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if missing and self._loads:
            await load_missing(client, [batch[index].script for index in missing])
            again = await self._pipeline(client, [batch[index] for index in missing], asking)
            for index, reply in zip(missing, again, strict=True):
                replies[index] = reply
        return replies

    async def _pipeline(self, client: Redis, batch: _Batch, asking: bool) -> list[Any]:
        waits = batch[0].promises  # the same for all calls of a lane
        commands: list[tuple[Argument, ...]] = [_command(call) for call in batch]
        if waits:
            commands += self._wait(batch[0].key)
        replies = await _replies(client, commands, asking)
        shortfall = await self._shortfall(client, batch[0].key, asking, replies.pop(), replies.pop()) if waits else None
        if shortfall is not None:
            replies = [reply if isinstance(reply, Exception) else shortfall for reply in replies]
        return replies

    # Durability

    def _wait(self, key: str) -> tuple[tuple[Argument, ...], tuple[Argument, ...]]:
        """Return a write of the mark and a wait for the configured durability.

        A server waits only for writes of this connection. The mark is needed because a repeated call writes nothing.
        """
        asked, timeout_ms = self._durability, int(self._durability.timeout_seconds * 1000)
        mark = ("EVALSHA", self._mark.sha, 1, _mark_beside(key))
        if asked.disk:
            return mark, ("WAITAOF", 1, asked.replicas, timeout_ms)
        return mark, ("WAIT", asked.replicas, timeout_ms)

    async def _shortfall(
        self, client: Redis, key: str, asking: bool, acknowledged: Any, mark: Any
    ) -> RedisError | None:
        """Return NotDurable when the writes before do not have the configured durability, else None."""
        if isinstance(mark, NoScriptError) and self._loads:
            await load_missing(client)
            mark, acknowledged = await _replies(client, self._wait(key), asking)
        for reply in (mark, acknowledged):
            if isinstance(reply, Exception):
                return NotDurable(unavailability(reply) or f"it cannot confirm writes: {reply}")
        asked, within = self._durability, f"within {self._durability.timeout_seconds:g} s"
        on_disk, replicas = acknowledged if asked.disk else (1, acknowledged)
        if not on_disk:
            return NotDurable(f"a write was not on disk {within}")
        if replicas < asked.replicas:
            where = "on disk " if asked.disk else ""
            return NotDurable(f"{replicas} of {asked.replicas} replicas acknowledged a write {where}{within}")
        return None


def _command(call: _Call) -> tuple[Argument, ...]:
    return ("EVALSHA", call.script.sha, *call.arguments)


async def load_missing(client: Redis, others: Sequence[Script] = ()) -> int:
    """Load all scripts that one server does not know, and the given `others`; return their number. Raises RedisError.

    Those of the agents are loaded first: a server that knows one of the engine's has them too, even if the connection
    was lost in between.
    """
    scripts = sorted((*load_scripts().values(), *others), key=lambda script: script.name not in AGENT_SCRIPTS)
    texts = {script.sha: script.text for script in scripts}
    (known,) = _checked(await exchange(client, [("SCRIPT", "EXISTS", *texts)]))
    missing = [text for text, is_known in zip(texts.values(), known, strict=True) if not is_known]
    _checked(await exchange(client, [("SCRIPT", "LOAD", text) for text in missing]) if missing else [])
    return len(missing)


def _checked(replies: list[Any]) -> list[Any]:
    """Return the replies. Raises the first error among them."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


_calls_of = cache(metrics.StoreCalls)


async def _replies(client: Redis, commands: Sequence[tuple[Argument, ...]], asking: bool) -> list[Any]:
    """Return the replies to commands. `asking` sends them to a node that does not own their keys yet."""
    if not asking:
        return await exchange(client, commands)
    # A node forgets ASKING with the next command that has keys. It ignores it before one that has none.
    return (await exchange(client, [one for command in commands for one in (("ASKING",), command)]))[1::2]


def _mark_beside(key: str) -> str:
    """Return the key of the mark in the same slot as `key`."""
    return f"{key[: key.index('}') + 1]}:mark"


def _settle(call: _Call, reply: Any) -> None:
    _calls_of(call.script.label).count(perf_counter() - call.asked_at, failed=isinstance(reply, Exception))
    if call.done.done():
        return
    if isinstance(reply, Exception):
        call.done.set_exception(reply)
    else:
        call.done.set_result(reply)
