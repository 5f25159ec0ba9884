"""Endpoints: the configuration that a user asked for, and the status that sums up the running workers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from queue_engine.domain.definitions import Definition, definitions_of
from queue_engine.domain.errors import InvalidRequest
from queue_engine.domain.field_types import (
    NO_NUL,
    VISIBLE,
    ContainerPath,
    ExecutionTimeout,
    QueueTtl,
    matching,
)
from queue_engine.domain.rates import MAX_SUBMITS_PER_SECOND
from queue_engine.domain.retry import DEFAULT_RETRY_ON, TASK_RETRY_DELAYS_SECONDS, RetryOn, TaskRetryPolicy
from queue_engine.domain.tasks import Priority
from queue_engine.domain.workers import WorkerStatus

DEFAULT_CONCURRENCY = 1
DEFAULT_START_TIMEOUT_SECONDS = 1800.0
MIN_START_TIMEOUT_SECONDS = 10
MAX_START_TIMEOUT_SECONDS = 86_400
MAX_WORKERS = 1000
MAX_RETENTION_SECONDS = 31_536_000
MAX_BUSY_SECONDS = 86_400
MAX_CONCURRENCY_PER_KEY = 1_000_000
MAX_ENVIRONMENT_BYTES = 128 * 1024
"""Limit of all names and values together, because the system limits the environment of a process."""
ENVIRONMENT_RULE = f"must be at most {MAX_ENVIRONMENT_BYTES} bytes in all"


class ServiceMode(StrEnum):
    ALB = "ALB"
    QUEUE = "QUEUE"
    CUSTOM = "CUSTOM"


class EndpointStatus(StrEnum):
    """The status of an endpoint in the API."""

    INITIALIZING = "INITIALIZING"
    """Workers are desired and none runs yet."""
    RUNNING = "RUNNING"
    """At least one worker runs."""
    STOPPING = "STOPPING"
    STOPPED = "STOPPED"
    FAILED = "FAILED"
    """All its workers crash on start or are not ready in time."""


class DesiredState(StrEnum):
    """State of an endpoint that its owner asked for. The controller reconciles the workers with it."""

    RUNNING = "running"
    STOPPED = "stopped"
    DELETED = "deleted"
    """Final. The controller ends remaining workers and removes the endpoint's data."""


@dataclass(frozen=True)
class Resource:
    """A place where workers may run."""

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
class RateLimit:
    """Limit of the attempts that begin: a token bucket, which is full at first. An attempt takes a token."""

    per_second: float
    burst: int
    """Number of tokens that the bucket holds."""


@dataclass(frozen=True)
class Setting(Definition):
    """Definition of an endpoint's setting: see queue_engine/domain/definitions.py."""

    also_asked: str = ""
    """An additional name in PATCH requests, in camel case."""
    fixed: bool = False
    """True for a setting of the creation that is immutable afterwards."""
    renews_workers: bool = True
    """True if workers are replaced when the setting changes, because they were started with the old value."""
    for_scripts: bool = False
    """True for a field of the endpoint's hash, which scripts can read. Other settings are members of its JSON."""


EndpointName = Annotated[
    str,
    Field(min_length=1, max_length=20, json_schema_extra={"pattern": "^[A-Za-z][A-Za-z0-9@._-]{0,19}$"}),
    matching(r"[A-Za-z][A-Za-z0-9@._-]*", "must be letters, digits and any of @._-, and begin with a letter"),
]
Image = Annotated[str, Field(min_length=1, max_length=255), VISIBLE]
Registry = Annotated[str, Field(max_length=255), VISIBLE]
Command = Annotated[str, Field(max_length=32 * 1024), NO_NUL]


