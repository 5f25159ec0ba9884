"""The interface of the controller to a platform that runs workers: processes, Docker, Kubernetes.

A worker is an agent and a container. Each of its starts is a run with a number of its own. A backend reports the phase
of the latest run of each worker:

    waiting -> starting -> running -> ending -> ended
                 unknown, while the platform does not respond

The controller makes all decisions from the phases: how long a start may take, whether a silent agent is killed, and
when a worker is started again. Where `outlives_controller` is True, the platform keeps the workers of a controller that
has died or was replaced, and the next leader goes on with the workers that `observe` returns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol, runtime_checkable

from queue_engine.domain.endpoints import DEFAULT_START_TIMEOUT_SECONDS, Resource, ServiceMode

STOP_MARGIN_SECONDS = 30.0
"""Maximum time that `stop` and `kill` take beyond the grace period. It includes the agent's END_MARGIN_SECONDS, the end
of the container, and the removal of both by a platform under load."""
REASON_SECONDS = 5.0
"""Minimum time between two changes of a reason that shows progress, such as the bytes of a pull, because the controller
looks at the endpoint and writes to the store at each change."""


class BackendError(Exception):
    """The backend cannot perform a request. The message may be shown to the endpoint's owner."""

    @property
    def for_operators(self) -> str:
        """The message with what owners of endpoints must not read, such as the address of the platform."""
        return str(self)


class EndNotConfirmed(BackendError):
    """The end of a worker was requested, and was not seen within the limit. The worker may still run.

    The controller replaces such a worker under a new id, and repeats the request until `observe` no longer has it.
    """


@dataclass(frozen=True)
class RegistryCredential:
    """Credentials for the registry of an image."""

    username: str = field(repr=False)
    password: str = field(repr=False)


@dataclass(frozen=True)
class WorkerSpec:
    """The specification of a worker: an agent, and the container beside it."""

    endpoint_id: str
    worker_id: str
    """Unique over all endpoints, and never reused."""
    image: str
    image_registry: str | None = None
    registry_credential: RegistryCredential | None = None
    command: str | None = None
    """The endpoint's `initializationCommand`; None means the default command of the image."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The endpoint's variables, for the container only."""
    plain_variables: frozenset[str] = frozenset()
    """Names of the variables whose values are not masked in the worker's log."""
    exposed_port: int | None = None
    protocol: str | None = None
    """`HTTP` or `TCP`, with `exposed_port`."""
    resources: tuple[Resource, ...] = ()
    """The resources that the worker may use, in the order of the endpoint's owner. `place` chooses one."""
    volume_gb: int = 0
    card_vcpus: int = 0
    """Minimum number of CPUs for each GPU, or for a worker without GPUs; 0 if the endpoint states none."""
    card_ram_gb: int = 0
    """Minimum memory in GB for each GPU, or for a worker without GPUs; 0 if the endpoint states none."""
    card_vram_gb: int = 0
    """Minimum video memory of each GPU in GB; 0 if the endpoint states none."""
    service_mode: ServiceMode = ServiceMode.QUEUE
    concurrency: int = 1
    ready_path: str | None = None
    """Path on the exposed port that responds 2xx if the container is ready; None means ready when the port is open."""
    start_timeout_seconds: float = DEFAULT_START_TIMEOUT_SECONDS
    """Timeout of a start, until the container is ready."""
    run: int = 1
    """The number of this start of the worker, which its agent's reports include. It grows with each start."""
    tenant: str = ""
    """The owner of the endpoint. Where starts wait, tenants take turns."""
    revision: int = 1
    """The endpoint's revision that the rest of the specification is from."""
    agent_environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The agent's variables: its access to the engine, and its settings. SECRET: never in a log, on a command line or
    in the container's environment."""


class Phase(StrEnum):
    """The phase of a worker's run in its backend."""

    WAITING = "waiting"
    """Its start cannot begin yet, because something is not available, such as a node or a GPU."""
    STARTING = "starting"
    """Its parts are being made; for example, the image is pulled."""
    RUNNING = "running"
    """Agent and container both run. Only in this phase the agent has to report."""
    ENDING = "ending"
    """It was asked to end, by this controller or somebody else."""
    ENDED = "ended"
    """Agent or container has ended. The other part may still run until `stop` or `kill`."""
    UNKNOWN = "unknown"
    """The platform does not respond, so this is not known. The worker existed when it last responded."""


@dataclass(frozen=True)
class Observed:
    """The state of a worker in its backend: of its latest run, if there are several."""

    run: int
    phase: Phase
    started_at_ms: int
    """Time at which the run was started, in epoch milliseconds of the backend's clock."""
    reason: str | None = None
    """Why the worker waits, why its start takes long, or why it has ended, such as `waits for 2 × NVIDIA L4: 1 of 4
    free`, `pulling 3.1 of 8.4 GB` or `container exited with status 3`. For the endpoint's owner: in words, without
    secrets. None in the phase `running`, and where there is nothing to explain."""
    retry_helps: bool = True
    """False if a new start would fail in the same way until the endpoint or the platform is changed, for example
    because the image does not exist. The worker is then FAILED at once, and started again at the longest interval."""
    container_id: str | None = None
    """The platform's id of the container, where it has one and the container exists."""
    is_interrupted: bool = False
    """True if parts of the worker are missing and this backend does not make them: another controller has begun this
    run, or the platform has carried out a call after its timeout. `start` makes them."""
    last_lines: tuple[str, ...] = ()
    """The last lines of its output, oldest first, after its end; else empty."""

    @property
    def alive(self) -> bool:
        """False if the run has ended."""
        return self.phase is not Phase.ENDED


