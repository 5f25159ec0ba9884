"""The pages on the HTTP API: its operations and objects from the OpenAPI document, and its errors from their tables."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from unittest.mock import Mock

from queue_engine.api.app import create_app
from queue_engine.api.http.errors import _NOT_FOUND_CODES, _STATUS_AND_CODE
from queue_engine.api.http.operations import ROLES, DescribedRoute
from queue_engine.api.public.openapi import describe
from queue_engine.config.catalogue import load_catalogue
from queue_engine.config.engine import ApiSettings
from queue_engine.delivery.responses import ERROR_TEXTS, ERROR_TYPES
from queue_engine.domain.errors import NotFound
from tests.reference_text import MADE, limits_of, shown_default, table

_HTTP_API = f"""# HTTP API

{MADE}

The running API serves the same as `/openapi.json` (OpenAPI 3.1) and as a page at `/docs`. Requests to `/v2` and `/e`
need one API key: `X-Api-Key: <key>` or `Authorization: Bearer <key>`. Each operation lists the roles of keys that allow
it; any other role gets 403 ([roles](../operations/security.md#roles)). Every JSON response is an envelope
`{{{{message, code, data}}}}`; this page describes `data`. Errors have the same envelope: [Errors](errors.md).

{{sections}}
## Objects

{{objects}}
"""


def http_api() -> str:
    """Return the page on all operations and objects."""
    document = _document()
    sections = "".join(_section(document, tag) for tag in document["tags"])
    objects = "\n".join(_object(document, name, schema) for name, schema in _objects(document))
    return _HTTP_API.format(sections=sections, objects=objects).rstrip() + "\n"


def _document() -> dict[str, Any]:
    app = create_app(ApiSettings.model_construct(api_metrics="public"), Mock(), Mock(), load_catalogue(None))
    return describe(route for route in app.router.routes if isinstance(route, DescribedRoute))


def _section(document: dict[str, Any], tag: dict[str, str]) -> str:
    operations = "\n".join(
        _operation(document, f"{method.upper()} {path}" if path.startswith("/") else path, operation)
        for path, methods in (document["paths"] | document["webhooks"]).items()
        for method, operation in methods.items()
        if tag["name"] in operation["tags"]
    )
    return f"## {tag['name'].capitalize()}\n\n{tag['description']}.\n\n{operations}\n"


def _operation(document: dict[str, Any], name: str, operation: dict[str, Any]) -> str:
    lines = [f"### `{name}`", "", f"{operation['summary']}.", ""]
    if text := operation.get("description"):
        lines += [" ".join(text.split()), ""]
    if parameters := operation.get("parameters"):
        rows = [
            (f"`{one['name']}`", one["in"], _type(document, one["schema"]), one.get("description", ""))
            for one in parameters
        ]
        lines += [table(("parameter", "in", "type", "meaning"), rows), ""]
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    data = _data_of(document, operation)
    facts = [
        *([f"Roles: {', '.join(operation[ROLES])}."] if operation.get(ROLES) else []),
        *([f"Body: {_type(document, body)}."] if body else []),
        *([f"`data`: {data}."] if data else []),
        *([f"Errors: {', '.join(failures)}."] if (failures := _failures(operation)) else []),
    ]
    return "\n".join([*lines, *([" ".join(facts), ""] if facts else [])])


def _failures(operation: dict[str, Any]) -> list[str]:
    return [status for status in operation["responses"] if status.isdigit() and int(status) >= 400]


def _data_of(document: dict[str, Any], operation: dict[str, Any]) -> str:
    schema = operation["responses"].get("200", {}).get("content", {}).get("application/json", {}).get("schema", {})
    envelope = document["components"]["schemas"].get(str(schema.get("$ref", "")).rpartition("/")[2], {})
    return _type(document, envelope["properties"]["data"]) if envelope else ""


def _objects(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, schema in sorted(document["components"]["schemas"].items()):
        if schema.get("properties") and not name.startswith("Success_"):
            yield name, schema


def _object(document: dict[str, Any], name: str, schema: dict[str, Any]) -> str:
    required = schema.get("required", ())
    rows = [
        (
            f"`{member}`" + (" (required)" if member in required else ""),
            _type(document, described),
            described.get("description", "") + _default(described),
        )
        for member, described in schema["properties"].items()
    ]
    text = f"{' '.join(schema['description'].split())}\n\n" if "description" in schema else ""
    return f"### {name}\n\n{text}{table(('member', 'type', 'meaning'), rows)}\n"


def _default(schema: dict[str, Any]) -> str:
    return f". Default: {shown_default(schema['default'])}" if schema.get("default") not in (None, "", []) else ""


def _type(document: dict[str, Any], schema: Mapping[str, Any]) -> str:
    """Return the type and limits of a value, with links to the objects of this page."""
    if "anyOf" in schema:
        return " or ".join(_type(document, one) for one in schema["anyOf"])
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        resolved = document["components"]["schemas"][name]
        return f"[{name}](#{name.lower()})" if resolved.get("properties") else _type(document, resolved)
    if schema.get("type") == "array" and (items := schema.get("items")):
        return f"list of {_type(document, items)}"
    if schema.get("type") == "null":
        return "null"
    if "type" not in schema and "enum" not in schema and "const" not in schema:
        return "any JSON"
    return limits_of(dict(schema), {})


_ERRORS = f"""# Errors

{MADE}

## Error responses of the API

Every error is `{{{{"message": …, "code": …, "data": null}}}}`. `message` names the field and the rule. Decide by the
HTTP status and `code`, never by the text.

A member of a body that the call does not have is ignored, also a misspelt one, because clients may send more than a
call needs. A request that begins an operation on many tasks refuses unknown members. Unknown filters are refused there
and in the query of a list, and so is a parameter of any query whose name looks misspelt.

{{codes}}

Responses with 429 and 503 have a `Retry-After` header in whole seconds: retry after that time. A 429 without it names a
quota for which waiting does not help. A failed request makes no change in part. A submission with a `taskId` is safe to
retry after any failure and after a timeout. 500 is an error inside the engine: its `message` has an id, and the API's
log has the traceback under this id.

## Error types of failed HTTP calls

The error types of failed HTTP requests are a closed set. The error type is `error` in the list of delivery attempts
(`GET …/tasks/{{{{taskId}}}}/deliveries`), and the label `class` in the metrics of deliveries.

{{types}}

## Outcomes of an attempt

`GET …/tasks/{{{{taskId}}}}/attempts` has one entry for each attempt. A released attempt does not count: the next one
has the same number (`TRY` in `queue-engine tasks attempts`).
[State machine](../internals/state-machine.md#attempts) lists the outcomes.
[Retries and timeouts](../guides/retries-and-timeouts.md) lists the outcomes that are retried.
"""

_WHAT_TO_DO = {
    "dns_error": "check the host name; a name that resolves to a private address has the same error type",
    "connect_refused": "start the receiver, or correct the port",
    "connect_timeout": "look for a firewall that drops packets, or an overloaded receiver",
    "tls_error": "renew the certificate, complete its chain, or correct https to http",
    "read_timeout": "respond within 15 s, and do the work after the response",
    "reset": "look at the receiver's log: it closed the connection, or crashed",
    "bad_response": "check the protocol of the port: it is not HTTP, or the headers exceed 64 KiB",
    "blocked_address": "use a public address, or name its network in `QUEUE_ENGINE_WEBHOOK_ALLOW`",
    "invalid_request": "correct the URL or the auth key",
    "internal": "read the delivery process's log, and report the error",
    "redirect": "use the URL to which the receiver redirects: redirects are not followed",
    "gone": "none: with 410 the receiver asks for no further attempts, and gets none",
    "rate_limited": "none, or raise the receiver's limit; `Retry-After` is respected up to 6 hours",
    "http_4xx": "look at the response in `deliveries`: often a wrong secret or auth key",
    "http_5xx": "look at the receiver's log",
}
_STATUS_TYPES = {
    "redirect": "3xx",
    "gone": "410",
    "rate_limited": "429",
    "http_4xx": "any other 4xx",
    "http_5xx": "5xx",
}


def errors() -> str:
    """Return the page on error responses and error types."""
    codes = table(("HTTP", "code", "when"), _error_rows())
    types = table(("error type", "meaning", "what to do"), _type_rows())
    return _ERRORS.format(codes=codes, types=types)


def _error_rows() -> Iterator[Sequence[str]]:
    rows = [(status, code, _first_line(kind)) for kind, status, code in _STATUS_AND_CODE]
    rows += [
        (404, code, f"The {resource.value} does not exist, or belongs to another tenant")
        for resource, code in _NOT_FOUND_CODES.items()
    ]
    rows += [
        (404, 10001, "No such path"),
        (405, 10001, "The path does not have this method; `Allow` lists its methods"),
        (500, 10002, "An error inside the engine"),
    ]
    yield from ((str(status), str(code), text) for status, code, text in sorted(rows))


def _first_line(kind: type[Exception]) -> str:
    return (inspect.getdoc(kind) or "").partition("\n")[0].rstrip(".")


def _type_rows() -> Iterator[Sequence[str]]:
    assert _WHAT_TO_DO.keys() == ERROR_TYPES
    assert issubclass(NotFound, Exception)
    for word, advice in _WHAT_TO_DO.items():
        meaning = ERROR_TEXTS.get(word) or f"the response was {_STATUS_TYPES[word]}"
        yield f"`{word}`", meaning, advice
