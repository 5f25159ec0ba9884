"""The state of an installation: its store, its processes, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

STORE_FULL_SHARE = 0.8
"""Share of the store's memory limit from which it is nearly full."""
SILENT_MS = 20_000
"""Age of a process's latest note from which it is silent. A process notes itself every 10 seconds."""
REPLICA_LAG_SECONDS = 30
CERTIFICATE_DAYS = 21
_DAY_MS = 86_400_000


@dataclass(frozen=True)
class Certificate:
    """A certificate that a process uses."""

    setting: str
    """The setting that names its file."""
    expires_at_ms: int


@dataclass(frozen=True)
class RunningProcess:
    """A process that has noted itself. Times are those of the store's clock."""

    name: str
    data_format: int
    noted_at_ms: int
    version: str | None = None
    """None for a process of a version without this fact."""
    started_at_ms: int | None = None
    controller_id: str | None = None
    """The name under which a controller leads; None for other processes."""
    certificates: Sequence[Certificate] = ()

    @property
    def role(self) -> str:
        """Return `api`, `delivery` or `controller`."""
        return self.name.partition(":")[0]

    @property
    def host(self) -> str:
        return self._part(1)

    @property
    def pid(self) -> int | None:
        text = self._part(2)
        return int(text) if text.isdecimal() else None

    def _part(self, index: int) -> str:
        parts = self.name.split(":")
        return parts[index] if len(parts) > index else ""


@dataclass(frozen=True)
class Replica:
    """A replica of a server, as the server sees it."""

    address: str
    state: str
    """`online` while it follows."""
    lag_seconds: int | None


@dataclass(frozen=True)
class StoreServer:
    """A server of the store: the only one, or a master of a cluster."""

    address: str
    """Empty for the only one."""
    name: str
    version: str
    uptime_seconds: int
    used_bytes: int
    max_bytes: int
    """0: no limit."""
    clients: int
    max_clients: int | None
    latency_ms: float
    """Duration of a call that does nothing, from this process."""
    appends_to_file: bool
    write_error: str | None
    """Part of the persistence that fails; None if all of it works."""
    saved_at_ms: int | None
    """Time of the latest snapshot; None: there was none."""
    replicas: Sequence[Replica] = ()

    @property
    def used_share(self) -> float | None:
        """Return the used share of the memory limit; None without a limit."""
        return self.used_bytes / self.max_bytes if self.max_bytes else None


@dataclass(frozen=True)
class SystemFacts:
    """The facts of an installation, read at `now_ms`."""

    now_ms: int
    servers: Sequence[StoreServer]
    processes: Sequence[RunningProcess]
    leader: str | None
    """The name under which a controller leads; None: none does."""
    platform_problem: str = ""
    """Why the platform of the workers does not respond; empty: it does, or no controller leads."""

    def leads(self, process: RunningProcess) -> bool:
        """Return True if the process is the leading controller."""
        return self.leader is not None and process.controller_id == self.leader


class Concern(StrEnum):
    """Something that is wrong with an installation."""

    NO_CONTROLLER = "no_controller"
    NO_LEADER = "no_leader"
    NO_DELIVERY = "no_delivery"
    PERSISTENCE_FAILS = "persistence_fails"
    STORE_NEARLY_FULL = "store_nearly_full"
    PLATFORM_AWAY = "platform_away"
    CONTROLLER_SILENT = "controller_silent"
    PROCESS_SILENT = "process_silent"
    REPLICA_BEHIND = "replica_behind"
    CERTIFICATE_EXPIRES = "certificate_expires"
    VERSION_SKEW = "version_skew"


BAD = frozenset(
    {
        Concern.NO_CONTROLLER,
        Concern.NO_LEADER,
        Concern.NO_DELIVERY,
        Concern.PERSISTENCE_FAILS,
        Concern.STORE_NEARLY_FULL,
        Concern.PLATFORM_AWAY,
    }
)
"""The concerns that stop work, or soon will."""

