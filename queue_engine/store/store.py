"""The store as a whole: connects to it, checks that it can be used, and provides its parts."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from redis.asyncio import Redis

from queue_engine.aio import retry_while_unavailable
from queue_engine.config.durability import Durability
from queue_engine.config.store_url import Topology, parse_store_url
from queue_engine.crypto.sealing import Sealer
from queue_engine.domain.data_formats import FIRST_FORMAT, format_refusal
from queue_engine.domain.errors import EngineError, StoreUnavailable
from queue_engine.domain.system import SystemFacts
from queue_engine.domain.vulnerabilities import known_vulnerabilities
from queue_engine.observability import metrics
from queue_engine.store import keys, migrations
from queue_engine.store.agent_tokens import AgentTokenStore
from queue_engine.store.api_keys import ApiKeyStore
from queue_engine.store.audit import AuditStore
from queue_engine.store.calls import Scripts
from queue_engine.store.cancel_requests import CancelRequests
from queue_engine.store.checks import CheckStore
from queue_engine.store.codec import AgentSpecs, TaskSpecs
from queue_engine.store.credentials import CredentialStore
from queue_engine.store.deletions import DeletionStore
from queue_engine.store.deliveries import DeliveryStore
from queue_engine.store.endpoint_logs import EndpointLogs
from queue_engine.store.endpoints import EndpointStore
from queue_engine.store.failures import FailureIndex
from queue_engine.store.given_up import GivenUpBuild, GivenUpIndex
from queue_engine.store.header_sealing import HeaderSealing
from queue_engine.store.leadership import Leadership
from queue_engine.store.logs import LogStore
from queue_engine.store.migrations.migration import TASKS_PER_PAGE, Migration, Records
from queue_engine.store.migrations.migrator import Migrator, progress_from
from queue_engine.store.one_tenant import OneTenant
from queue_engine.store.operation_steps import OperationSteps
from queue_engine.store.operations import OperationStore
from queue_engine.store.outbox.outbox import DEFAULT_MAX_AGE_MS, Outbox
from queue_engine.store.platform_note import PlatformNote
from queue_engine.store.processes import Facts, Processes, no_facts, process_name
from queue_engine.store.queue import TaskQueue
from queue_engine.store.recoveries import RecoveryStore
from queue_engine.store.redis.client import check_tls_files, close, connect, store_errors, unavailability
from queue_engine.store.redis.cluster import ClusterClient, NotACluster, slot_of
from queue_engine.store.redis.sentinel import MasterPool
from queue_engine.store.rotation import Rotation
from queue_engine.store.script_runner import STORE_DURABILITY, ScriptRunner, load_missing
from queue_engine.store.series import SeriesStore
from queue_engine.store.server_facts import facts_of
from queue_engine.store.sessions import SessionStore
from queue_engine.store.standings import StandingStore
from queue_engine.store.sweeper import Sweeper
from queue_engine.store.task_scan import TaskScan
from queue_engine.store.task_watch import TaskWatch
from queue_engine.store.tasks import TaskStore
from queue_engine.store.tenants import TenantStore
from queue_engine.store.usage import UsageStore
from queue_engine.store.webhook_tests import WebhookTests
from queue_engine.store.workers import WorkerStore

log = logging.getLogger(__name__)

MIN_REDIS = (7, 0)
MIN_VALKEY = (7, 2)
MIN_WAITAOF = (7, 2)
"""First version of both servers with WAITAOF, which waits until writes are on disk."""
AGENT_KEPT_SECONDS = 10.0
"""Time after which an agent closes a connection that it does not use. It is longer than the time between two
heartbeats, so that an agent with tasks does not connect for each."""
MAX_WAITING_ENDPOINTS = 2000
"""Limit of the endpoints with waiting agents that one process serves, each with a connection to the store. Agents of
further endpoints get the error that the store is unavailable, and retry. `engine/agents/claims.py` limits the number of
each tenant."""
PROBE_KEY = "{qe}:probe"


class UnfitStore(EngineError):
    """The store must not be used in its current state or configuration. The message names the necessary change."""


@dataclass(frozen=True)
class ServerInfo:
    """Name, version and settings of the connected server."""

    name: str
    """`redis` or `valkey`."""
    version: str
    eviction_policy: str
    mode: str = "standalone"
    """`standalone`, `sentinel` or `cluster`."""
    appends_to_file: bool = True
    """True if the server writes an append-only file."""

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class Store:
    """A process's access to Redis or Valkey. Call `close` at the end.

    The first call connects. `max_connections` limits the connections for commands; blocking reads, heartbeats and logs
    have separate connections, so that none of these waits for another. An agent takes the connections for heartbeats
    and logs from those for commands, of which it never uses more than a few at the same time, so that an idle one has
    two: one for commands and one for the read that waits. It closes those that it has not used for
    `agent_kept_seconds`. It may use data whose format is one newer than its own. It loads no scripts and changes no
    metadata, because its user of the store may not. `endpoint_keys` are the keys of its endpoint, if it does not have
    the secret key. `steps` are the known migrations: those of this version, unless a test passes others.
    """

    def __init__(
        self,
        url: str,
        sealer: Sealer,
        *,
        partitions: int = 16,
        max_connections: int = 32,
        durability: Durability = STORE_DURABILITY,
        is_agent: bool = False,
        endpoint_keys: Sealer | None = None,
        agent_kept_seconds: float = AGENT_KEPT_SECONDS,
        steps: Sequence[Migration] | None = None,
    ) -> None:
        self.url = url
        self.sealer = sealer
        self.partitions = keys.Partitions(partitions)
        self._address = parse_store_url(url)
        self._durability = durability
        self._is_agent = is_agent
        self._endpoint_keys = endpoint_keys
        self._steps = migrations.MIGRATIONS if steps is None else steps
        self._process: str | None = None
        """The name in this process's note; None when the process does not note itself."""
        self._facts: Facts = no_facts
        kept_seconds = agent_kept_seconds if is_agent else None
        self.redis = connect(self._address, max_connections=max_connections, kept_seconds=kept_seconds)
        # In a cluster a blocking read waits on each partition separately. An agent's read that is repeated after a lost
        # reply would claim other tasks; TaskQueue claims the same ones by a script.
        self._blocking = connect(
            self._address,
            max_connections=4 + partitions,
            blocking=True,
            repeats=not is_agent,
            kept_seconds=kept_seconds,
        )
        # For the queues of agents that call this process, one read for each endpoint whose agents wait.
        self._waits = connect(self._address, max_connections=MAX_WAITING_ENDPOINTS, blocking=True, repeats=False)
        self._beats = self.redis if is_agent else connect(self._address, max_connections=2)
        self._logs = self.redis if is_agent else connect(self._address, max_connections=max_connections)
        clients = (self.redis, self._blocking, self._waits, self._beats, self._logs)
        self._clients = tuple(dict.fromkeys(clients))
        self._runner = ScriptRunner(self.redis, durability, loads=not is_agent)
        self.scripts = Scripts(self._runner.submit)
        self._beating = self._scripts_over(self._beats)
        self.tasks = TaskStore(self.redis, self.scripts, self.partitions, sealer)
        self.failures = FailureIndex(self.redis, self.scripts, self.partitions)
        self.task_scan = TaskScan(self.redis, self.scripts, self.partitions, TaskSpecs(sealer))
        self.deliveries = DeliveryStore(self.redis, self.scripts, self.partitions)
        self.given_up = GivenUpIndex(self.redis, self.scripts, self.partitions, self.tasks)
        self.recoveries = RecoveryStore(self.redis, self.scripts, self.partitions)
        self.operations = OperationStore(self.redis, self.scripts, self.partitions)
        self.operation_steps = OperationSteps(self.redis, self.scripts, self.partitions, self.task_scan)
        self.sweeper = Sweeper(self.redis, self.scripts, self.partitions)
        self.endpoints = EndpointStore(self.redis, self.scripts, self.partitions, sealer)
        self.checks = CheckStore(self.redis, self.scripts, self.partitions)
        self.deletions = DeletionStore(self.redis, self.scripts, self.partitions)
        self.workers = WorkerStore(self.redis, self.scripts, self.partitions)
        self.credentials = CredentialStore(self.redis, self.scripts, sealer, self.endpoints)
        self.rotation = Rotation(self.redis, self.partitions, sealer, self.credentials, self.endpoints, self.tasks)
        self.api_keys = ApiKeyStore(self.redis, self.scripts)
        self.agent_tokens = AgentTokenStore(self.redis, self.scripts, self.partitions)
        self.sessions = SessionStore(self.redis, self.scripts, self.api_keys)
        self.audit = AuditStore(self.redis, self.scripts)
        self.tenants = TenantStore(self.redis, self.scripts, self.partitions)
        self.usage = UsageStore(self.scripts, self.partitions, self.endpoints.index)
        self.series = SeriesStore(self.redis, self.scripts, self.partitions)
        self.leadership = Leadership(self.scripts)
        self.one_tenant = OneTenant(self.redis)
        self.platform_note = PlatformNote(self.redis)
        self.standings = StandingStore(self.redis)
        # Over the connections that may be many: an API process waits for a test with one of its own.
        self.logs = LogStore(self._logs, self._scripts_over(self._logs), self.partitions)
        self.endpoint_logs = EndpointLogs(self._logs, self.partitions, self.now_ms)
        self.header_sealing = HeaderSealing(self.redis, self.tasks)
        self.processes = Processes(self.redis, self.data_format)
        self.webhook_tests = WebhookTests(self.redis, self._waits, self.scripts, self.processes, sealer)
        self.cancel_requests = CancelRequests(self._blocking)
        self.task_watch = TaskWatch(self.redis, self.scripts, self.partitions, self._runner.confirm)

    @property
    def data_format(self) -> int:
        """The number of the data format that this version writes."""
        return max((step.number for step in self._steps), default=FIRST_FORMAT)

    def migrator(self, *, page_size: int = TASKS_PER_PAGE) -> Migrator:
        """Return the migrator that converts the data to this version's format."""
        records = Records(self.redis, self.partitions, self.endpoints.ids, page_size=page_size)
        return Migrator(self.redis, records, self.processes, self._steps)

    def given_up_build(self, *, page_size: int = TASKS_PER_PAGE) -> GivenUpBuild:
        """Return the build of the index of given-up deliveries over tasks from before the index."""
        records = Records(self.redis, self.partitions, self.endpoints.ids, page_size=page_size)
        return GivenUpBuild(self.redis, records, self.given_up)

    @asynccontextmanager
    async def noted(self, role: str, facts: Facts = no_facts) -> AsyncIterator[None]:
        """Note during the block that this process runs, so that no migration to a format unknown to it begins."""
        self._process, self._facts = process_name(role), facts
        async with self.processes.noted(self._process, facts):
            yield

    def queue(self, *, endpoint_id: str, worker_id: str, lease_ms: int, is_served: bool = False) -> TaskQueue:
        """Return the queue of an endpoint, for one agent.

        With `is_served` it is for agents that call this process, whose blocking reads have connections of their own.
        """
        return TaskQueue(
            self.scripts,
            self._beating,
            self._waits if is_served else self._blocking,
            self.partitions,
            AgentSpecs(self._endpoint_keys or self.sealer.for_endpoint(endpoint_id), self.sealer),
            endpoint_id=endpoint_id,
            worker_id=worker_id,
            lease_ms=lease_ms,
            is_served=is_served,
        )

    def _scripts_over(self, redis: Redis) -> Scripts:
        return Scripts(ScriptRunner(redis, loads=not self._is_agent).submit)

    def outbox(self, process_id: str | None = None, *, max_age_ms: int = DEFAULT_MAX_AGE_MS) -> Outbox:
        """Return the webhook outbox, for one delivery process."""
        name = process_id or uuid.uuid4().hex
        return Outbox(
            self.redis, self.scripts, self._blocking, self.partitions, self.sealer, name, max_age_ms=max_age_ms
        )

    async def prepare(self) -> ServerInfo:
        """Check that this process can use the store, and record the values that must not change for the store's life.

        Load the scripts too. An agent only checks. In a cluster every master is checked. Raises UnfitStore when a
        version, an eviction policy, the data or the secret key do not fit, or a server cannot provide the configured
        durability. Raises StoreUnavailable when a server does not respond; its reason has the addresses of the URL,
        without the credentials.
        """
        self._check_tls_files()
        try:
            return await self._prepare()
        except StoreUnavailable as error:
            where = ", ".join(map(str, self._address.addresses))
            reason = f"{error.reason} at {where} (QUEUE_ENGINE_REDIS_URL)"
            raise StoreUnavailable(reason, retry_after_seconds=error.retry_after_seconds) from error

    async def _prepare(self) -> ServerInfo:
        async with store_errors():
            servers = await self.servers()
            for where, info in servers.items():
                self._check_server(info, f" ({where})" if len(servers) > 1 else "")
            await self._check_meta()
            await self._load_scripts()
            for warning in {known_vulnerabilities(info.name, info.version) for info in servers.values()} - {None}:
                log.warning("%s", warning)
            info = next(iter(servers.values()))
            metrics.note_build(str(info))
            return info

    async def _load_scripts(self) -> None:
        """Load the scripts that a server does not have, also for the agents."""
        if not self._is_agent:
            await asyncio.gather(*map(load_missing, (await self._masters()).values()))

    async def servers(self) -> dict[str, ServerInfo]:
        """Return the facts of the server, or of each master of the cluster, by address."""
        return {where: await _server_info(client) for where, client in (await self._masters()).items()}

    async def _masters(self) -> dict[str, Redis]:
        """Return a client for the server, or for each master of the cluster, by address."""
        if not isinstance(self.redis, ClusterClient):
            return {"": self.redis}
        try:
            masters = await self.redis.masters()
        except NotACluster as error:
            raise UnfitStore(f"{error}: use redis:// or redis+sentinel:// instead of redis+cluster://") from None
        return {str(address): client for address, client in masters.items()}

    async def server(self) -> ServerInfo:
        """Return the facts of the server; in a cluster, of one of the masters."""
        return next(iter((await self.servers()).values()))

    async def ports(self) -> frozenset[int]:
        """Return the ports of the servers that a cluster or sentinels name. Waits while the store is unavailable."""
        return await retry_while_unavailable(self._ports, passing=_reason, what="the store")

    async def _ports(self) -> frozenset[int]:
        async with store_errors():
            if isinstance(self.redis, ClusterClient):
                return frozenset(address.port for address in await self.redis.nodes())
            pool = self.redis.connection_pool
            return frozenset({(await pool.get_master_address()).port} if isinstance(pool, MasterPool) else ())

    async def now_ms(self, endpoint_id: str | None = None) -> int:
        """Return the store's clock in epoch milliseconds; in a cluster, the clock of the endpoint's server."""
        client = self.redis
        if isinstance(client, ClusterClient) and endpoint_id is not None:
            client = client.client_of(await client.owner(slot_of(self.partitions.of(endpoint_id).counts)))
        seconds, micros = await client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    async def wait_until_ready(self) -> ServerInfo:
        """Call `prepare` until the store responds, and return its result. Raises UnfitStore."""
        return await retry_while_unavailable(self.prepare, passing=_reason, what="the store")

    async def check_ready(self) -> None:
        """Check as `check_writable` does, and that no server evicts keys since the start. Raises StoreUnavailable."""
        await self.check_writable()
        async with store_errors():
            for where, client in (await self._masters()).items():
                memory = await client.info("memory")  # CONFIG is forbidden on some managed stores
                fault = _eviction_fault(str(memory.get("maxmemory_policy", "")))
                if fault is not None:
                    raise StoreUnavailable(f"it {fault}" + (f" ({where})" if where else ""))

    async def has_one_tenant(self) -> bool:
        """Return True if there was never a second tenant."""
        return await self.api_keys.has_one_tenant()

    async def max_memory(self) -> int:
        """Return the memory limit of the server in bytes, of the smallest master of a cluster; 0 means no limit."""
        facts = [await client.info("memory") for client in (await self._masters()).values()]
        return min(int(memory.get("maxmemory", 0)) for memory in facts)

    async def system_facts(self) -> SystemFacts:
        """Return the facts of the store's servers and of the processes that use it. Raises StoreUnavailable."""
        async with store_errors():
            masters = await self._masters()
            servers = await asyncio.gather(*(facts_of(where, client) for where, client in masters.items()))
            processes, leader = await self.processes.running(), await self.redis.get(keys.LEADER)
            return SystemFacts(
                await self.now_ms(),
                servers,
                processes,
                None if leader is None else leader.decode(),
                await self.platform_note.read(),
            )

    async def max_clients(self) -> int | None:
        """Return the maximum number of connections to the server, to the smallest master of a cluster.

        None when a server does not tell it.
        """
        facts = [await client.info("clients") for client in (await self._masters()).values()]
        limits = [int(clients["maxclients"]) for clients in facts if "maxclients" in clients]
        return min(limits, default=None)

    async def check_writable(self) -> None:
        """Write to every server of the store. Raises StoreUnavailable when a server does not respond or refuses writes.

        A server that does not provide the configured durability counts as refusing.
        """
        async with store_errors():
            await asyncio.gather(*(self._check_writable(key) for key in await self._probe_keys()))

    async def check_records(self, endpoint_id: str) -> None:
        """Check that the endpoint's server takes the writes that begin and end tasks, also at its memory limit.

        Raises StoreUnavailable.
        """
        async with store_errors():
            await self.scripts.mark(mark=f"{self.partitions.of(endpoint_id).partition.tag}:mark")

    async def _check_writable(self, key: str) -> None:
        await self.redis.set(key, "1", px=60_000)
        await self._runner.confirm(key)

    async def _probe_keys(self) -> list[str]:
        """Return a key on each server that has data of the engine."""
        if not isinstance(self.redis, ClusterClient):
            return [PROBE_KEY]
        probes = [PROBE_KEY, *(f"{partition.tag}:probe" for partition in self.partitions.all())]
        owners = [await self.redis.owner(slot_of(key)) for key in probes]
        return list(dict(zip(reversed(owners), reversed(probes), strict=True)).values())

    async def instance_id(self) -> str:
        """Return the random id of this store's data. It is made by the first call."""
        await self.redis.hsetnx(keys.META, keys.INSTANCE, uuid.uuid4().hex)  # type: ignore[misc]
        found: bytes = await self.redis.hget(keys.META, keys.INSTANCE)  # type: ignore[misc]
        return found.decode()

    async def renew_instance_id(self) -> str | None:
        """Replace the id of this store's data; return the new one. None if a controller leads, which has the old one.

        The workers of the old id are then those of another installation.
        """
        if await self.redis.exists(keys.LEADER):
            return None
        renewed = uuid.uuid4().hex
        await self.redis.hset(keys.META, keys.INSTANCE, renewed)  # type: ignore[misc]
        return renewed

    async def close(self) -> None:
        """Close all connections. Safe to call twice."""
        await self.task_watch.aclose()
        for client in self._clients:
            await close(client)

    def _check_tls_files(self) -> None:
        try:
            check_tls_files(self._address)
        except ValueError as error:
            raise UnfitStore(f"the store's URL: {error}") from None

    def _check_server(self, info: ServerInfo, where: str) -> None:
        _check_mode(info, self._address.topology)
        _check_version(info, where)
        if (fault := _eviction_fault(info.eviction_policy)) is not None:
            raise UnfitStore(f"the store{where} {fault}")
        if not self._durability.disk:
            return
        if _version(info) < MIN_WAITAOF:
            raise UnfitStore(
                f"{info}{where} cannot confirm writes on disk, as QUEUE_ENGINE_DURABILITY requires: Redis or Valkey "
                f"{_dotted(MIN_WAITAOF)} or newer is needed"
            )
        if not info.appends_to_file:
            raise UnfitStore(
                f"the store{where} has no append-only file, as QUEUE_ENGINE_DURABILITY requires: set appendonly yes"
            )

    async def _check_meta(self) -> None:
        await self._check_format()
        await self._must_stay(
            "partitions", str(self.partitions.count), "it was set up with {found} partitions, not {expected}"
        )
        if self.sealer.has_key:
            await self._check_key(await self._noted(keys.FINGERPRINT, self.sealer.fingerprint))

    async def _check_format(self) -> None:
        """Check that this version may use the data; a store without data gets the newest format."""
        if self._process is not None:  # note first, so that a migration that begins after the check finds this process
            await self.processes.note(self._process, self._facts)
        found = await self._noted(keys.FORMAT, str(self.data_format))
        progress = progress_from(await self.redis.hget(keys.META, keys.MIGRATION))  # type: ignore[misc]
        refusal = format_refusal(
            found, self.data_format, migrates_to=progress.to if progress else None, is_agent=self._is_agent
        )
        if refusal is not None:
            raise UnfitStore(f"the store does not fit: {refusal}")

    async def _check_key(self, stores_key: str) -> None:
        """Check that the store's secret key is known. If this process seals with a newer key, note that key."""
        if not self.sealer.knows(stores_key):
            raise UnfitStore(
                "the store does not fit: its secrets were sealed with another secret key: set QUEUE_ENGINE_SECRET_KEY, "
                "or QUEUE_ENGINE_SECRET_KEY_PREVIOUS, to the one used before"
            )
        if stores_key != self.sealer.fingerprint and not self._is_agent:
            await self.redis.hset(keys.META, keys.NEXT_FINGERPRINT, self.sealer.fingerprint)  # type: ignore[misc]

    async def check_has_key(self) -> None:
        """Raise UnfitStore when secrets of the store are sealed and this process has no secret key."""
        if not self.sealer.has_key and await self.redis.hexists(keys.META, keys.FINGERPRINT):  # type: ignore[misc]
            raise UnfitStore(
                "the store does not fit: its secrets are sealed with a secret key and this process has none: set "
                "QUEUE_ENGINE_SECRET_KEY"
            )

    async def _must_stay(self, field: str, expected: str, message: str) -> None:
        found = await self._noted(field, expected)
        if found != expected:
            raise UnfitStore("the store does not fit: " + message.format(found=found, expected=expected))

    async def _noted(self, field: str, first: str) -> str:
        """Return the value of a field of the store's metadata, `first` if it is missing. An agent does not set it."""
        if not self._is_agent:
            await self.redis.hsetnx(keys.META, field, first)  # type: ignore[misc]
        found: bytes | None = await self.redis.hget(keys.META, field)  # type: ignore[misc]
        return first if found is None else found.decode()


