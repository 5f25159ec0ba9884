"""The store as a whole: open it, check that it is one we can work with, and hand out its parts."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from redis.asyncio import Redis
from redis.exceptions import RedisError

from queue_engine import metrics
from queue_engine.domain.errors import EngineError, StoreUnavailable
from queue_engine.runtime.loops import persist
from queue_engine.runtime.sealing import Sealer
from queue_engine.store import keys
from queue_engine.store.api_keys import ApiKeyStore
from queue_engine.store.claims import ClaimStore
from queue_engine.store.client import connect, store_errors, unavailability
from queue_engine.store.credentials import CredentialStore
from queue_engine.store.deliveries import DEFAULT_MOST_AGE_MS, Outbox
from queue_engine.store.endpoints import EndpointStore
from queue_engine.store.leader import Leadership
from queue_engine.store.logs import LogStore
from queue_engine.store.rotation import Rotation
from queue_engine.store.scripts import ScriptRunner
from queue_engine.store.tasks import TaskStore
from queue_engine.store.workers import WorkerStore

DATA_FORMAT = 1
"""Version of the data model. A store of another version is refused."""
MIN_REDIS = (7, 0)
MIN_VALKEY = (7, 2)


class UnfitStore(EngineError):
    """The store is there and must not be used as it is; the message says what to change."""


@dataclass(frozen=True)
class ServerInfo:
    """Which server answers."""

    name: str
    """`redis` or `valkey`."""
    version: str
    eviction_policy: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class Store:
    """One process's way to Redis or Valkey. `close` it at the end.

    No connection is made before the first call. `max_connections` bounds those for commands; blocking reads,
    heartbeats and logs have their own, so that none waits for another.
    """

    def __init__(self, url: str, sealer: Sealer, *, partitions: int = 16, max_connections: int = 32) -> None:
        self.url = url
        self.sealer = sealer
        self.partitions = keys.Partitions(partitions)
        self.redis = connect(url, max_connections=max_connections)
        self._blocking = connect(url, max_connections=4, blocking=True)
        self._beats = connect(url, max_connections=2)
        self._logs = connect(url, max_connections=max_connections)
        self._clients: tuple[Redis, ...] = (self.redis, self._blocking, self._beats, self._logs)
        self.scripts = ScriptRunner(self.redis)
        self.tasks = TaskStore(self.redis, self.scripts, self.partitions, sealer)
        self.endpoints = EndpointStore(self.redis, self.scripts, self.partitions, sealer)
        self.workers = WorkerStore(self.redis, self.scripts, self.partitions)
        self.credentials = CredentialStore(self.redis, self.scripts, sealer, self.endpoints)
        self.rotation = Rotation(self.redis, self.partitions, sealer, self.credentials, self.endpoints, self.tasks)
        self.api_keys = ApiKeyStore(self.redis)
        self.leadership = Leadership(self.scripts)
        self.logs = LogStore(self._logs, ScriptRunner(self._logs), self.partitions)

    def claims(self, *, endpoint_id: str, worker_id: str, lease_ms: int) -> ClaimStore:
        """The queue of one endpoint for one agent."""
        return ClaimStore(
            self.scripts,
            ScriptRunner(self._beats),
            self._blocking,
            self.partitions,
            self.sealer,
            endpoint_id=endpoint_id,
            worker_id=worker_id,
            lease_ms=lease_ms,
        )

    def outbox(self, process_id: str | None = None, *, most_age_ms: int = DEFAULT_MOST_AGE_MS) -> Outbox:
        """The webhook outbox for one delivery process."""
        name = process_id or uuid.uuid4().hex
        return Outbox(
            self.redis, self.scripts, self._blocking, self.partitions, self.sealer, name, most_age_ms=most_age_ms
        )

    async def prepare(self) -> ServerInfo:
        """Check that this store can be used by this process, and note what must stay the same for its life.

        Raises UnfitStore when its version, its eviction policy, its data or the secret key do not fit, StoreUnavailable
        when it does not answer.
        """
        async with store_errors():
            info = await self.server()
            _check_version(info)
            if info.eviction_policy not in ("noeviction", ""):
                raise UnfitStore(
                    f"the store evicts keys (maxmemory-policy {info.eviction_policy}), so acknowledged tasks would "
                    "vanish: set maxmemory-policy noeviction"
                )
            await self._check_meta()
            metrics.note_build(str(info))
            return info

    async def server(self) -> ServerInfo:
        """Name, version and eviction policy of the server."""
        info = await self.redis.info("server")
        name = "valkey" if info.get("server_name") == "valkey" else "redis"
        version = str(info.get("valkey_version") or info.get("redis_version") or "0")
        memory = await self.redis.info("memory")
        return ServerInfo(name, version, str(memory.get("maxmemory_policy", "")))

    async def now_ms(self) -> int:
        """The store's clock, epoch milliseconds."""
        seconds, micros = await self.redis.time()
        return int(seconds) * 1000 + int(micros) // 1000

    async def wait_until_ready(self) -> ServerInfo:
        """`prepare`, waiting for as long as the store does not answer. Raises UnfitStore."""
        return await persist(self.prepare, passing=_reason, what="the store")

    async def check_writable(self) -> None:
        """Write and read back: raises StoreUnavailable when the store does not answer or refuses writes."""
        async with store_errors():
            await self.redis.set("{qe}:probe", "1", px=60_000)

    async def instance_id(self) -> str:
        """A random id of this store's data, made once."""
        await self.redis.hsetnx(keys.META, "instance", uuid.uuid4().hex)  # type: ignore[misc]
        found: bytes = await self.redis.hget(keys.META, "instance")  # type: ignore[misc]
        return found.decode()

    async def close(self) -> None:
        """Close all connections. Safe to call twice."""
        for client in self._clients:
            try:
                await client.aclose()
                await client.connection_pool.disconnect()
            except (RedisError, OSError):  # it is going away in any case
                continue

    async def _check_meta(self) -> None:
        await self._must_stay(
            "format", str(DATA_FORMAT), "it holds data of format {found}, this version writes {wanted}"
        )
        await self._must_stay(
            "partitions", str(self.partitions.count), "it was set up with {found} partitions, not {wanted}"
        )
        if self.sealer.has_key and not self.sealer.knows(await self._noted("secret_key", self.sealer.fingerprint)):
            raise UnfitStore(
                "the store does not fit: its secrets were sealed with another secret key: set QUEUE_ENGINE_SECRET_KEY, "
                "or QUEUE_ENGINE_SECRET_KEY_PREVIOUS, to the one used before"
            )

    async def _must_stay(self, field: str, wanted: str, message: str) -> None:
        found = await self._noted(field, wanted)
        if found != wanted:
            raise UnfitStore("the store does not fit: " + message.format(found=found, wanted=wanted))

    async def _noted(self, field: str, first: str) -> str:
        """What the store has in this field of its meta data; `first` when nothing was there."""
        await self.redis.hsetnx(keys.META, field, first)  # type: ignore[misc]
        found: bytes = await self.redis.hget(keys.META, field)  # type: ignore[misc]
        return found.decode()


def _reason(error: BaseException) -> str | None:
    return error.reason if isinstance(error, StoreUnavailable) else unavailability(error)


def _check_version(info: ServerInfo) -> None:
    minimum = MIN_VALKEY if info.name == "valkey" else MIN_REDIS
    parts = tuple(int(part) for part in info.version.split(".")[:2] if part.isdigit())
    if parts < minimum:
        raise UnfitStore(f"{info} is too old: {info.name} {'.'.join(map(str, minimum))} or newer is needed")
