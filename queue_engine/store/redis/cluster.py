"""Cluster client: every command goes to the node that owns the slot of its key.

Each node has its own bounded connection pool, so that a node that is down does not block commands to other nodes. The
cluster client of redis-py is not used, because its pools are unbounded and it closes healthy connections as well as
broken ones.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import Pipeline
from redis.crc import key_slot
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from queue_engine.aio import Backoff
from queue_engine.config.store_url import Address

T = TypeVar("T")
Send = Callable[[Redis, bool], Awaitable[T]]
"""Sends a command to a node. When the second argument is true, it sends ASKING before the command."""

HOME_KEY = "{qe}:meta"
"""Commands without a key go to the node that owns this key."""
MAX_REDIRECTIONS = 8
PATIENCE_SECONDS = 1.0
"""Maximum time for which a command is retried while its slot is being migrated (TRYAGAIN)."""
WAITS = Backoff(0.02, 0.25)
REFRESH_SECONDS = 1.0
"""Timeout for one node's reply to CLUSTER SLOTS."""
PROBE_SECONDS = 0.5
"""Timeout for a PING to a node that did not respond before. It is sent before other commands, so that a frozen node
does not block them."""
_SECOND_WORD = {"OBJECT", "MEMORY", "XGROUP", "XINFO"}
"""Commands of two words that are passed as two arguments: the key is the third argument."""
_WITHOUT_KEY = {"TIME", "INFO", "PING"}


class NotACluster(RedisError):
    """The server responds but is not part of a cluster."""


