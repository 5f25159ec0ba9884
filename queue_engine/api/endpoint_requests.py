"""What a client sends to create an endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, AliasChoices, ConfigDict, Field
from pydantic.config import JsonDict

from queue_engine.api.fields import LINE, NO_NUL, VISIBLE, OptionalWebhook, Port, RequestModel, matching
from queue_engine.domain.catalogue import GpuCatalogue
from queue_engine.domain.endpoints import (
    DEFAULT_CONCURRENCY,
    DEFAULT_EXECUTION_TIMEOUT_SECONDS,
    DEFAULT_MAX_ATTEMPTS,
    DEFAULT_MAX_QUEUED_TASKS,
    DEFAULT_RESULT_RETENTION_SECONDS,
    EndpointConfig,
    Expose,
    Resource,
    ServiceMode,
)
from queue_engine.domain.errors import InvalidRequest

MAX_ENVIRONMENT_BYTES = 128 * 1024
"""All names and values: what a process can be started with is limited too."""
MAX_RETENTION_SECONDS = 31_536_000
MAX_EXECUTION_SECONDS = 2_592_000

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


def _protocol(text: str) -> str:
    if text.upper() not in ("HTTP", "TCP"):
        raise ValueError("must be http or tcp")
    return text.upper()


class ResourceRequest(RequestModel):
    """A place where workers may run."""

    region: Annotated[str, Field(min_length=1, max_length=64), LINE] = Field(description="Region, such as `us-east-3`")
    gpu_type: Annotated[str, Field(min_length=1, max_length=64), LINE] = Field(
        description="A GPU type of the catalogue, in any case; `CPU` for workers without one"
    )
    gpu_count: Annotated[int, Field(ge=1, le=64)] = Field(description="GPUs for each worker")


def _key_or_name(schema: dict[str, Any]) -> None:
    schema["properties"]["name"] = schema["properties"]["key"]
    schema["required"] = ["value"]
    schema["anyOf"] = [{"required": ["key"]}, {"required": ["name"]}]


class VariableRequest(RequestModel):
    """An environment variable of the container. The name may be given as `key` or as `name`."""

    model_config = ConfigDict(json_schema_extra=_key_or_name)

    key: VariableName = Field(  # type: ignore[pydantic-alias]
        validation_alias=AliasChoices("key", "name"), description="Name"
    )
    value: Annotated[str, Field(max_length=32 * 1024), NO_NUL] = Field(description="Value; never shown again")


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
    resources: Annotated[list[ResourceRequest], Field(min_length=1, max_length=100)] = Field(
        description="Where workers may run"
    )
    min_single_card_vram_in_gb: Annotated[int, Field(ge=0, le=1536)] | None = Field(
        None, description="Least video memory of one GPU, in GB"
    )
    min_single_card_vcpu: Annotated[int, Field(ge=0, le=1024)] | None = Field(
        None, description="Least virtual CPUs for one GPU"
    )
    min_single_card_ram_in_gb: Annotated[int, Field(ge=0, le=1536)] | None = Field(
        None, description="Least memory for one GPU, in GB"
    )
    workers: Annotated[int, Field(ge=0, le=1000)] = Field(description="Workers wanted")
    container_volume_in_gb: Annotated[int, Field(ge=20, le=1_000_000)] = Field(description="Storage of one worker")
    initialization_command: Annotated[str, Field(max_length=32 * 1024), NO_NUL] | None = Field(
        None, description="The command to run in the container"
    )
    environment_vars: Annotated[list[VariableRequest], Field(max_length=500)] = Field(
        [], description="Environment variables of the container; encrypted at rest"
    )
    expose: ExposeRequest | None = Field(None, description="The port on which the container listens")
    service_mode: Annotated[ServiceMode, Field(strict=False)] = Field(description="Only QUEUE endpoints take tasks")
    webhook: OptionalWebhook = Field(None, description="Told about every change of a worker's status")
    concurrency: Annotated[int, Field(ge=1, le=1000)] = Field(
        DEFAULT_CONCURRENCY, description="Tasks that one worker runs at once"
    )
    execution_timeout_seconds: Annotated[int, Field(ge=1, le=MAX_EXECUTION_SECONDS)] = Field(
        DEFAULT_EXECUTION_TIMEOUT_SECONDS, description="How long one attempt of a task may take"
    )
    max_attempts: Annotated[int, Field(ge=1, le=100)] = Field(
        DEFAULT_MAX_ATTEMPTS, description="Attempts of a task whose worker is busy or not up"
    )
    max_queued_tasks: Annotated[int, Field(ge=1, le=100_000_000)] = Field(
        DEFAULT_MAX_QUEUED_TASKS, description="Tasks that may wait; more are refused with 429"
    )
    result_retention_seconds: Annotated[int, Field(ge=1, le=MAX_RETENTION_SECONDS)] = Field(
        DEFAULT_RESULT_RETENTION_SECONDS, description="How long an ended task is kept"
    )

    def config(self, catalogue: GpuCatalogue) -> EndpointConfig:
        """What is stored. Raises InvalidRequest for what breaks a rule across fields, and for unknown names."""
        if self.container_registry_auth_id is not None:
            raise InvalidRequest("containerRegistryAuthId", "unknown credential")
        return EndpointConfig(
            name=self.name,
            image=self.image,
            service_mode=self.service_mode,
            resources=known_resources(self.resources, catalogue),
            workers=self.workers,
            container_volume_in_gb=self.container_volume_in_gb,
            image_registry=self.image_registry or None,
            min_single_card_vram_in_gb=self.min_single_card_vram_in_gb,
            min_single_card_vcpu=self.min_single_card_vcpu,
            min_single_card_ram_in_gb=self.min_single_card_ram_in_gb,
            initialization_command=self.initialization_command or None,
            environment=environment_of(self.environment_vars),
            expose=Expose(self.expose.port, self.expose.protocol) if self.expose else None,
            webhook=self.webhook.url if self.webhook else None,
            concurrency=self.concurrency,
            execution_timeout_seconds=self.execution_timeout_seconds,
            max_attempts=self.max_attempts,
            max_queued_tasks=self.max_queued_tasks,
            result_retention_seconds=self.result_retention_seconds,
        )


def environment_of(variables: Sequence[VariableRequest]) -> dict[str, str]:
    """Values by name. Raises InvalidRequest when a name comes twice, or all are too large together."""
    environment: dict[str, str] = {}
    for index, variable in enumerate(variables):
        if variable.key in environment:
            raise InvalidRequest(f"environmentVars[{index}].key", f"{variable.key} is given twice")
        environment[variable.key] = variable.value
    if sum(len(name) + len(value.encode()) for name, value in environment.items()) > MAX_ENVIRONMENT_BYTES:
        raise InvalidRequest("environmentVars", f"must be at most {MAX_ENVIRONMENT_BYTES} bytes in all")
    return environment


def known_resources(resources: Sequence[ResourceRequest], catalogue: GpuCatalogue) -> tuple[Resource, ...]:
    """The resources with GPU types as the catalogue spells them. Raises InvalidRequest for an unknown one."""
    known = []
    for index, resource in enumerate(resources):
        gpu_type = catalogue.canonical(resource.gpu_type)
        if gpu_type is None:
            raise InvalidRequest(f"resources[{index}].gpuType", f"must be one of {', '.join(catalogue.names)}")
        known.append(Resource(resource.region, gpu_type, resource.gpu_count))
    return tuple(known)
