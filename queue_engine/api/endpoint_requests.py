"""What a client sends to create an endpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, AliasChoices, ConfigDict, Field, ValidationInfo
from pydantic.config import JsonDict

from queue_engine.api.fields import (
    LINE,
    NO_NUL,
    VISIBLE,
    ContainerPath,
    ExecutionTimeout,
    FieldError,
    OptionalWebhook,
    Port,
    QueueTtl,
    RequestModel,
    WebhookUrl,
    listing,
    matching,
    parsed,
    parsed_changes,
    raise_for,
)
from queue_engine.domain.catalogue import Catalogue
from queue_engine.domain.endpoints import (
    DEFAULT_CONCURRENCY,
    DEFAULT_EXECUTION_TIMEOUT_SECONDS,
    DEFAULT_MAX_ATTEMPTS,
    DEFAULT_MAX_BUSY_SECONDS,
    DEFAULT_MAX_QUEUED_TASKS,
    DEFAULT_RESULT_RETENTION_SECONDS,
    DEFAULT_START_TIMEOUT_SECONDS,
    MAX_START_TIMEOUT_SECONDS,
    MIN_START_TIMEOUT_SECONDS,
    EndpointConfig,
    Expose,
    Resource,
    ServiceMode,
)
from queue_engine.domain.retry import DEFAULT_RETRY_ON, TASK_RETRY_DELAYS_SECONDS, RetryOn, TaskRetryPolicy

N = TypeVar("N", int, float)

MAX_WORKERS = 1000
MAX_ENVIRONMENT_BYTES = 128 * 1024
"""All names and values: what a process can be started with is limited too."""
MAX_RETENTION_SECONDS = 31_536_000
MAX_BUSY_SECONDS = 86_400
MAX_LISTED_CHARACTERS = 1000
"""Length of the list of known names in a message, because an operator's catalogue may hold any number."""

Name = Annotated[
    str,
    Field(min_length=1, max_length=20, json_schema_extra={"pattern": "^[A-Za-z][A-Za-z0-9@._-]{0,19}$"}),
    matching(r"[A-Za-z][A-Za-z0-9@._-]*", "must be letters, digits and any of @._-, and begin with a letter"),
]
VariableName = Annotated[
    str,
    Field(min_length=1, max_length=255, json_schema_extra={"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"}),
    matching(r"[A-Za-z_][A-Za-z0-9_]*", "must be letters, digits and _, and not begin with a digit"),
]


_EXAMPLE: JsonDict = {
    "name": "summarizer",
    "image": "registry.example/summarizer:3",
    "resources": [{"region": "us-east-3", "gpuType": "NVIDIA_RTX_4090_24G", "gpuCount": 1}],
    "workers": 2,
    "containerVolumeInGb": 20,
    "initializationCommand": "python serve.py",
    "environmentVars": [{"key": "MODEL", "value": "small"}],
    "expose": {"port": 8000, "protocol": "http"},
    "serviceMode": "QUEUE",
}
LeastVram = Annotated[int, Field(ge=0, le=1536)]
LeastVcpu = Annotated[int, Field(ge=0, le=1024)]
LeastRam = Annotated[int, Field(ge=0, le=1536)]
Command = Annotated[str, Field(max_length=32 * 1024), NO_NUL]
Workers = Annotated[int, Field(ge=0, le=MAX_WORKERS)]
Volume = Annotated[int, Field(ge=20, le=1_000_000)]
Concurrency = Annotated[int, Field(ge=1, le=1000)]
RetryOnWords = Annotated[list[Annotated[RetryOn, Field(strict=False)]], Field(max_length=len(RetryOn))]
RetryDelays = Annotated[
    list[Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)]], Field(min_length=1, max_length=20)
]
MaxAttempts = Annotated[int, Field(ge=1, le=100)]
MaxQueued = Annotated[int, Field(ge=1, le=100_000_000)]
Retention = Annotated[int, Field(ge=1, le=MAX_RETENTION_SECONDS)]
StartTimeout = Annotated[float, Field(ge=MIN_START_TIMEOUT_SECONDS, le=MAX_START_TIMEOUT_SECONDS, allow_inf_nan=False)]
MaxBusy = Annotated[float, Field(ge=0, le=MAX_BUSY_SECONDS, allow_inf_nan=False)]