TENANT_TEXTS = {
    Concern.NO_CONTROLLER: "no controller runs, so workers are not started, and overdue tasks are not noticed",
    Concern.NO_LEADER: "no controller leads, so workers are not started",
    Concern.NO_DELIVERY: "no delivery process runs, so no webhook is sent",
    Concern.STORE_NEARLY_FULL: "the store is more than 80 % full; submissions are refused when it is full",
    Concern.PLATFORM_AWAY: "the platform of the workers does not respond, so workers are neither started nor stopped",
    Concern.CONTROLLER_SILENT: "a controller is silent, and may have ended",
}
"""The concerns that tenants see, in words that name no process, address or size."""


@dataclass(frozen=True)
class Warned:
    """A concern in words."""

    concern: Concern
    message: str

    @property
    def is_bad(self) -> bool:
        return self.concern in BAD


def for_tenants(warnings: Sequence[Warned]) -> list[Warned]:
    """Return the warnings that tenants see, each once, without the facts of the installation."""
    concerns = dict.fromkeys(one.concern for one in warnings if one.concern in TENANT_TEXTS)
    return [Warned(concern, TENANT_TEXTS[concern]) for concern in concerns]


def warnings_of(facts: SystemFacts) -> list[Warned]:
    """Return what is wrong, the worst first."""
    order = list(Concern)
    found = [*_of_controllers(facts), *_of_processes(facts), *_of_store(facts)]
    return sorted(found, key=lambda one: order.index(one.concern))


def _of_controllers(facts: SystemFacts) -> Iterator[Warned]:
    if not any(one.role == "controller" for one in facts.processes):
        yield Warned(Concern.NO_CONTROLLER, TENANT_TEXTS[Concern.NO_CONTROLLER])
    elif facts.leader is None:
        yield Warned(Concern.NO_LEADER, TENANT_TEXTS[Concern.NO_LEADER])
    if facts.platform_problem:
        yield Warned(Concern.PLATFORM_AWAY, f"the platform of the workers does not respond: {facts.platform_problem}")


def _of_processes(facts: SystemFacts) -> Iterator[Warned]:
    if not any(one.role == "delivery" for one in facts.processes):
        yield Warned(Concern.NO_DELIVERY, TENANT_TEXTS[Concern.NO_DELIVERY])
    for one in facts.processes:
        silent_ms = facts.now_ms - one.noted_at_ms
        if silent_ms > SILENT_MS:
            concern = Concern.CONTROLLER_SILENT if one.role == "controller" else Concern.PROCESS_SILENT
            yield Warned(concern, f"{one.role} {one.host} {one.pid} is silent for {silent_ms // 1000} s")
    versions = sorted({one.version or "an earlier one" for one in facts.processes})
    if len(versions) > 1:
        yield Warned(Concern.VERSION_SKEW, f"processes are of different versions: {', '.join(versions)}")
    expiring = {one.setting: one for process in facts.processes for one in process.certificates}
    for certificate in expiring.values():
        yield from _of_certificate(certificate, facts.now_ms)


def _of_certificate(one: Certificate, now_ms: int) -> Iterator[Warned]:
    days = (one.expires_at_ms - now_ms) // _DAY_MS
    if days < CERTIFICATE_DAYS:
        text = f"expires in {days} days" if days >= 0 else "has expired"
        yield Warned(Concern.CERTIFICATE_EXPIRES, f"the certificate of {one.setting} {text}")


def _of_store(facts: SystemFacts) -> Iterator[Warned]:
    for one in facts.servers:
        where = f" {one.address}" if one.address else ""
        share = one.used_share
        if share is not None and share > STORE_FULL_SHARE:
            yield Warned(Concern.STORE_NEARLY_FULL, f"the store{where} uses {share:.0%} of its memory limit")
        if one.write_error is not None:
            yield Warned(Concern.PERSISTENCE_FAILS, f"the store{where} cannot write its files: {one.write_error}")
        for replica in one.replicas:
            if replica.state != "online" or (replica.lag_seconds or 0) > REPLICA_LAG_SECONDS:
                lag = "" if replica.lag_seconds is None else f", {replica.lag_seconds} s behind"
                yield Warned(Concern.REPLICA_BEHIND, f"the replica {replica.address} is {replica.state}{lag}")