@dataclass(frozen=True)
class EndpointConfig:
    """The settings of an endpoint, each defined here once. Sizes in GB, times in seconds."""

    name: Annotated[EndpointName, Setting("1–20 of `[A-Za-z0-9@._-]`, beginning with a letter", renews_workers=False)]
    image: Annotated[Image, Setting("Container image", fixed=True)]
    service_mode: Annotated[
        ServiceMode,
        Field(strict=False),
        Setting(
            "`QUEUE`, `ALB` or `CUSTOM`; only QUEUE endpoints take tasks",
            fixed=True,
            for_scripts=True,
            stored="mode",
            option="--mode",
        ),
    ]
    resources: Annotated[tuple[Resource, ...], Setting("Regions and GPU types on which workers may run")]
    workers: Annotated[
        int,
        Field(ge=0, le=MAX_WORKERS),
        Setting("Desired number of workers", shown="total_workers", renews_workers=False, for_scripts=True),
    ]
    container_volume_in_gb: Annotated[
        int, Field(ge=20, le=1_000_000), Setting("Storage of a worker, in GB", option="--volume-gb")
    ]
    image_registry: Annotated[Registry | None, Setting("Registry of the image; Docker Hub by default", fixed=True)] = (
        None
    )
    credential_id: Annotated[
        int | None,
        Setting(
            "Id of a stored credential for the registry",
            asked="container_registry_auth_id",
            also_asked="credentialId",
            option="--credential",
        ),
    ] = None
    min_single_card_vram_in_gb: Annotated[
        Annotated[int, Field(ge=0, le=1536)] | None,
        Setting("Minimum video memory of a GPU, in GB", option="--min-vram-gb"),
    ] = None
    min_single_card_vcpu: Annotated[
        Annotated[int, Field(ge=0, le=1024)] | None,
        Setting("Minimum number of virtual CPUs for each GPU", option="--min-vcpu"),
    ] = None
    min_single_card_ram_in_gb: Annotated[
        Annotated[int, Field(ge=0, le=1536)] | None,
        Setting("Minimum memory for each GPU, in GB", option="--min-ram-gb"),
    ] = None
    initialization_command: Annotated[
        Command | None, Setting("The command to run in the container", option="--command")
    ] = None
    environment: dict[str, str] = field(default_factory=dict, repr=False)
    """Empty in an endpoint read from the store: the values are sealed, and only code that starts workers opens them."""
    plain_variables: Annotated[
        frozenset[str],
        Setting(
            "All environment variables of the container. Their values are encrypted at rest and never returned",
            asked="environment_vars",
            also_asked="envVars",
        ),
    ] = frozenset()
    """Names of variables whose values are not secret, so workers' logs do not mask them."""
    expose: Annotated[Expose | None, Setting("The port on which the container listens")] = None
    webhook: Annotated[
        str | None,
        Setting("URL to which each change of a worker's status is POSTed", renews_workers=False, for_scripts=True),
    ] = None
    concurrency: Annotated[int, Field(ge=1, le=1000), Setting("Maximum number of concurrent tasks of a worker")] = (
        DEFAULT_CONCURRENCY
    )
    execution_timeout_seconds: Annotated[
        ExecutionTimeout,
        Setting("Time limit of an attempt, in seconds", renews_workers=False, for_scripts=True, stored="timeout"),
    ] = 3600
    max_attempts: Annotated[
        int,
        Field(ge=1, le=100),
        Setting("Maximum number of attempts of a task", renews_workers=False, for_scripts=True),
    ] = 5
    max_queued_tasks: Annotated[
        int,
        Field(ge=1, le=100_000_000),
        Setting(
            "Maximum number of waiting tasks; further tasks are refused with 429",
            renews_workers=False,
            for_scripts=True,
            stored="max_queued",
        ),
    ] = 1_000_000
    max_submits_per_second: Annotated[
        Annotated[int, Field(ge=1, le=MAX_SUBMITS_PER_SECOND)] | None,
        Setting(
            "Maximum number of submissions per second; further ones are refused with 429. No limit by default",
            renews_workers=False,
            for_scripts=True,
            stored="max_submits",
        ),
    ] = None
    rate_limit: Annotated[
        RateLimit | None,
        Setting(
            "Limit of the attempts that begin, retries included: `perSecond` on average, and `burst` at once. No limit "
            "by default",
            renews_workers=False,
            for_scripts=True,
        ),
    ] = None
    max_concurrency_per_key: Annotated[
        Annotated[int, Field(ge=1, le=MAX_CONCURRENCY_PER_KEY)] | None,
        Setting(
            "Maximum number of tasks with the same `fairnessKey` that run at once. No limit by default",
            renews_workers=False,
            for_scripts=True,
            stored="key_limit",
        ),
    ] = None
    default_priority: Annotated[
        Priority | None,
        Field(strict=False),
        Setting(
            "Priority of tasks that are submitted without one: `high`, `normal` or `low`. Null means `normal`",
            renews_workers=False,
            for_scripts=True,
        ),
    ] = None
    result_retention_seconds: Annotated[
        int,
        Field(ge=1, le=MAX_RETENTION_SECONDS),
        Setting(
            "Time for which an ended task is kept, in seconds",
            renews_workers=False,
            for_scripts=True,
            stored="retention",
        ),
    ] = 86_400
    queue_ttl_seconds: Annotated[
        QueueTtl | None,
        Setting(
            "Time limit of waiting, in seconds, after which a task ends as expired; none by default",
            renews_workers=False,
            for_scripts=True,
            stored="queue_ttl",
        ),
    ] = None
    cancel_uri: Annotated[
        ContainerPath | None,
        Setting(
            "Path of the container that is called when a running attempt is given up: cancelled, timed out, released "
            "by a drain, or taken over. Without it, only the connection is closed",
            renews_workers=False,
            for_scripts=True,
        ),
    ] = None
    ready_path: Annotated[
        ContainerPath | None,
        Setting(
            "Path on the exposed port. A worker is RUNNING while a GET request to it gets a 2xx response. Without it, "
            "while the port accepts connections"
        ),
    ] = None
    start_timeout_seconds: Annotated[
        float,
        Field(ge=MIN_START_TIMEOUT_SECONDS, le=MAX_START_TIMEOUT_SECONDS, allow_inf_nan=False),
        Setting("Time limit for one start of a worker until it is ready, in seconds", stored="start_timeout"),
    ] = DEFAULT_START_TIMEOUT_SECONDS
    max_busy_seconds: Annotated[
        float,
        Field(ge=0, le=MAX_BUSY_SECONDS, allow_inf_nan=False),
        Setting(
            "Time for which consecutive tries of a task may get 429, 503, a retried 409 or a refused connection before "
            "they count as an attempt, in seconds",
            renews_workers=False,
            for_scripts=True,
            stored="max_busy",
        ),
    ] = 900.0
    retry_on: Annotated[
        frozenset[RetryOn],
        Setting("Outcomes that are retried. An empty list disables retries", renews_workers=False, for_scripts=True),
    ] = DEFAULT_RETRY_ON
    retry_delays_seconds: Annotated[
        tuple[float, ...],
        Setting(
            "Delays after each attempt in seconds, ± 20 %; the last delay repeats",
            renews_workers=False,
            for_scripts=True,
            stored="retry_delays",
        ),
    ] = TASK_RETRY_DELAYS_SECONDS

    @property
    def retry_policy(self) -> TaskRetryPolicy:
        """Return the two retry settings as one value."""
        return TaskRetryPolicy(self.retry_on, self.retry_delays_seconds)