def _reason(error: BaseException) -> str | None:
    return error.reason if isinstance(error, StoreUnavailable) else unavailability(error)


async def _server_info(client: Redis) -> ServerInfo:
    info = await client.info("server")
    name = "valkey" if info.get("server_name") == "valkey" else "redis"
    version = str(info.get("valkey_version") or info.get("redis_version") or "0")
    mode = str(info.get("server_mode") or info.get("redis_mode") or "standalone")
    if mode == "sentinel":
        return ServerInfo(name, version, "", mode)
    memory, persistence = await client.info("memory"), await client.info("persistence")
    return ServerInfo(
        name, version, str(memory.get("maxmemory_policy", "")), mode, persistence.get("aof_enabled") in (1, "1")
    )


def _eviction_fault(policy: str) -> str | None:
    """Return the problem with a server's eviction policy; None when it evicts no keys or the policy is unknown."""
    if policy in ("noeviction", ""):
        return None
    return f"evicts keys (maxmemory-policy {policy}), so accepted tasks would be lost: set maxmemory-policy noeviction"


def _check_mode(info: ServerInfo, topology: Topology) -> None:
    """Check that the form of the URL fits the kind of server that responds. Raises UnfitStore."""
    if info.mode == "sentinel":
        raise UnfitStore("the server is a sentinel: use redis+sentinel://host:port,…/SERVICE as the store's URL")
    if info.mode == "cluster" and topology is not Topology.CLUSTER:
        raise UnfitStore("the server belongs to a cluster: use redis+cluster://host:port,… as the store's URL")


def _check_version(info: ServerInfo, where: str = "") -> None:
    minimum = MIN_VALKEY if info.name == "valkey" else MIN_REDIS
    if _version(info) < minimum:
        raise UnfitStore(f"{info}{where} is too old: {info.name} {_dotted(minimum)} or newer is needed")


def _version(info: ServerInfo) -> tuple[int, ...]:
    return tuple(int(part) for part in info.version.split(".")[:2] if part.isdigit())


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
