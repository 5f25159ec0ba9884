"""Endpoints: what a user wants to run, and how the API sums up what runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum

from queue_engine.domain.retry import TaskRetryPolicy
from queue_engine.domain.workers import WorkerStatus

DEFAULT_CONCURRENCY = 1
DEFAULT_EXECUTION_TIMEOUT_SECONDS = 3600
DEFAULT_MAX_ATTEMPTS = 5
DEFAULT_MAX_QUEUED_TASKS = 1_000_000
DEFAULT_RESULT_RETENTION_SECONDS = 86_400
DEFAULT_START_TIMEOUT_SECONDS = 1800.0
MIN_START_TIMEOUT_SECONDS = 10
MAX_START_TIMEOUT_SECONDS = 86_400
DEFAULT_MAX_BUSY_SECONDS = 900.0


class ServiceMode(StrEnum):
    ALB = "ALB"
    QUEUE = "QUEUE"
    CUSTOM = "CUSTOM"


class EndpointStatus(StrEnum):
    """What the API says of an endpoint."""

    INITIALIZING = "INITIALIZING"
    """Workers are wanted and none runs yet."""
    RUNNING = "RUNNING"
    """At least one worker runs."""
    STOPPING = "STOPPING"
    STOPPED = "STOPPED"
    FAILED = "FAILED"
    """All its workers crash on start or are not ready in time."""


class Wanted(StrEnum):
    """What the user asked of an endpoint; the controller makes it so."""

    RUNNING = "running"
    STOPPED = "stopped"
    DELETED = "deleted"
    """Final: what is left of it is ended and removed."""


@dataclass(frozen=True)
class Resource:
    """One place where workers may run."""

    region: str
    gpu_type: str
    gpu_count: int


@dataclass(frozen=True)
class Expose:
    """The port on which the container listens."""

    port: int
    protocol: str
    """`HTTP` or `TCP`."""


@dataclass(frozen=True)
class EndpointConfig:
    """What the user configured. Sizes in GB, times in seconds."""

    name: str
    image: str
    service_mode: ServiceMode
    resources: tuple[Resource, ...]
    workers: int
    container_volume_in_gb: int
    image_registry: str | None = None
    credential_id: int | None = None
    min_single_card_vram_in_gb: int | None = None
    min_single_card_vcpu: int | None = None
    min_single_card_ram_in_gb: int | None = None
    initialization_command: str | None = None
    environment: dict[str, str] = field(default_factory=dict, repr=False)
    """Empty in an endpoint that was read: the values are sealed, and only who starts workers opens them."""
    plain_variables: frozenset[str] = frozenset()
    """Names of variables whose values are no secrets: they are not masked in workers' logs."""
    expose: Expose | None = None
    webhook: str | None = None
    concurrency: int = DEFAULT_CONCURRENCY
    execution_timeout_seconds: int = DEFAULT_EXECUTION_TIMEOUT_SECONDS
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    max_queued_tasks: int = DEFAULT_MAX_QUEUED_TASKS
    result_retention_seconds: int = DEFAULT_RESULT_RETENTION_SECONDS
    queue_ttl_seconds: float | None = None
    """How long a task may wait; None: for ever."""
    retry_policy: TaskRetryPolicy = field(default_factory=TaskRetryPolicy)
    cancel_uri: str | None = None
    """Path of the container that is told when a running task is cancelled."""
    ready_path: str | None = None
    """Path on the exposed port that responds 2xx when a worker is ready; None: ready when the port is open."""
    start_timeout_seconds: float = DEFAULT_START_TIMEOUT_SECONDS
    """Time limit for one start of a worker, until it is ready."""
    max_busy_seconds: float = DEFAULT_MAX_BUSY_SECONDS
    """How long a task may meet only 429, 503 and refused connections in a row before that counts as an attempt."""


@dataclass(frozen=True)
class TaskCounts:
    """Tasks of one endpoint by where they are; the finished ones as far as they are retained."""

    queued: int = 0
    running: int = 0
    scheduled: int = 0
    success: int = 0
    delivered: int = 0
    failed: int = 0

    @property
    def processing(self) -> int:
        return self.queued + self.running + self.scheduled

    @property
    def total(self) -> int:
        return self.processing + self.success + self.delivered + self.failed


@dataclass(frozen=True)
class Endpoint:
    """One endpoint as recorded in the store. Times are epoch milliseconds of the store's clock."""

    endpoint_id: str
    tenant: str
    config: EndpointConfig
    wanted: Wanted
    failed: bool
    """All its workers crash on start or are not ready in time; set and cleared by the controller."""
    created_at_ms: int
    updated_at_ms: int
    version: int = 1
    """Grows with every change."""
    revision: int = 1
    """Grows with every change that its workers must be replaced for."""
    environment_names: tuple[str, ...] = ()
    worker_statuses: tuple[WorkerStatus, ...] = ()
    counts: TaskCounts = TaskCounts()

    @property
    def running_workers(self) -> int:
        return sum(status is WorkerStatus.RUNNING for status in self.worker_statuses)

    @property
    def status(self) -> EndpointStatus:
        return endpoint_status(self.wanted, self.failed, self.worker_statuses)


def needs_new_workers(before: EndpointConfig, after: EndpointConfig) -> bool:
    """Whether running workers would be other ones under `after`. The environment is compared by who changes it."""
    unaffected = replace(
        after,
        name=before.name,
        workers=before.workers,
        webhook=before.webhook,
        environment=before.environment,
        execution_timeout_seconds=before.execution_timeout_seconds,
        max_attempts=before.max_attempts,
        max_queued_tasks=before.max_queued_tasks,
        result_retention_seconds=before.result_retention_seconds,
        queue_ttl_seconds=before.queue_ttl_seconds,
        retry_policy=before.retry_policy,
        cancel_uri=before.cancel_uri,
        max_busy_seconds=before.max_busy_seconds,
    )
    return unaffected != before


def endpoint_status(wanted: Wanted, failed: bool, workers: Iterable[WorkerStatus]) -> EndpointStatus:
    """Sum up what the user wants and what the workers do."""
    statuses = set(workers)
    if wanted is not Wanted.RUNNING:
        alive = statuses - {WorkerStatus.STOPPED, WorkerStatus.FAILED}
        return EndpointStatus.STOPPING if alive else EndpointStatus.STOPPED
    if WorkerStatus.RUNNING in statuses:
        return EndpointStatus.RUNNING
    return EndpointStatus.FAILED if failed else EndpointStatus.INITIALIZING