class ClusterClient(Redis):
    """A Redis client for a cluster. A command's keys must be in one slot; a pipeline may use several slots.

    `make_client` returns a client for one node. The slot map is updated by redirections, and fetched again when a node
    does not respond. With `repeats` a command that loses its connection is repeated once.
    """

    def __init__(
        self, seeds: Sequence[Address], make_client: Callable[[Address], Redis], *, repeats: bool = True
    ) -> None:
        super().__init__(connection_pool=BlockingConnectionPool())  # never connected; the nodes have their own
        self._seeds = tuple(seeds)
        self._make_client = make_client
        self._repeats = repeats
        self._nodes: dict[Address, Redis] = {}
        self._owners: dict[int, Address] = {}
        self._refreshing: asyncio.Task[None] | None = None
        self._silent: dict[Address, asyncio.Task[None] | None] = {}
        """Nodes that did not respond, each with the task that probes it, if any."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Execute a command, following redirections. Raises the same errors as the client of a single server."""

        async def send(node: Redis, asking: bool) -> Any:
            if asking:
                return await _asking(node, args, options)
            return await node.execute_command(*args, **options)  # type: ignore[no-untyped-call]

        return await self.routed(_key_of(args), send)

    def pipeline(self, transaction: bool = False, shard_hint: str | None = None) -> Pipeline:
        if transaction:
            raise ValueError("a pipeline of a cluster cannot be a transaction")
        return ClusterPipeline(self, self.connection_pool, self.response_callbacks, False, shard_hint)

    async def routed(self, key: str | bytes, send: Send[T], *, after: Exception | None = None) -> T:
        """Return the result of `send` at the node that owns `key`, following redirections.

        `after` is an error reply that the caller has already received. When the connection fails, `send` is repeated
        once, at the node that owns the key by then, if this client repeats commands.
        """
        slot = slot_of(key)
        node, asking = None if after is None else self._owners.get(slot), False
        failures, waits = 0, _Waits()
        for _ in range(MAX_REDIRECTIONS + waits.limit):
            error = after
            after = None
            if error is None:
                try:
                    node = node or await self.owner(slot)
                    return await send(self.client_of(node), asking)
                except (RedisConnectionError, RedisTimeoutError):
                    failures += 1
                    if not await self._may_repeat(node, failures):
                        raise
                    node, asking = None, False
                    continue
                except ResponseError as answer:
                    error = answer
            word = str(error).split(" ", 1)[0]
            if word in ("MOVED", "ASK"):
                node, asking = self._redirection(str(error), node), word == "ASK"
                if not asking:
                    self._owners[slot] = node
            elif word == "TRYAGAIN" and await waits.wait():
                continue
            else:
                if word == "CLUSTERDOWN":
                    await self.refresh()
                raise error
        raise ResponseError("TRYAGAIN too many redirections")

    async def _may_repeat(self, node: Address | None, failures: int) -> bool:
        """Note that a node did not respond. Return True if the command may be sent again."""
        if node is None or failures > 1:
            return False
        await self.note_silence(node)
        return self._repeats

    async def owner(self, slot: int) -> Address:
        """Return the node that owns the slot by the known slot map. A node that did not respond is probed first.

        Raises a RedisError when no owner is known, or the node still does not respond.
        """
        if slot not in self._owners:
            await self.refresh()
        if self._owners.get(slot) in self._silent:
            await self.refresh(without=self._owners[slot])
        if slot not in self._owners:
            raise ResponseError("CLUSTERDOWN the slot is not served")
        node = self._owners[slot]
        if node in self._silent:
            await self._clear(node)
        return node

    async def note_silence(self, node: Address) -> None:
        """Note that a node did not respond, and fetch the slot map from the other nodes."""
        self._silent.setdefault(node, None)
        await self.refresh(without=node)

    async def _clear(self, node: Address) -> None:
        """Probe a node that did not respond. Concurrent calls share one probe."""
        asking = self._silent.get(node)
        if asking is None or asking.done():
            asking = self._silent[node] = asyncio.create_task(self._probe(node))
        await asyncio.shield(asking)

    async def _probe(self, node: Address) -> None:
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await self.client_of(node).ping()
        except (RedisConnectionError, RedisTimeoutError, OSError, TimeoutError):
            raise RedisConnectionError(f"{node} does not respond") from None
        except ResponseError:
            pass  # an error reply shows that the node responds
        self._silent.pop(node, None)

    def known_owner(self, key: str | bytes) -> Address | None:
        """Return the node that owns the key by the known slot map, or None. Sends no command."""
        return self._owners.get(slot_of(key))

    async def masters(self) -> dict[Address, Redis]:
        """Return a client for each node that owns slots."""
        await self.refresh()
        return {address: self.client_of(address) for address in dict.fromkeys(self._owners.values())}

    async def nodes(self) -> list[Address]:
        """Return all known nodes, including replicas."""
        await self.refresh()
        return list(self._nodes)

    async def refresh(self, *, without: Address | None = None) -> None:
        """Fetch the slot map from any node except `without`. Concurrent calls share one fetch.

        When no node responds, the known slot map is kept. Raises NotACluster, or a RedisError when no slot map is
        known.
        """
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._refresh(without))
        await asyncio.shield(self._refreshing)

    async def aclose(self, close_connection_pool: bool | None = None) -> None:  # noqa: ARG002 - as redis-py has it
        for asking in (self._refreshing, *self._silent.values()):
            if asking is not None:
                asking.cancel()
        for address in list(self._nodes):
            await self._forget(address)

    async def _refresh(self, without: Address | None) -> None:
        known = list(self._nodes)
        random.shuffle(known)
        fault: Exception | None = None
        for address in sorted(dict.fromkeys([*known, *self._seeds]), key=self._silent.__contains__):
            if address == without:
                continue
            try:
                async with asyncio.timeout(REFRESH_SECONDS):
                    view = await self.client_of(address).execute_command(  # type: ignore[no-untyped-call]
                        "CLUSTER SLOTS"
                    )
            except ResponseError as error:
                if "cluster support disabled" in str(error):
                    raise NotACluster(f"{address} is not part of a cluster") from None
                fault = error
                continue
            except (RedisError, OSError, TimeoutError) as error:
                fault = error
                continue
            if view:
                await self._learn(view, address)
                return
        if not self._owners:
            if isinstance(fault, AuthenticationError):
                raise fault
            raise RedisConnectionError("no node of the cluster responds") from fault

    async def _learn(self, view: Iterable[Any], asked: Address) -> None:
        owners: dict[int, Address] = {}
        nodes: set[Address] = set()
        for first, last, *servers in view:
            addresses = [Address(_text(one[0]) or asked.host, int(one[1])) for one in servers]
            nodes.update(addresses)
            owners |= dict.fromkeys(range(int(first), int(last) + 1), addresses[0])
        replaced = set(self._owners.values()) - set(owners.values())
        self._owners = owners
        for address in nodes:
            self.client_of(address)
        for address in replaced & set(self._nodes):  # end calls that wait for a reply from a node without slots
            self._silent.pop(address, None)
            await self._nodes[address].connection_pool.disconnect()
        for address in [one for one in self._nodes if one not in nodes]:
            await self._forget(address)

    def client_of(self, address: Address) -> Redis:
        """Return the client of a node."""
        if address not in self._nodes:
            self._nodes[address] = self._make_client(address)
        return self._nodes[address]

    async def _forget(self, address: Address) -> None:
        self._silent.pop(address, None)
        client = self._nodes.pop(address)
        await client.aclose()
        await client.connection_pool.disconnect()

    def _redirection(self, text: str, asked: Address | None) -> Address:
        """Return the address in a redirection such as `MOVED 3999 127.0.0.1:6381`.

        Without a host it is the host of the node that was asked.
        """
        host, _, port = text.split(" ")[2].rpartition(":")
        return Address(host or (asked.host if asked else ""), int(port))


