"""Views of endpoints and workers: the schemas, and the functions that fill them.

The functions return plain dictionaries; a test compares them with the schemas.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field, create_model
from pydantic.alias_generators import to_camel

from queue_engine.api.http.envelope import View
from queue_engine.api.v2.shown import plain, shown_type
from queue_engine.domain.catalogue import Catalogue
from queue_engine.domain.definitions import Defined
from queue_engine.domain.endpoints import SETTINGS, Endpoint, EndpointStatus, Expose, RateLimit, Resource, Setting
from queue_engine.domain.retry import RetryOn
from queue_engine.domain.workers import Worker, WorkerStatus


class ResourceView(View):
    """A region and GPU type on which workers may run."""

    region: str = Field(description="Region")
    gpu_type: str = Field(description="GPU type, in the catalogue's spelling")
    gpu_count: int = Field(description="GPUs for each worker")


class VariableView(View):
    """An environment variable without its value. The value is masked in workers' logs."""

    key: str = Field(description="Name")


class PlainVariableView(View):
    """An environment variable that is not a secret. Its value is not returned either."""

    key: str = Field(description="Name")
    secret: Literal[False] = Field(description="The value is not masked in workers' logs")


class ExposeView(View):
    """The port on which the container listens."""

    port: int = Field(description="1–65535")
    protocol: Literal["HTTP", "TCP"] = Field(description="Protocol of the port")


class RateLimitView(View):
    """A token bucket. Each attempt that begins takes a token."""

    per_second: float = Field(description="Tokens that are added in a second")
    burst: int = Field(description="Number of tokens that the bucket holds")


class _Shown(NamedTuple):
    """Form of a structured setting in a view."""

    type: Any
    show: Callable[[Endpoint], Any]


_SHOWN = {
    "resources": _Shown(
        list[ResourceView], lambda endpoint: [_resource_view(resource) for resource in endpoint.config.resources]
    ),
    "plain_variables": _Shown(
        list[PlainVariableView | VariableView],
        lambda endpoint: [_variable_view(name, endpoint.config.plain_variables) for name in endpoint.environment_names],
    ),
    "expose": _Shown(ExposeView | None, lambda endpoint: _expose_view(endpoint.config.expose)),
    "rate_limit": _Shown(RateLimitView | None, lambda endpoint: _rate_limit_view(endpoint.config.rate_limit)),
    "retry_on": _Shown(list[RetryOn], lambda endpoint: [word for word in RetryOn if word in endpoint.config.retry_on]),
    "retry_delays_seconds": _Shown(
        list[float], lambda endpoint: [plain(seconds) for seconds in endpoint.config.retry_delays_seconds]
    ),
}


def _shown_settings() -> dict[str, Any]:
    """Return the members of a view that are settings."""
    return {
        one.shown: (
            _SHOWN[one.name].type if one.name in _SHOWN else shown_type(one),
            Field(description=one.definition.text),
        )
        for one in SETTINGS
    }


class _EndpointState(View):
    """The state of an endpoint."""

    id: str = Field(description="A positive integer below 2^53", examples=["7"])
    status: EndpointStatus = Field(
        description="INITIALIZING: no worker runs yet; RUNNING: at least one worker runs; "
        "FAILED: all workers crash on start or are not ready in time"
    )
    running_workers: int = Field(description="Number of running workers")
    cost: float = Field(description="Price per hour of the desired workers; 0 without a price list")


if TYPE_CHECKING:

    class _EndpointSettings(_EndpointState):
        """The members that are made from the definitions."""

else:
    _EndpointSettings = create_model("_EndpointSettings", __base__=_EndpointState, **_shown_settings())


class EndpointView(_EndpointSettings):
    """An endpoint."""

    created_at: int = Field(description="Time of creation")
    updated_at: int = Field(description="Time of the last change")
    queued_tasks: int = Field(description="Tasks that wait for a worker or for their next attempt")
    running_tasks: int = Field(description="Tasks that are being executed now")
    paused: bool = Field(description="Workers begin no further tasks until the queue is resumed")


class EndpointDetailView(EndpointView):
    """An endpoint, and why it has no running worker."""

    error: str | None = Field(
        description="Why no worker runs: the error of the worker that was started last, or why the container engine or "
        "the cluster does not respond; null if a worker runs, if none should, or if it is not known"
    )


