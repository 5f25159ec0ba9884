"""What the controller asks of a place where workers run: processes, Docker, Kubernetes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from queue_engine.domain.endpoints import DEFAULT_START_TIMEOUT_SECONDS, Resource, ServiceMode


class BackendError(Exception):
    """The backend cannot do what was asked. The message may be shown to the endpoint's owner."""


@dataclass(frozen=True)
class RegistryCredential:
    """Access to the registry that an image comes from."""

    username: str = field(repr=False)
    password: str = field(repr=False)


@dataclass(frozen=True)
class WorkerSpec:
    """One worker that shall run: an agent, and the container beside it."""

    endpoint_id: str
    worker_id: str
    """Unique over all endpoints and all time."""
    image: str
    image_registry: str | None = None
    registry_credential: RegistryCredential | None = None
    command: str | None = None
    """The endpoint's `initializationCommand`; None: what the image runs by itself."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The endpoint's variables, for the container only."""
    plain_variables: frozenset[str] = frozenset()
    """Those of them whose values need not be masked in the worker's log."""
    exposed_port: int | None = None
    protocol: str | None = None
    """`HTTP` or `TCP`, with `exposed_port`."""
    resource: Resource | None = None
    volume_gb: int = 0
    service_mode: ServiceMode = ServiceMode.QUEUE
    concurrency: int = 1
    ready_path: str | None = None
    """Path on the exposed port that responds 2xx when the container is ready; None: ready when the port is open."""
    start_timeout_seconds: float = DEFAULT_START_TIMEOUT_SECONDS
    """Time limit for one start, until the container is ready."""
    run: int = 1
    """The number of this start of the worker. Its agent reports with it."""
    agent_environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What the agent needs: the store's URL, the secret key and the like. SECRET: never in a log, on a command line or
    in the container's environment."""


@dataclass(frozen=True)
class Observed:
    """What a backend sees of one worker. Times are epoch milliseconds of this machine's clock."""

    alive: bool
    """Something of the worker still runs."""
    started_at_ms: int
    exit_reason: str | None = None
    """Why it ended, such as `container exited with status 3` or `agent killed by signal 9`; None while it is alive."""
    last_lines: tuple[str, ...] = ()
    """The last lines that it wrote before it ended, oldest first; none while it is alive."""


@dataclass(frozen=True)
class AgentTarget:
    """Where an agent serves its metrics."""

    endpoint_id: str
    worker_id: str
    address: Path
    """A Unix socket."""

    @property
    def labels(self) -> str:
        """Both ids are of letters, digits and a few signs that need no escape."""
        return f'endpoint="{self.endpoint_id}",worker="{self.worker_id}"'


class Backend(Protocol):
    """Starts and ends workers, and says which there are. It decides nothing: the controller does.

    A worker that ends by itself is not started again; it stays in `observe` with its reason until `stop` is called.
    """

    @property
    def max_starting(self) -> int:
        """How many workers may be starting at once: more of them would make each other late."""
        ...

    def refusal(self, spec: WorkerSpec) -> str | None:
        """Why this backend can never run such a worker, for the endpoint's owner; None when it can."""
        ...

    async def start(self, spec: WorkerSpec) -> None:
        """Start a worker and return without waiting for it to be ready.

        Idempotent by `worker_id`: does nothing while a worker with this id exists, one that is being stopped too; one
        that has ended is started anew. Raises BackendError when it cannot be started; nothing of it is left then.
        """
        ...

    async def stop(self, worker_id: str, grace_seconds: float) -> None:
        """Let the agent drain, then end the whole worker by force, and forget it.

        The agent has `grace_seconds` for its attempts and END_MARGIN_SECONDS more to release the others and to stop the
        container. Returns when nothing of the worker is left, neither agent nor container nor what they started.
        Idempotent: of several calls at once the shortest grace counts, and an unknown worker is no error.
        """
        ...

    async def kill(self, worker_id: str) -> None:
        """End the whole worker by force, and forget it. Idempotent, and as complete as `stop`."""
        ...

    async def observe(self) -> Mapping[str, Observed]:
        """The workers that were started and not stopped, by their id."""
        ...

    async def aclose(self, grace_seconds: float) -> None:
        """Stop all workers at the same time and let go of what the backend holds.

        Safe to call twice. A controller that comes to lead again may go on with `start`.
        """
        ...