class ClusterPipeline(Pipeline):
    """A pipeline that sends each node's commands in one round trip, to all nodes concurrently."""

    def __init__(self, client: ClusterClient, *args: Any) -> None:
        super().__init__(*args)
        self._client = client

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        stack, self.command_stack = self.command_stack, []
        replies: list[Any] = [None] * len(stack)
        groups: dict[Address, list[int]] = {}
        for index, (args, _) in enumerate(stack):
            groups.setdefault(await self._client.owner(slot_of(_key_of(args))), []).append(index)
        await asyncio.gather(*(self._execute_at(node, stack, indexes, replies) for node, indexes in groups.items()))
        if raise_on_error:
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
        return replies

    async def _execute_at(self, node: Address, stack: Any, indexes: list[int], replies: list[Any]) -> None:
        """Execute the commands of one node. Each command that is redirected or fails to connect is repeated alone."""
        pipeline = self._client.client_of(node).pipeline(transaction=False)
        for index in indexes:
            args, options = stack[index]
            pipeline.execute_command(*args, **options)
        try:
            found = await pipeline.execute(raise_on_error=False)
        except (RedisConnectionError, RedisTimeoutError):
            await self._client.note_silence(node)
            found = [None] * len(indexes)
            failed = True
        else:
            failed = False
        for index, reply in zip(indexes, found, strict=True):
            if failed or is_redirection(reply):
                args, options = stack[index]
                try:
                    reply = await self._client.execute_command(*args, **options)
                except ResponseError as error:
                    reply = error
            replies[index] = reply


class _Waits:
    """Short waits with a total of PATIENCE_SECONDS."""

    limit = 16

    def __init__(self) -> None:
        self._used = 0.0
        self._count = 0

    async def wait(self) -> bool:
        if self._used >= PATIENCE_SECONDS:
            return False
        self._count += 1
        seconds = WAITS.delay_after(self._count)
        await asyncio.sleep(seconds)
        self._used += seconds
        return True


def is_redirection(reply: Any) -> bool:
    """Return True if a reply says to send the command to another node, or to retry it later."""
    return isinstance(reply, ResponseError) and str(reply).startswith(("MOVED ", "ASK ", "TRYAGAIN", "CLUSTERDOWN"))


def slot_of(key: str | bytes) -> int:
    """Return the slot of a key. All keys of the store have one of a few hash tags, so slots are cached by tag."""
    raw = key.encode() if isinstance(key, str) else key
    start = raw.find(b"{")
    end = raw.find(b"}", start + 1)
    return _slot_of_tag(raw[start + 1 : end]) if 0 <= start < end - 1 else int(key_slot(raw))


@lru_cache(maxsize=4096)
def _slot_of_tag(tag: bytes) -> int:
    return int(key_slot(tag))


def _key_of(args: Sequence[Any]) -> str | bytes:
    """Return the first key of a command. Knows the commands that the store uses."""
    command = str(args[0]).upper()
    if command in ("EVALSHA", "EVAL"):
        return args[3]  # type: ignore[no-any-return]
    if command in ("XREADGROUP", "XREAD"):
        streams = next(index for index, word in enumerate(args) if word in (b"STREAMS", "STREAMS"))
        return args[streams + 1]  # type: ignore[no-any-return]
    if command in _SECOND_WORD:
        return args[2]  # type: ignore[no-any-return]
    if command in _WITHOUT_KEY:
        return HOME_KEY
    return args[1]  # type: ignore[no-any-return]


async def _asking(node: Redis, args: Sequence[Any], options: dict[str, Any]) -> Any:
    pipeline = node.pipeline(transaction=False)
    pipeline.execute_command("ASKING")
    pipeline.execute_command(*args, **options)
    _, reply = await pipeline.execute(raise_on_error=False)
    if isinstance(reply, Exception):
        raise reply
    return reply


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")