_FIRST = ("id", "name", "image", "status", "totalWorkers", "runningWorkers", "cost", "serviceMode", "webhook")


def endpoint_view(endpoint: Endpoint, catalogue: Catalogue) -> dict[str, Any]:
    """Return an EndpointView, with the most important members first."""
    view = {
        "id": endpoint.endpoint_id,
        "status": endpoint.status,
        "runningWorkers": endpoint.running_workers,
        "cost": catalogue.cost_per_hour(endpoint.config),
        **{to_camel(one.shown): _shown(one, endpoint) for one in SETTINGS},
        "createdAt": endpoint.created_at_ms,
        "updatedAt": endpoint.updated_at_ms,
        "queuedTasks": endpoint.counts.queued + endpoint.counts.scheduled,
        "runningTasks": endpoint.counts.running,
        "paused": endpoint.paused,
    }
    return {name: view[name] for name in (*_FIRST, *view)}


def endpoint_detail_view(endpoint: Endpoint, catalogue: Catalogue, error: str | None) -> dict[str, Any]:
    """Return an EndpointDetailView."""
    return endpoint_view(endpoint, catalogue) | {"error": error}


def _shown(setting: Defined[Setting], endpoint: Endpoint) -> Any:
    if setting.name in _SHOWN:
        return _SHOWN[setting.name].show(endpoint)
    value = getattr(endpoint.config, setting.name)
    return plain(value) if setting.kind is float else value


def _variable_view(name: str, plain: frozenset[str]) -> dict[str, Any]:
    return {"key": name, "secret": False} if name in plain else {"key": name}


def _resource_view(resource: Resource) -> dict[str, Any]:
    return {"region": resource.region, "gpuType": resource.gpu_type, "gpuCount": resource.gpu_count}


def _expose_view(expose: Expose | None) -> dict[str, Any] | None:
    return {"port": expose.port, "protocol": expose.protocol} if expose else None


def _rate_limit_view(limit: RateLimit | None) -> dict[str, Any] | None:
    return {"perSecond": plain(limit.per_second), "burst": limit.burst} if limit else None


_SECRET: dict[str, Any] = {
    "description": "Signing secret of the endpoint's webhooks: `whsec_` followed by base64, as in Standard Webhooks",
    "examples": ["whsec_MfKQ9r8GKYqrTwjU"],
}


class NewEndpointView(EndpointView):
    """An endpoint that was just created."""

    webhook_secret: str = Field(**_SECRET)


class WebhookSecretView(View):
    """The signing secret of an endpoint's webhooks."""

    secret: str = Field(**_SECRET)


class RotatedSecretView(WebhookSecretView):
    """A new signing secret. Only this response has it."""

    replaced_secret_ends_at: int = Field(
        description="Time until which webhooks are signed with the replaced secret too"
    )


class WorkerView(View):
    """A worker: a container and its agent."""

    worker_id: str = Field(description="Id of the worker")
    status: WorkerStatus = Field(description="RUNNING: the container is ready, by `readyPath` or an open port")
    created_at: int = Field(description="Time of creation")
    region: str | None = Field(description="Region of the worker; null if not known")
    gpu_type: str | None = Field(description="GPU type of the worker; null if not known")
    restarts: int = Field(description="Number of restarts after the worker ended or stopped reporting")
    last_heartbeat_at: int | None = Field(description="Time of the last report from its agent")
    running_tasks: int = Field(description="Tasks that the worker is executing now")
    error: str | None = Field(description="Reason of the failure")


def worker_view(worker: Worker, endpoint: Endpoint) -> dict[str, Any]:
    """Return a WorkerView. With several resources, the resource of a worker is not recorded, so it is null."""
    resources = endpoint.config.resources
    place = resources[0] if len(resources) == 1 else None
    return {
        "workerId": worker.worker_id,
        "status": worker.status,
        "createdAt": worker.created_at_ms,
        "region": place.region if place else None,
        "gpuType": place.gpu_type if place else None,
        "restarts": worker.restarts,
        "lastHeartbeatAt": worker.last_heartbeat_at_ms,
        "runningTasks": worker.running_tasks,
        "error": worker.error,
    }