_QUEUE_TTL = "How long a task may wait before it ends as expired; for ever when absent"
_CANCEL_URI = (
    "Path of the container that is called when an attempt is given up while its call runs: cancelled, timed out, "
    "released by a drain, or taken over; when absent, the call is only closed"
)
_READY_PATH = (
    "Path on the exposed port; a worker is RUNNING while GET of it responds 2xx. "
    "When absent: while the port accepts connections"
)
_START_TIMEOUT = "Time limit for one start of a worker until it is ready, in seconds"
_MAX_BUSY = "Seconds for which a task may meet only 429, 503 and refused connections before that is an attempt"
_RETRY_ON = "What an attempt must come to for another one to follow; never when empty"
_RETRY_DELAYS = "Seconds to wait after each attempt, ± 20 %; the last one repeats"


@dataclass(frozen=True)
class _Context:
    """The values that the validators of one body are passed."""

    catalogue: Catalogue
    variable_names: set[str] = field(default_factory=set)


def _known_gpu_type(text: str, info: ValidationInfo[_Context]) -> str:
    """Return the GPU type as the catalogue spells it."""
    known = info.context.catalogue.canonical(text)
    if known is None:
        raise ValueError(_one_of(info.context.catalogue.names))
    return known


def _known_region(text: str, info: ValidationInfo[_Context]) -> str:
    """Return the region as the catalogue spells it."""
    known = info.context.catalogue.canonical_region(text)
    if known is None:
        raise ValueError(_one_of(info.context.catalogue.regions))
    return known


def _one_of(names: Sequence[str]) -> str:
    return f"must be one of {listing(names, ', ', MAX_LISTED_CHARACTERS)}"


def _given_once(name: str, info: ValidationInfo[_Context]) -> str:
    if name in info.context.variable_names:
        raise ValueError(f"{name} is given twice")
    info.context.variable_names.add(name)
    return name


def _protocol(text: str) -> str:
    if text.upper() not in ("HTTP", "TCP"):
        raise ValueError("must be http or tcp")
    return text.upper()


class ResourceRequest(RequestModel):
    """A place where workers may run."""

    region: Annotated[str, Field(min_length=1, max_length=64), LINE, AfterValidator(_known_region)] = Field(
        description="Region, such as `us-east-3`"
    )
    gpu_type: Annotated[str, Field(min_length=1, max_length=64), LINE, AfterValidator(_known_gpu_type)] = Field(
        description="A GPU type of the catalogue, in any case; `CPU` for workers without one"
    )
    gpu_count: Annotated[int, Field(ge=1, le=64)] = Field(description="GPUs for each worker")


Resources = Annotated[list[ResourceRequest], Field(min_length=1, max_length=100)]


def _without_default(schema: dict[str, Any]) -> None:
    for name in ("name", "resources", "workers", "containerVolumeInGb"):
        del schema["properties"][name]["default"]


def _kept(description: str) -> Any:
    """Declare a field of a change that may be left out and cannot be null."""
    return Field(None, description=description)


def _key_or_name(schema: dict[str, Any]) -> None:
    schema["properties"]["name"] = schema["properties"]["key"]
    schema["required"] = ["value"]
    schema["anyOf"] = [{"required": ["key"]}, {"required": ["name"]}]


class VariableRequest(RequestModel):
    """An environment variable of the container. The name may be given as `key` or as `name`."""

    model_config = ConfigDict(json_schema_extra=_key_or_name)

    key: Annotated[VariableName, AfterValidator(_given_once)] = Field(  # type: ignore[pydantic-alias]
        validation_alias=AliasChoices("key", "name"), description="Name"
    )
    value: Annotated[str, Field(max_length=32 * 1024), NO_NUL] = Field(
        description="Value; never shown again, and masked in workers' logs when it has 6 characters or more"
    )
    secret: bool | None = Field(
        True, description="false: the value is not masked in workers' logs; null is the same as left out"
    )


def _small_together(variables: list[VariableRequest]) -> list[VariableRequest]:
    if sum(len(one.key) + len(one.value.encode()) for one in variables) > MAX_ENVIRONMENT_BYTES:
        raise ValueError(f"must be at most {MAX_ENVIRONMENT_BYTES} bytes in all")
    return variables


Variables = Annotated[list[VariableRequest], Field(max_length=500), AfterValidator(_small_together)]