SETTINGS = definitions_of(EndpointConfig, Setting)
"""All settings of an endpoint."""


@dataclass(frozen=True)
class TaskCounts:
    """Number of an endpoint's tasks by state. Finished tasks count as long as they are retained."""

    queued: int = 0
    """All that wait for a worker, whatever their priority."""
    running: int = 0
    scheduled: int = 0
    success: int = 0
    delivered: int = 0
    failed: int = 0
    queued_high: int = 0
    """The part of `queued` whose priority is high."""
    queued_low: int = 0
    waiting_deliveries: int = field(default=0, compare=False)
    """Results that wait for their delivery. Numbers of tasks are compared without it."""

    @property
    def queued_normal(self) -> int:
        return max(0, self.queued - self.queued_high - self.queued_low)

    @property
    def processing(self) -> int:
        return self.queued + self.running + self.scheduled

    @property
    def total(self) -> int:
        return self.processing + self.success + self.delivered + self.failed


@dataclass(frozen=True)
class Endpoint:
    """An endpoint as recorded in the store. Times are epoch milliseconds of the store's clock."""

    endpoint_id: str
    tenant: str
    config: EndpointConfig
    desired: DesiredState
    failed: bool
    """True if all its workers crash on start or are not ready in time; set and cleared by the controller."""
    created_at_ms: int
    updated_at_ms: int
    version: int = 1
    """Incremented by every change."""
    revision: int = 1
    """Incremented by every change that requires new workers."""
    environment_names: tuple[str, ...] = ()
    worker_statuses: tuple[WorkerStatus, ...] = ()
    counts: TaskCounts = TaskCounts()
    paused: bool = False
    """True while no agent claims tasks of the queue."""

    @property
    def running_workers(self) -> int:
        return sum(status is WorkerStatus.RUNNING for status in self.worker_statuses)

    @property
    def status(self) -> EndpointStatus:
        return endpoint_status(self.desired, self.failed, self.worker_statuses)


