"""The interface of the controller to a platform that runs workers: processes, Docker, Kubernetes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from queue_engine.domain.endpoints import DEFAULT_START_TIMEOUT_SECONDS, Resource, ServiceMode


class BackendError(Exception):
    """The backend cannot perform a request. The message may be shown to the endpoint's owner."""


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
    resource: Resource | None = None
    volume_gb: int = 0
    service_mode: ServiceMode = ServiceMode.QUEUE
    concurrency: int = 1
    ready_path: str | None = None
    """Path on the exposed port that responds 2xx if the container is ready; None means ready when the port is open."""
    start_timeout_seconds: float = DEFAULT_START_TIMEOUT_SECONDS
    """Timeout of a start, until the container is ready."""
    run: int = 1
    """The number of this start of the worker, which its agent's reports include."""
    agent_environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The agent's variables, such as the store's URL and the secret key. SECRET: never in a log, on a command line or
    in the container's environment."""


@dataclass(frozen=True)
class Observed:
    """The state of a worker in its backend. Times are epoch milliseconds of this machine's clock."""

    alive: bool
    """True if a process of the worker still runs."""
    started_at_ms: int
    exit_reason: str | None = None
    """The reason of its end, such as `container exited with status 3` or `agent killed by signal 9`; None if alive."""
    last_lines: tuple[str, ...] = ()
    """The last lines of its output, oldest first; empty if alive."""


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


class Backend(Protocol):
    """Starts, ends and lists workers. The controller makes all decisions.

    A worker that ends unexpectedly is not restarted; it stays in `observe` with its reason until `stop` is called.
    """

    @property
    def max_starting(self) -> int:
        """Maximum number of simultaneous starts. More of them would slow each other down."""
        ...

    def refusal(self, spec: WorkerSpec) -> str | None:
        """Return the reason why this backend can never run such a worker, for the endpoint's owner; else None."""
        ...

    async def start(self, spec: WorkerSpec) -> None:
        """Start a worker and return without waiting for it to be ready.

        Idempotent by `worker_id`: does nothing while a worker with this id exists, even if it is being stopped. A
        worker that has ended is started again. Raises BackendError if the start fails, and then leaves no process.
        """
        ...

    async def stop(self, worker_id: str, grace_seconds: float) -> None:
        """Let the agent drain, then kill the remaining processes of the worker, and remove it from `observe`.

        The agent has `grace_seconds` to finish attempts, and END_MARGIN_SECONDS more to release the others and to stop
        the container. Returns when agent, container and the processes that they started have ended. Idempotent: of
        concurrent calls the shortest grace period counts, and an unknown worker is not an error.
        """
        ...

    async def kill(self, worker_id: str) -> None:
        """Kill the whole worker, and remove it from `observe`. Idempotent, and as complete as `stop`."""
        ...

    async def observe(self) -> Mapping[str, Observed]:
        """Return the workers that were started and not stopped, by their id."""
        ...

    async def aclose(self, grace_seconds: float) -> None:
        """Stop all workers at the same time, and release the backend's resources.

        Safe to call twice. A controller that leads again may call `start` afterwards.
        """
        ...
