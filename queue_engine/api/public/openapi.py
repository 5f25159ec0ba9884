"""The OpenAPI 3.1 description of the API."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from queue_engine import __version__
from queue_engine.api.http.envelope import Failure
from queue_engine.api.http.operations import DescribedRoute
from queue_engine.api.public.webhooks import EVENTS, TAG, describe_webhooks

_JSON = "application/json"
TITLE = "Queue Engine"
_DESCRIPTION = (
    "Elastic endpoints and their task queues. Every response is an envelope `{message, code, data}`; `code` is 10000 "
    "for success. Times are epoch milliseconds. Unknown members of a request are ignored, "
    "except where its schema allows no additional ones."
)
_TAGS = [
    {"name": "endpoints", "description": "Endpoints: an image, its settings and the number of workers"},
    {"name": "tasks", "description": "Tasks for the workers of a QUEUE endpoint"},
    {"name": "deliveries", "description": "Deliveries of tasks' results to webhooks"},
    {"name": "requests", "description": "Requests to an ALB endpoint. Each is sent to the least busy worker"},
    {"name": "credentials", "description": "Credentials for the registries of images"},
    {"name": "keys", "description": "API keys, their roles, and the changes made with them"},
    {"name": "events", "description": "Streams of the states of endpoints, tasks, logs and operations"},
    {"name": "system", "description": "The state of the installation: warnings, store, processes, use of a tenant"},
    {"name": "tenants", "description": "Tenants and their limits, for operators"},
    {"name": TAG, "description": "Requests that the engine sends to the webhooks of tasks and endpoints"},
    {"name": "operations", "description": "Health, metrics and documentation; no API key is needed"},
]
_SECURITY_SCHEMES = {
    "ApiKey": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Api-Key",
        "description": "The API key. A request that also has an `Authorization` header, of any scheme, is refused "
        "with 401",
    },
    "Bearer": {"type": "http", "scheme": "bearer", "description": "The API key"},
}


def describe(routes: Iterable[DescribedRoute]) -> dict[str, Any]:
    """Return the OpenAPI document of these routes."""
    routes = list(routes)
    responses, schemas = _schemas(routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        for method in route.methods or ():
            paths.setdefault(route.path_format, {})[method.lower()] = _operation(route, responses.get(route.name))
    return {
        "openapi": "3.1.0",
        "info": {"title": TITLE, "description": _DESCRIPTION, "version": __version__},
        "paths": paths,
        "webhooks": describe_webhooks(),
        "components": {"schemas": schemas, "securitySchemes": _SECURITY_SCHEMES},
        "tags": [dict(tag) for tag in _TAGS],
    }


def _operation(route: DescribedRoute, schema: dict[str, Any] | None) -> dict[str, Any]:
    success: dict[str, Any] = {"description": route.success}
    if schema is not None:
        success["content"] = {_JSON: {"schema": schema}}
    elif route.media_type is not None:
        success["content"] = {route.media_type: {"schema": {} if route.media_type == _JSON else {"type": "string"}}}
    if route.has_lines:
        success["content"]["application/x-ndjson"] = {"schema": {"type": "string"}}
    responses = {"200": success, **{str(status): response for status, response in route.responses.items()}}
    return {**route.described, "responses": responses}


def _schemas(routes: Sequence[DescribedRoute]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the schema of each route's response by the route's name, and the schemas that are referred to by name."""
    responses = {route.name: TypeAdapter(route.response_model) for route in routes if route.response_model is not None}
    taken = {route.takes for route in routes if route.takes is not None}
    sent = {event for event, _ in EVENTS.values()}
    models: list[type[BaseModel]] = sorted({*taken, *sent, Failure}, key=lambda model: model.__name__)
    inputs: list[tuple[str, JsonSchemaMode, TypeAdapter[Any]]] = [
        *((name, "serialization", adapter) for name, adapter in responses.items()),
        *((model.__name__, "validation", TypeAdapter(model)) for model in models),
    ]
    made, definitions = TypeAdapter.json_schemas(inputs, ref_template="#/components/schemas/{model}")
    schemas: dict[str, Any] = definitions["$defs"]
    for schema in schemas.values():
        _tidy(schema)
    return {name: made[(name, "serialization")] for name in responses}, schemas


def _tidy(schema: dict[str, Any]) -> None:
    """Remove two things that pydantic adds: titles made of names, and null as a default for absence."""
    for member in schema.get("properties", {}).values():
        member.pop("title", None)
        if member.get("default", ...) is None:
            del member["default"]
