"""The API's description from which the console's types are made: `python -m tests.console_types` writes it.

A test compares the file with the application, and another with what a running API serves.
"""

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

from queue_engine.api.agent.routes import AgentRoute
from queue_engine.api.app import create_app
from queue_engine.api.http.operations import DescribedRoute
from queue_engine.api.public.openapi import describe
from queue_engine.config.catalogue import load_catalogue
from queue_engine.config.engine import ApiSettings

APP = Path(__file__).resolve().parents[1] / "queue_engine" / "web" / "app"
FILE = APP / "openapi.json"
_TYPED = ("operationId", "parameters", "requestBody")
_TEXTS = frozenset({"description", "examples", "example", "summary", "title"})


def described() -> dict[str, Any]:
    """The OpenAPI document of the API with the settings of `up`."""
    app = create_app(ApiSettings.model_construct(api_metrics="public"), Mock(), Mock(), load_catalogue(None))
    routes = [route for route in app.router.routes if isinstance(route, DescribedRoute)]
    return reduced(describe(route for route in routes if _is_described(route)))


def reduced(document: dict[str, Any]) -> dict[str, Any]:
    """The parts of a document that types are made from, so that the file changes only when a type does."""
    paths = {
        path: {method: _typed(operation) for method, operation in operations.items()}
        for path, operations in document["paths"].items()
        if path.startswith("/v2/")
    }
    schemas = document["components"]["schemas"]
    return {
        "openapi": document["openapi"],
        "info": {"title": document["info"]["title"], "version": "0"},
        "paths": paths,
        "components": {"schemas": {name: _without_texts(schema) for name, schema in schemas.items()}},
    }


def _typed(operation: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {name: operation[name] for name in _TYPED if name in operation}
    kept["responses"] = {"200": operation["responses"]["200"] | {"description": ""}}
    typed: dict[str, Any] = _without_texts(kept)
    return typed


def _without_texts(value: Any) -> Any:
    """The value without texts for readers, except members of an object that have such a name."""
    if isinstance(value, list):
        return [_without_texts(one) for one in value]
    if not isinstance(value, dict):
        return value
    kept = {}
    for name, one in value.items():
        if name == "properties":
            kept[name] = {member: _without_texts(schema) for member, schema in one.items()}
        elif name not in _TEXTS or (name == "description" and one == ""):
            kept[name] = _without_texts(one)
    return kept


def text() -> str:
    """The text of the file."""
    return json.dumps(described(), indent=1, ensure_ascii=False) + "\n"


def _is_described(route: DescribedRoute) -> bool:
    return not isinstance(route, AgentRoute) and not route.path.startswith("/console")


if __name__ == "__main__":
    FILE.write_text(text())
