"""Real stores of several servers: a master with replicas and sentinels, and a cluster.

Both keep their ports while servers are killed and started again. All functions are synchronous: an asynchronous test
runs long ones, like `migrate_slot`, in a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from redis import Redis
from redis.exceptions import RedisError

from tests.ports import free_port
from tests.servers import StoreServer, StoreServerError
from tests.waiting import wait_until

READY_SECONDS = 60.0
FAIL_OVER_SECONDS = 60.0
QUICK_DETECTION_MS = 1000
"""Silence after which sentinels treat a server as dead, while a test has killed or frozen the master."""
SLOW_DETECTION_MS = 60_000
"""The same at all other times, because a server that waits for a processor for a second is not dead. The sentinels
would replace a master that still writes and still has a replica, and lose what that replica has acknowledged."""
SLOTS = 16384
HOST = "127.0.0.1"
_QUICK_REPLICATION = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1", "--hz", "500")


class SentinelServer(StoreServer):
    """A sentinel. Its configuration file is written at the first start; the sentinel itself keeps it up to date."""

    def __init__(self, binary: Path, directory: Path, *, config: str) -> None:
        super().__init__(binary, directory)
        self._config = config

    def _arguments(self, port: int) -> list[str]:
        file = self.directory / "sentinel.conf"
        if not file.exists():
            file.write_text(f"port {port}\nbind {HOST}\ndir {self.directory}\n{self._config}")
        return [str(file), "--sentinel"]

    def _ready_or_ended(self, port: int) -> bool:
        if not self.running:
            return True
        try:
            with client_of(port) as client:
                return int(client.info("server")["process_id"]) == self.pid
        except RedisError:
            return False


class SentinelSetup:
    """A master, its replicas, and sentinels that watch them. Use it as a context manager.

    `options` are for the master and the replicas alike. The sentinels replace the master in `fail_over` only; a new one
    takes writes about three seconds after the old one has died.
    """

    def __init__(
        self,
        binary: Path,
        directory: Path,
        *,
        service: str = "main",
        replicas: int = 2,
        sentinels: int = 3,
        options: Sequence[str] = (),
        sentinel_config: str = "",
    ) -> None:
        self.binary = binary
        self.directory = directory
        self.service = service
        self.servers: list[StoreServer] = []
        """The first master and the replicas; who is the master may change, the list does not."""
        self.sentinels: list[SentinelServer] = []
        self._counts = replicas, sentinels
        self._options = tuple(options)
        self._sentinel_config = sentinel_config
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        addresses = ",".join(f"{HOST}:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{addresses}/{self.service}/0"

    @property
    def master(self) -> StoreServer:
        """The server that most sentinels name now. Raises StoreServerError when they name none of ours."""
        named = [port for port in map(self._master_port, self.sentinels) if port]
        for server in self.servers:
            if named.count(server.port) * 2 > len(self.sentinels):
                return server
        raise StoreServerError(f"the sentinels do not agree: {named}")

    @property
    def replicas(self) -> list[StoreServer]:
        """All servers but the master, those that are down too."""
        master = self.master
        return [server for server in self.servers if server is not master]

    def kill_master(self) -> StoreServer:
        """SIGKILL the master and wait for another one; returns the new one. The old one is left down."""
        old = self.master
        return self.fail_over(old, old.kill)

    def fail_over(self, old: StoreServer, how: Callable[[], None]) -> StoreServer:
        """Do `how` to the master, for example pause it, and wait until another server is the master; returns that."""
        how()
        self._detect_within(QUICK_DETECTION_MS)
        try:
            return self._wait_for_promotion(old)
        finally:
            self._detect_within(SLOW_DETECTION_MS)

    def _detect_within(self, milliseconds: int) -> None:
        """Set how long a server may be silent before the sentinels treat it as dead."""
        for sentinel in self.sentinels:
            with client_of(sentinel.port) as client:
                client.execute_command("SENTINEL SET", self.service, "down-after-milliseconds", milliseconds)

    def _wait_for_promotion(self, old: StoreServer) -> StoreServer:
        """Wait until the sentinels name another master than `old`, and it takes writes."""

        def promoted() -> StoreServer | None:
            try:
                master = self.master
                return master if master is not old and _role(master) == "master" else None
            except (StoreServerError, RedisError):
                return None

        found = wait_until(promoted, FAIL_OVER_SECONDS, "no new master")
        assert found is not None
        return found

    def restore(self) -> None:
        """Start and resume every server, and wait until all replicas follow the master."""
        for server in (*self.servers, *self.sentinels):
            server.resume()
            server.start()
        wait_until(self._is_whole, READY_SECONDS, "the replicas do not follow")

    def empty(self) -> None:
        """`restore`, and remove all data."""
        self.restore()
        self.master.empty()

    def __enter__(self) -> Self:
        replicas, sentinels = self._counts
        with ExitStack() as stack:
            master = stack.enter_context(self._server("server-0"))
            self.servers.append(master)
            for number in range(1, replicas + 1):
                replica = self._server(f"server-{number}", "--replicaof", f"{HOST} {master.port}")
                self.servers.append(stack.enter_context(replica))
            wait_until(
                lambda: all(_follows(replica, master) for replica in self.servers[1:]),
                READY_SECONDS,
                "the replicas do not follow",
            )
            for number in range(sentinels):
                sentinel = SentinelServer(
                    self.binary,
                    self.directory / f"sentinel-{number}",
                    config=self._sentinel_file(master.port, quorum=sentinels // 2 + 1),
                )
                self.sentinels.append(stack.enter_context(sentinel))
            wait_until(self._sentinels_know_all, READY_SECONDS, "the sentinels do not know each other")
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _server(self, name: str, *more: str) -> StoreServer:
        options = (*_QUICK_REPLICATION, *self._options, *more)
        return StoreServer(self.binary, self.directory / name, options=options)

    def _sentinel_file(self, master_port: int, *, quorum: int) -> str:
        return "".join(
            f"sentinel {line}\n"
            for line in (
                f"monitor {self.service} {HOST} {master_port} {quorum}",
                f"down-after-milliseconds {self.service} {SLOW_DETECTION_MS}",
                f"failover-timeout {self.service} 5000",
                f"parallel-syncs {self.service} 2",
            )
        ) + self._sentinel_config.format(service=self.service)

    def _master_port(self, sentinel: SentinelServer) -> int:
        if not sentinel.running:
            return 0
        try:
            with client_of(sentinel.port) as client:
                found: Any = client.sentinel_get_master_addr_by_name(self.service)
        except RedisError:
            return 0
        return int(found[1]) if found else 0

    def _sentinels_know_all(self) -> bool:
        replicas, sentinels = self._counts
        for sentinel in self.sentinels:
            with client_of(sentinel.port) as client:
                known: dict[str, Any] = client.sentinel_master(self.service)
            if known["num-slaves"] != replicas or known["num-other-sentinels"] != sentinels - 1:
                return False
        return True

    def _is_whole(self) -> bool:
        try:
            master = self.master
            for replica in self.replicas:
                if (
                    _role(replica) == "master"
                ):  # it was one before it went down; the sentinels take ten seconds for this
                    with client_of(replica.port) as client:
                        client.replicaof(HOST, master.port)
            return all(_follows(replica, master) for replica in self.replicas)
        except (StoreServerError, RedisError):
            return False


class ClusterSetup:
    """Masters that share the slots, each with replicas. Use it as a context manager.

    A master that is silent for `node_timeout_ms` is replaced by its replica. Without replicas it is treated as dead,
    which a node that only waits for a processor is not: tests of such setups give SLOW_DETECTION_MS.
    """

    def __init__(
        self,
        binary: Path,
        directory: Path,
        *,
        masters: int = 3,
        replicas_each: int = 1,
        node_timeout_ms: int = 2000,
        options: Sequence[str] = (),
    ) -> None:
        self.binary = binary
        self.directory = directory
        self.nodes: list[StoreServer] = []
        """The first masters, then their replicas: those of the first master, of the second, and so on."""
        self._masters = masters
        self._replicas_each = replicas_each
        self._options = (
            *_QUICK_REPLICATION,
            *("--cluster-enabled", "yes", "--cluster-node-timeout", str(node_timeout_ms)),
            *options,
        )
        self._bus_ports: dict[int, int] = {}
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"{HOST}:{node.port}" for node in self.nodes)

    @property
    def masters(self) -> list[StoreServer]:
        """The masters of now, in the order of `nodes`."""
        return [node for node in self.nodes if node.running and _role(node) == "master"]

    def owner(self, slot: int) -> StoreServer:
        """The master of a slot, as the masters say themselves."""

        def found() -> StoreServer | None:
            return next((node for node in self.masters if slot in _slots(_view(node), _id_of(node))), None)

        node = wait_until(found, READY_SECONDS, f"nobody has slot {slot}")
        assert node is not None
        return node

    def slot_of(self, key: str) -> int:
        """Return the slot of a key."""
        with client_of(self.masters[0].port) as client:
            return int(client.execute_command("CLUSTER KEYSLOT", key))

    def owner_of(self, key: str) -> StoreServer:
        """Return the master that has this key's slot."""
        return self.owner(self.slot_of(key))

    def kill_master(self, index: int = 0) -> StoreServer:
        """SIGKILL `masters[index]` and wait until its replica has taken over; returns that. The old one stays down."""
        old = self.masters[index]
        return self.fail_over(old, old.kill)

    def fail_over(self, old: StoreServer, how: Callable[[], None]) -> StoreServer:
        """Do `how` to a master, for example pause it, and wait until another node has its slots; returns that."""
        slot = min(_slots(_view(old), _id_of(old)))
        others = [node for node in self.nodes if node is not old]
        how()

        def successor() -> StoreServer | None:
            for node in others:
                if node.running and _role(node) == "master" and slot in _slots(_view(node), _id_of(node)):
                    return node
            return None

        found = wait_until(successor, FAIL_OVER_SECONDS, "nobody took over")
        assert found is not None
        wait_until(lambda: all(_is_well(node) for node in others if node.running), FAIL_OVER_SECONDS, "not well")
        return found

    @contextmanager
    def migrating(self, slot: int, to: StoreServer) -> Iterator[Callable[[], int]]:
        """A slot on its way to another master. Call what is yielded to move up to 10 keys; it returns how many.

        At the end the remaining keys are moved, and the slot belongs to `to`.
        """
        source = self.owner(slot)
        if source is to:
            raise StoreServerError(f"the node has slot {slot} already")
        with client_of(source.port) as old, client_of(to.port) as new:
            new.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", _id_of(source))
            old.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", _id_of(to))

            def move_some() -> int:
                names: Any = old.execute_command("CLUSTER GETKEYSINSLOT", slot, 10)
                if names:
                    old.execute_command("MIGRATE", HOST, to.port, "", 0, 5000, "KEYS", *names)
                return len(names)

            yield move_some
            while move_some():
                continue
            # The new owner first: the other way round the slot would have none for a moment.
            for node in (to, source, *(one for one in self.masters if one not in (to, source))):
                with client_of(node.port) as client:
                    client.execute_command("CLUSTER SETSLOT", slot, "NODE", _id_of(to))

    def migrate_slot(self, slot: int, to: StoreServer | None = None) -> StoreServer:
        """Move a slot with its data, key by key, during operation; by default to the next master."""
        source = self.owner(slot)
        target = to or next(node for node in self.masters if node is not source)
        with self.migrating(slot, target):
            pass
        return target

    def migrate_slot_whole(self, slot: int) -> StoreServer:
        """Move a slot with its data to the next master in one piece: Valkey 9 can. Returns its new owner."""
        source = self.owner(slot)
        target = next(node for node in self.masters if node is not source)
        with client_of(source.port) as client:
            client.execute_command("CLUSTER MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", _id_of(target))
        wait_until(lambda: self.owner(slot) is target, FAIL_OVER_SECONDS, "the slot does not move")
        return target

    def restore(self) -> None:
        """Start and resume every node, and wait until all slots are served and every replica follows its master."""
        for node in self.nodes:
            node.resume()
            node.start()
        wait_until(self._is_whole, READY_SECONDS, "the cluster is not whole")

    def empty(self) -> None:
        """`restore`, and remove all data."""
        self.restore()
        for node in self.masters:
            node.empty()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for number in range(self._masters * (1 + self._replicas_each)):
                bus = free_port()
                options = (*self._options, "--cluster-port", str(bus))
                node = stack.enter_context(StoreServer(self.binary, self.directory / f"node-{number}", options=options))
                self.nodes.append(node)
                self._bus_ports[node.port] = bus
            self._join()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _join(self) -> None:
        masters, replicas = self.nodes[: self._masters], self.nodes[self._masters :]
        for index, node in enumerate(masters):
            first, last = index * SLOTS // len(masters), (index + 1) * SLOTS // len(masters) - 1
            with client_of(node.port) as client:
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", index + 1)
                client.execute_command("CLUSTER ADDSLOTSRANGE", first, last)
        for node in self.nodes[1:]:
            with client_of(node.port) as client:
                first_port = self.nodes[0].port
                client.execute_command("CLUSTER MEET", HOST, first_port, self._bus_ports[first_port])
        wait_until(self._all_met, READY_SECONDS, "the nodes do not know each other")
        for index, node in enumerate(replicas):
            with client_of(node.port) as client:
                client.execute_command("CLUSTER REPLICATE", _id_of(masters[index // self._replicas_each]))
        wait_until(self._is_whole, READY_SECONDS, "the cluster is not whole")

    def _all_met(self) -> bool:
        views = [_view(node) for node in self.nodes]
        return all(
            len(view) == len(self.nodes) and not any("handshake" in one["flags"] for one in view.values())
            for view in views
        )

    def _is_whole(self) -> bool:
        try:
            masters = self.masters
            return (
                all(_is_well(node) for node in self.nodes)
                and len(masters) == self._masters
                and all(any(_follows(node, master) for master in masters) for node in self.nodes if node not in masters)
                and all(_flags_agree(_view(node), masters) for node in self.nodes)
            )
        except RedisError:
            return False


@contextmanager
def client_of(port: int, *, timeout: float = 10.0) -> Iterator[Any]:
    """A redis-py client of one server, for a moment. `Any`, as its types mix the synchronous and the asynchronous."""
    client = Redis(host=HOST, port=port, decode_responses=True, socket_timeout=timeout)
    try:
        yield client
    finally:
        client.close()


def _role(server: StoreServer) -> str:
    """Return `master` or `slave`; an empty text when the server does not respond."""
    try:
        with client_of(server.port, timeout=2.0) as client:
            return str(client.info("replication")["role"])
    except RedisError:
        return ""


def _follows(server: StoreServer, master: StoreServer) -> bool:
    """Return True if a server is a replica of this master, and both report that it has the master's data."""
    with client_of(server.port) as replica, client_of(master.port) as client:
        own, facts = replica.info("replication"), client.info("replication")
    listed = [value for name, value in facts.items() if name.startswith("slave") and isinstance(value, dict)]
    return (
        own.get("master_port") == master.port
        and own.get("master_link_status") == "up"
        and any(one["port"] == server.port and one["state"] == "online" for one in listed)
    )


def _id_of(node: StoreServer) -> str:
    with client_of(node.port) as client:
        return str(client.execute_command("CLUSTER MYID"))


def _view(node: StoreServer) -> dict[str, dict[str, Any]]:
    """Return a node's view of all nodes, by address."""
    with client_of(node.port) as client:
        view: dict[str, dict[str, Any]] = client.execute_command("CLUSTER NODES")
    return view


def _slots(view: dict[str, dict[str, Any]], node_id: str) -> set[int]:
    """Return the slots that a node has in a view."""
    found: set[int] = set()
    for one in view.values():
        if one["node_id"] == node_id:
            for first, *last in one["slots"]:
                found |= set(range(int(first), int(last[0] if last else first) + 1))
    return found


def _flags_agree(view: dict[str, dict[str, Any]], masters: Sequence[StoreServer]) -> bool:
    """Return True if a view has no failing node and the same masters."""
    flags = {address: one["flags"].split(",") for address, one in view.items()}
    named = {int(address.rpartition(":")[2]) for address, words in flags.items() if "master" in words}
    failing = any("fail" in words or "fail?" in words for words in flags.values())
    return not failing and named == {node.port for node in masters}


def _is_well(node: StoreServer) -> bool:
    try:
        with client_of(node.port) as client:
            state: dict[str, str] = client.execute_command("CLUSTER INFO")
    except RedisError:
        return False
    return state["cluster_state"] == "ok"