def with_stored_values(given: Mapping[str, str | None], stored: Mapping[str, str] | None) -> dict[str, str]:
    """Return an environment in which variables without a value keep their stored ones.

    `stored` is None if the stored values cannot be read. Raises InvalidRequest for a variable that has no value then.
    """
    values = {name: (stored or {}).get(name) if value is None else value for name, value in given.items()}
    missing = [name for name, value in values.items() if value is None]
    if missing:
        raise InvalidRequest("environmentVars", f"{missing[0]} needs a value, because none is stored that can be read")
    kept = {name: value for name, value in values.items() if value is not None}
    if sum(len(name) + len(value.encode()) for name, value in kept.items()) > MAX_ENVIRONMENT_BYTES:
        raise InvalidRequest("environmentVars", ENVIRONMENT_RULE)
    return kept


def needs_new_workers(before: EndpointConfig, after: EndpointConfig) -> bool:
    """Return whether running workers must be replaced to apply `after`. The caller compares the environment."""
    return any(
        getattr(before, one.name) != getattr(after, one.name) for one in SETTINGS if one.definition.renews_workers
    )


def refusal_of_tasks(endpoint: Endpoint) -> str:
    """Return a sentence with the reason for which the endpoint has refused a task, by its state after that."""
    if endpoint.desired is not DesiredState.RUNNING:
        state = "stopping" if endpoint.status is EndpointStatus.STOPPING else "stopped"
        return f"the endpoint is {state} and takes no tasks"
    if endpoint.failed:
        return "the endpoint has failed and takes no tasks: all its workers crash on start or are not ready in time"
    return f"the endpoint took no tasks, and is {endpoint.status} now: try again"


def endpoint_status(desired: DesiredState, failed: bool, workers: Iterable[WorkerStatus]) -> EndpointStatus:
    """Return the status for a desired state and the workers' statuses."""
    statuses = set(workers)
    if desired is not DesiredState.RUNNING:
        alive = statuses - {WorkerStatus.STOPPED, WorkerStatus.FAILED}
        return EndpointStatus.STOPPING if alive else EndpointStatus.STOPPED
    if WorkerStatus.RUNNING in statuses:
        return EndpointStatus.RUNNING
    return EndpointStatus.FAILED if failed else EndpointStatus.INITIALIZING