@dataclass(frozen=True)
class AgentTarget:
    """The address at which an agent serves its metrics."""

    endpoint_id: str
    worker_id: str
    address: Path
    """A Unix socket."""

    @property
    def labels(self) -> str:
        """The labels of the agent's samples. They need no escaping, because ids have no special characters."""
        return f'endpoint="{self.endpoint_id}",worker="{self.worker_id}"'


@runtime_checkable
class AsksForLeadership(Protocol):
    """The part of a backend that goes on with starts and ends in the background, and asks before each change."""

    leads: Callable[[], bool]
    """Set by the controller: returns False as soon as its leadership may have ended, and until it is set."""


@runtime_checkable
class ListsInParts(Protocol):
    """The part of a backend whose platform has several parts, such as clusters, that may be away one by one.

    `observe` then returns the workers of the parts that have responded, and the controller leaves the other ones alone.
    """

    @property
    def unlisted(self) -> frozenset[str]:
        """Names of the parts whose workers `observe` does not have, because they were not listed yet."""
        ...

    def unlisted_reason(self, resources: Sequence[Resource] | None) -> str | None:
        """Return why a worker may exist that `observe` does not return; None if it cannot exist.

        `resources` are those with which it may have been started; None means any.
        """
        ...


@runtime_checkable
class TellsProblem(Protocol):
    """The part of a backend whose platform may stop responding while its workers go on."""

    @property
    def problem(self) -> str | None:
        """Why the platform does not respond, for the owners of endpoints; None while it does. From memory."""
        ...


class Backend(Protocol):
    """Starts, ends and lists workers. The controller makes all decisions.

    A worker that ends unexpectedly is not restarted; it stays in `observe` with its reason until `stop` or `kill` is
    called. No method waits without a limit for a platform that does not respond.
    """

    @property
    def outlives_controller(self) -> bool:
        """True if workers go on after the end of their controller, for the next leader."""
        ...

    @property
    def agents_over_https(self) -> bool:
        """True if agents use the API with a token of their own; False if they use the store."""
        ...

    @property
    def max_starting(self) -> int:
        """Maximum number of simultaneous starts. More of them would slow each other down."""
        ...

    def refusal(self, spec: WorkerSpec) -> str | None:
        """Return the reason why this backend can never run such a worker, for the endpoint's owner; else None."""
        ...

    async def start(self, spec: WorkerSpec) -> None:
        """Begin a run of a worker and return without waiting for it to be ready.

        Idempotent by `worker_id` and `run`: does nothing if this run or a later one exists, in any phase. An exception
        is a run with `Observed.is_interrupted`: the parts that are missing are made. Such a specification may lack the
        secrets in `agent_environment`, because the agent exists already.

        An earlier run that has ended is removed first. Raises BackendError if an earlier run has not ended, or if the
        start fails, and then leaves nothing of this run. A failure after the return is an end with a reason.
        """
        ...

    async def stop(self, worker_id: str, grace_seconds: float) -> None:
        """Let the agent drain, then kill the rest of the worker, and remove all its runs from `observe`.

        The agent has `grace_seconds` to finish attempts, and END_MARGIN_SECONDS more to release the others and to stop
        the container. Returns when nothing of the worker is left. Idempotent: of concurrent calls the shortest grace
        period counts, and an unknown worker is not an error.

        Raises EndNotConfirmed if something may be left STOP_MARGIN_SECONDS after the grace period, and BackendError if
        the worker cannot be asked to end. The worker then stays in `observe`.
        """
        ...

    async def kill(self, worker_id: str) -> None:
        """Kill the whole worker, and remove it from `observe`. Idempotent, and as complete and as limited as `stop`."""
        ...

    async def observe(self) -> Mapping[str, Observed] | None:
        """Return the workers of this installation that were started and not stopped, by their id.

        None until the platform has been listed completely for the first time since the construction or `aclose`: the
        controller must not plan without it, because it would start all workers again. If some parts of a platform are
        away, the workers of the others: see `ListsInParts`. Later, workers on a platform that does not respond stay,
        with the phase `unknown`. Returns at once, from memory.
        """
        ...

    async def aclose(self, grace_seconds: float) -> None:
        """Release the backend's resources, when the controller ends or another one leads.

        If workers outlive the controller, end none: only stop watching, and interrupt starts in progress, such as
        pulls. Otherwise stop all workers at the same time. Safe to call twice, and again after an error. A controller
        that leads again may use the backend afterwards.
        """
        ...