class ExposeRequest(RequestModel):
    """The port on which the container listens."""

    port: Port = Field(description="1–65535")
    protocol: Annotated[str, AfterValidator(_protocol)] = Field(description="`http` or `tcp`, in any case")


class CreateEndpoint(RequestModel):
    """A new endpoint: what to run, where, and how many of it."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    name: Name = Field(description="1–20 of `[A-Za-z0-9@._-]`, first a letter")
    image: Annotated[str, Field(min_length=1, max_length=255), VISIBLE] = Field(description="Container image")
    image_registry: Annotated[str, Field(max_length=255), VISIBLE] | None = Field(
        None, description="Registry of the image; Docker Hub when absent"
    )
    container_registry_auth_id: int | None = Field(None, description="Id of a stored credential for the registry")
    resources: Resources = Field(description="Where workers may run")
    min_single_card_vram_in_gb: LeastVram | None = Field(None, description="Least video memory of one GPU, in GB")
    min_single_card_vcpu: LeastVcpu | None = Field(None, description="Least virtual CPUs for one GPU")
    min_single_card_ram_in_gb: LeastRam | None = Field(None, description="Least memory for one GPU, in GB")
    workers: Workers = Field(description="Workers wanted")
    container_volume_in_gb: Volume = Field(description="Storage of one worker")
    initialization_command: Command | None = Field(None, description="The command to run in the container")
    environment_vars: Variables = Field([], description="Environment variables of the container; encrypted at rest")
    expose: ExposeRequest | None = Field(None, description="The port on which the container listens")
    service_mode: Annotated[ServiceMode, Field(strict=False)] = Field(description="Only QUEUE endpoints take tasks")
    webhook: OptionalWebhook = Field(None, description="Told about every change of a worker's status")
    concurrency: Concurrency = Field(DEFAULT_CONCURRENCY, description="Tasks that one worker runs at once")
    execution_timeout_seconds: ExecutionTimeout = Field(
        DEFAULT_EXECUTION_TIMEOUT_SECONDS, description="How long one attempt of a task may take"
    )
    max_attempts: MaxAttempts = Field(
        DEFAULT_MAX_ATTEMPTS, description="Attempts of a task whose worker is busy or not up"
    )
    max_queued_tasks: MaxQueued = Field(
        DEFAULT_MAX_QUEUED_TASKS, description="Tasks that may wait; more are refused with 429"
    )
    result_retention_seconds: Retention = Field(
        DEFAULT_RESULT_RETENTION_SECONDS, description="How long an ended task is kept"
    )
    queue_ttl_seconds: QueueTtl | None = Field(None, description=_QUEUE_TTL)
    cancel_uri: ContainerPath | None = Field(None, description=_CANCEL_URI)
    ready_path: ContainerPath | None = Field(None, description=_READY_PATH)
    start_timeout_seconds: StartTimeout = Field(DEFAULT_START_TIMEOUT_SECONDS, description=_START_TIMEOUT)
    max_busy_seconds: MaxBusy = Field(DEFAULT_MAX_BUSY_SECONDS, description=_MAX_BUSY)
    retry_on: RetryOnWords | None = Field(None, description=_RETRY_ON)
    retry_delays_seconds: RetryDelays | None = Field(None, description=_RETRY_DELAYS)

    @classmethod
    def parse(cls, values: dict[str, Any], catalogue: Catalogue) -> tuple[CreateEndpoint, list[FieldError]]:
        """Return the new endpoint and its field errors, as `parsed` does."""
        made, errors = parsed(cls, values, lambda: _Context(catalogue))
        return made, errors + _errors_together(made.ready_path, made.expose, errors)

    def config(self) -> EndpointConfig:
        """Return the configuration to store."""
        return EndpointConfig(
            name=self.name,
            image=self.image,
            service_mode=self.service_mode,
            resources=_resources(self.resources),
            workers=self.workers,
            container_volume_in_gb=self.container_volume_in_gb,
            image_registry=self.image_registry or None,
            credential_id=self.container_registry_auth_id,
            min_single_card_vram_in_gb=self.min_single_card_vram_in_gb,
            min_single_card_vcpu=self.min_single_card_vcpu,
            min_single_card_ram_in_gb=self.min_single_card_ram_in_gb,
            initialization_command=self.initialization_command or None,
            environment=environment_of(self.environment_vars),
            plain_variables=_plain_variables(self.environment_vars),
            expose=Expose(self.expose.port, self.expose.protocol) if self.expose else None,
            webhook=self.webhook.url if self.webhook else None,
            concurrency=self.concurrency,
            execution_timeout_seconds=self.execution_timeout_seconds,
            max_attempts=self.max_attempts,
            max_queued_tasks=self.max_queued_tasks,
            result_retention_seconds=self.result_retention_seconds,
            queue_ttl_seconds=self.queue_ttl_seconds,
            cancel_uri=self.cancel_uri,
            ready_path=self.ready_path,
            start_timeout_seconds=self.start_timeout_seconds,
            max_busy_seconds=self.max_busy_seconds,
            retry_policy=TaskRetryPolicy(
                DEFAULT_RETRY_ON if self.retry_on is None else frozenset(self.retry_on),
                tuple(self.retry_delays_seconds or TASK_RETRY_DELAYS_SECONDS),
            ),
        )


class UpdateEndpoint(RequestModel):
    """Changes of an endpoint. A member left out keeps its value.

    An explicit null clears it, or brings back its default. The first four have neither: null breaks their rule.
    """

    model_config = ConfigDict(json_schema_extra=_without_default)

    name: Name = _kept("1–20 of `[A-Za-z0-9@._-]`, first a letter")
    resources: Resources = _kept("Where workers may run")
    workers: Workers = _kept("Workers wanted")
    container_volume_in_gb: Volume = _kept("Storage of one worker")
    container_registry_auth_id: int | None = Field(  # type: ignore[pydantic-alias]
        None,
        validation_alias=AliasChoices("containerRegistryAuthId", "credentialId"),
        description="Id of a stored credential for the registry; also taken as `credentialId`",
    )
    min_single_card_vram_in_gb: LeastVram | None = Field(None, description="Least video memory of one GPU, in GB")
    min_single_card_vcpu: LeastVcpu | None = Field(None, description="Least virtual CPUs for one GPU")
    min_single_card_ram_in_gb: LeastRam | None = Field(None, description="Least memory for one GPU, in GB")
    initialization_command: Command | None = Field(None, description="The command to run in the container")
    environment_vars: Variables | None = Field(  # type: ignore[pydantic-alias]
        None,
        validation_alias=AliasChoices("environmentVars", "envVars"),
        description="Environment variables of the container, all of them; also taken as `envVars`",
    )
    expose: ExposeRequest | None = Field(None, description="The port on which the container listens")
    webhook: WebhookUrl | None = Field(None, description="Told about every change of a worker's status")
    concurrency: Concurrency | None = Field(None, description="Tasks that one worker runs at once")
    execution_timeout_seconds: ExecutionTimeout | None = Field(
        None, description="How long one attempt of a task may take"
    )
    max_attempts: MaxAttempts | None = Field(None, description="Maximum number of attempts of a task")
    max_queued_tasks: MaxQueued | None = Field(None, description="Tasks that may wait; more are refused with 429")
    result_retention_seconds: Retention | None = Field(None, description="How long an ended task is kept")
    queue_ttl_seconds: QueueTtl | None = Field(None, description=_QUEUE_TTL)
    cancel_uri: ContainerPath | None = Field(None, description=_CANCEL_URI)
    ready_path: ContainerPath | None = Field(None, description=_READY_PATH)
    start_timeout_seconds: StartTimeout | None = Field(None, description=_START_TIMEOUT)
    max_busy_seconds: MaxBusy | None = Field(None, description=_MAX_BUSY)
    retry_on: RetryOnWords | None = Field(None, description=_RETRY_ON)
    retry_delays_seconds: RetryDelays | None = Field(None, description=_RETRY_DELAYS)

    @classmethod
    def parse(
        cls, values: dict[str, Any], catalogue: Catalogue, before: EndpointConfig
    ) -> tuple[UpdateEndpoint, list[FieldError]]:
        """Return the changes and the field errors that they and `before` have, as `parsed_changes` does."""
        changes, errors = parsed_changes(cls, values, lambda: _Context(catalogue))
        after = changes._applied_to(before)
        return changes, errors + _errors_together(after.ready_path, after.expose, errors)

    def environment(self) -> dict[str, str] | None:
        """Return the new environment; None when it stays."""
        if "environment_vars" not in self.model_fields_set:
            return None
        return environment_of(self.environment_vars or [])

    def edited(self, before: EndpointConfig) -> EndpointConfig:
        """Return `before` with these changes. Raises InvalidRequest for fields that are not valid together."""
        after = self._applied_to(before)
        raise_for(_errors_together(after.ready_path, after.expose))
        return after

    def _applied_to(self, before: EndpointConfig) -> EndpointConfig:
        changes: dict[str, Any] = {}
        for name, (member, value_of) in _CHANGES.items():
            if name in self.model_fields_set:
                changes[member] = value_of(getattr(self, name))
        return replace(before, retry_policy=self._retry_policy(before.retry_policy), **changes)

    def _retry_policy(self, before: TaskRetryPolicy) -> TaskRetryPolicy:
        on, delays = before.on, before.delays_seconds
        if "retry_on" in self.model_fields_set:
            on = DEFAULT_RETRY_ON if self.retry_on is None else frozenset(self.retry_on)
        if "retry_delays_seconds" in self.model_fields_set:
            delays = tuple(self.retry_delays_seconds or TASK_RETRY_DELAYS_SECONDS)
        return TaskRetryPolicy(on, delays)


def _errors_together(
    ready_path: str | None, expose: Expose | ExposeRequest | None, errors: Sequence[FieldError] = ()
) -> list[FieldError]:
    """Return the errors of fields that are valid one by one and not together; none because of one in `errors`."""
    if ready_path is None or expose is not None or any(name.startswith("expose") for name, _ in errors):
        return []
    return [("readyPath", "needs expose, whose port it is requested on")]


def _or_default(default: N) -> Callable[[N | None], N]:
    return lambda value: default if value is None else value


def _as_given(value: Any) -> Any:
    return value


def _resources(resources: Sequence[ResourceRequest]) -> tuple[Resource, ...]:
    return tuple(Resource(one.region, one.gpu_type, one.gpu_count) for one in resources)


# The member of a request, the field of the configuration, and how the one becomes the other; null clears.
_CHANGES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "name": ("name", _as_given),
    "resources": ("resources", _resources),
    "workers": ("workers", _as_given),
    "container_volume_in_gb": ("container_volume_in_gb", _as_given),
    "container_registry_auth_id": ("credential_id", _as_given),
    "min_single_card_vram_in_gb": ("min_single_card_vram_in_gb", _as_given),
    "min_single_card_vcpu": ("min_single_card_vcpu", _as_given),
    "min_single_card_ram_in_gb": ("min_single_card_ram_in_gb", _as_given),
    "initialization_command": ("initialization_command", lambda command: command or None),
    "environment_vars": ("plain_variables", lambda variables: _plain_variables(variables or ())),
    "expose": ("expose", lambda expose: Expose(expose.port, expose.protocol) if expose else None),
    "webhook": ("webhook", lambda webhook: webhook.url if webhook else None),
    "concurrency": ("concurrency", _or_default(DEFAULT_CONCURRENCY)),
    "execution_timeout_seconds": ("execution_timeout_seconds", _or_default(DEFAULT_EXECUTION_TIMEOUT_SECONDS)),
    "max_attempts": ("max_attempts", _or_default(DEFAULT_MAX_ATTEMPTS)),
    "max_queued_tasks": ("max_queued_tasks", _or_default(DEFAULT_MAX_QUEUED_TASKS)),
    "result_retention_seconds": ("result_retention_seconds", _or_default(DEFAULT_RESULT_RETENTION_SECONDS)),
    "queue_ttl_seconds": ("queue_ttl_seconds", _as_given),
    "cancel_uri": ("cancel_uri", _as_given),
    "ready_path": ("ready_path", _as_given),
    "start_timeout_seconds": ("start_timeout_seconds", _or_default(DEFAULT_START_TIMEOUT_SECONDS)),
    "max_busy_seconds": ("max_busy_seconds", _or_default(DEFAULT_MAX_BUSY_SECONDS)),
}


def environment_of(variables: Sequence[VariableRequest]) -> dict[str, str]:
    """Return the values by name."""
    return {variable.key: variable.value for variable in variables}


def _plain_variables(variables: Sequence[VariableRequest]) -> frozenset[str]:
    return frozenset(variable.key for variable in variables if variable.secret is False)
