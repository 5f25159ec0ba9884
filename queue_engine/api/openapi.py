"""The OpenAPI 3.1 description of the API."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from queue_engine import __version__
from queue_engine.api.operations import Operation
from queue_engine.api.views import Failure

TITLE = "Queue Engine"
_DESCRIPTION = (
    "Elastic endpoints and their task queues. Every answer is an envelope `{message, code, data}`; `code` is 10000 for "
    "success. Times are epoch milliseconds. Members of a request that are not listed here are ignored."
)
_TAGS = [
    {"name": "endpoints", "description": "What runs: an image, and how many workers of it"},
    {"name": "tasks", "description": "Work for the workers of a QUEUE endpoint"},
    {"name": "requests", "description": "Requests to the workers of an ALB endpoint: each goes to the least busy one"},
    {"name": "credentials", "description": "Access to the registries that images come from"},
    {"name": "operations", "description": "For those who run this server; no API key is needed"},
]


def describe(routes: Iterable[APIRoute]) -> dict[str, Any]:
    """The OpenAPI document of these routes."""
    routes = list(routes)
    document = get_openapi(
        title=TITLE,
        version=__version__,
        openapi_version="3.1.0",
        description=_DESCRIPTION,
        routes=routes,
        tags=_TAGS,
    )
    components = document.setdefault("components", {})
    components["securitySchemes"] = {
        "ApiKey": {
            "type": "apiKey",
            "in": "header",
            "name": "X-Api-Key",
            "description": "The API key. With an `Authorization` header of any scheme beside it the request is refused "
            "with 401",
        },
        "Bearer": {"type": "http", "scheme": "bearer", "description": "The API key"},
    }
    schemas = components.setdefault("schemas", {})
    operations = [route for route in routes if isinstance(route, Operation)]
    taken = {operation.takes for operation in operations if operation.takes is not None}
    schemas |= _named_schemas({*taken, Failure})
    for schema in schemas.values():
        _tidy(schema)
    return document


def _named_schemas(models: set[type[BaseModel]]) -> dict[str, Any]:
    """Return the schemas of models that operations refer to by name, with those that these refer to."""
    named = sorted(models, key=lambda model: model.__name__)
    _, definitions = models_json_schema(
        [(model, "validation") for model in named], ref_template="#/components/schemas/{model}"
    )
    schemas: dict[str, Any] = definitions.get("$defs", {})
    return schemas


def _tidy(schema: dict[str, Any]) -> None:
    """Leave out what pydantic adds and nobody needs: titles made of names, and null as a default for absence."""
    for member in schema.get("properties", {}).values():
        member.pop("title", None)
        if member.get("default", ...) is None:
            del member["default"]
