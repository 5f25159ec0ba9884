"""An operation of the API: a route whose handler is called directly, described in full for OpenAPI.

Starlette routes; handlers read the request and render the response themselves.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from typing import Any, NoReturn

from pydantic import BaseModel
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from queue_engine.api.http.bodies import release
from queue_engine.api.http.envelope import Failure
from queue_engine.api.http.headers import named
from queue_engine.api.http.order_log import log_order
from queue_engine.api.http.responses import Sendable
from queue_engine.domain.errors import InvalidRequest
from queue_engine.domain.principals import Right, roles_with

SECURITY: list[dict[str, list[str]]] = [{"ApiKey": []}, {"Bearer": []}]
ROLES = "x-roles"
"""The member of an operation's description that lists the roles that allow it."""

Handler = Callable[[Request], Awaitable[Sendable]]
Serve = Callable[[Scope, Receive, Send], Awaitable[Sendable | None]]
"""Function that sends the response to a request, or returns it for its caller to send."""

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_FAILURES = {
    400: "A field or a query parameter breaks its rule, or a writing request carries a `webhook-id` header",
    401: "The API key is missing, malformed, unknown, revoked, expired or sent twice",
    403: "The role of the API key does not allow the operation",
    404: "Not found, or owned by another tenant",
    409: "The current state does not allow the operation",
    412: "The object was changed since the state that `If-Match` names",
    413: "The body is too large",
    415: "The body is not declared as JSON",
    429: "A limit is reached, which the message names; `Retry-After` says when to retry, where waiting helps",
    500: "Internal error; the message has the id under which it is logged",
    503: "The store is unreachable or refuses writes; `Retry-After` says when to retry",
}
_RETRY_AFTER = {"Retry-After": {"description": "Whole seconds", "schema": {"type": "integer", "minimum": 1}}}


class DescribedRoute(Route):
    """`serve` at `method path`, with its description for OpenAPI.

    `right` is the right that a key needs, and None for a route without a key. Every route declares it, and
    `Services.admit` checks it.
    """

    response_model: Any = None
    media_type: str | None = None
    takes: type[BaseModel] | None = None
    has_lines = False
    """True if it also takes JSON lines, and responds with them."""
    waits = False
    """True for a long poll, whose duration is no measure of the server."""
    query_names: frozenset[str] = frozenset()
    """The names of its query parameters. A request with a name that is probably one of them, mistyped, is refused."""
    is_exact = False
    """True if the route has no parameters and no other route has its path, so that it is found by the path alone."""

    def __init__(
        self,
        method: str,
        path: str,
        serve: Serve,
        *,
        right: Right | None,
        name: str,
        summary: str,
        text: str | None,
        tag: str,
        responses: dict[int | str, dict[str, Any]],
        described: dict[str, Any],
        success: str = "Successful Response",
    ) -> None:
        super().__init__(path, _not_called, methods=[method], name=name)
        self.right = right
        self.serve = serve
        self.method = method
        self.methods = {method}  # Starlette adds HEAD, but the edge turns HEAD into GET
        self.responses = responses
        self.success = success
        about = {"description": inspect.cleandoc(text)} if text else {}
        access: dict[str, Any] = {"security": [] if right is None else SECURITY}
        if right is not None:
            access[ROLES] = [role.value for role in roles_with(right)]
        self.described = {"tags": [tag], "summary": summary, **about, "operationId": name, **described, **access}

    def parameters_in(self, scope: Scope) -> dict[str, str] | None:
        """Return the parameters in the path of a request; None if the path is not this route's."""
        found = self.path_regex.match(scope["path"])
        return None if found is None else found.groupdict()


def _not_called(_request: Request) -> NoReturn:
    """Stand for the endpoint that Starlette requires: `serve` is called instead."""
    raise NotImplementedError


class Operation(DescribedRoute):
    """`handler` at `method path`.

    `response` is the schema of a successful response. For a response that is not JSON, `media_type` is its type.
    `failures` are the HTTP statuses of errors besides 500 and those that follow from `right`, `takes` is the schema of
    the request's body, and `parameters` are the parameters of the path and the query. `only_reads` is True for a POST
    that changes nothing, or whose handler logs it, and `waits` for a long poll. `has_lines` is True if the operation
    also takes JSON lines, and responds with them. The handler's docstring is part of the API's description.

    A writing operation under `/v2` refuses webhook deliveries: a task whose webhook is this API, at an address that is
    not known as its own, would otherwise submit or retry itself forever.
    """

    def __init__(
        self,
        method: str,
        path: str,
        handler: Handler,
        *,
        right: Right | None,
        summary: str,
        tag: str,
        response: Any = None,
        media_type: str | None = None,
        failures: Sequence[int] = (),
        takes: type[BaseModel] | None = None,
        has_lines: bool = False,
        parameters: Sequence[dict[str, Any]] = (),
        only_reads: bool = False,
        waits: bool = False,
    ) -> None:
        writes = method not in SAFE_METHODS and path.startswith("/v2/")
        statuses = sorted({*failures, 500, *((400,) if writes else ()), *failures_of(right)})
        described: dict[str, Any] = {"requestBody": _body(takes)} if takes is not None else {}
        if has_lines:
            described["requestBody"]["content"]["application/x-ndjson"] = {"schema": {"type": "string"}}
        if parameters:
            described["parameters"] = list(parameters)
        super().__init__(
            method,
            path,
            _responding(handler, writes=writes, is_order=writes and not only_reads),
            right=right,
            name=handler.__name__,
            summary=summary,
            text=handler.__doc__,
            tag=tag,
            responses={status: described_failure(status) for status in statuses},
            described=described,
        )
        self.query_names = frozenset(one["name"] for one in parameters if one["in"] == "query")
        self.response_model = response
        self.media_type = media_type
        self.takes = takes
        self.has_lines = has_lines
        self.waits = waits


def _responding(handler: Handler, *, writes: bool, is_order: bool) -> Serve:
    async def serve(scope: Scope, receive: Receive, _send: Send) -> Sendable:
        if writes:
            _check_no_delivery(scope)
        try:
            response = await handler(Request(scope, receive))
        finally:
            release(scope)
        if is_order:
            log_order(handler.__name__, scope)
        return response

    return serve


def failures_of(right: Right | None) -> tuple[int, ...]:
    """Return the HTTP statuses of errors that follow from the right that a route needs."""
    if right is None:
        return ()
    return (401, 429, 503) if right is Right.IDENTIFY else (401, 403, 429, 503)


def _check_no_delivery(scope: Scope) -> None:
    # Only this spelling: all Standard Webhooks senders use it, and this server does not treat webhook_id as the same
    # name.
    if b"webhook-id" in named(scope):
        raise InvalidRequest("webhook-id", "marks a webhook delivery; operations that change something refuse it")


@cache
def described_failure(status: int) -> dict[str, Any]:
    """Return the description of an error response, for OpenAPI. All operations share it, so it must not be changed."""
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{Failure.__name__}"}}}
    response: dict[str, Any] = {"description": _FAILURES[status], "content": content}
    return response | {"headers": _RETRY_AFTER} if status in (429, 503) else response


def _body(takes: type[BaseModel]) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{takes.__name__}"}
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def in_path(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Return a parameter of the path, for OpenAPI."""
    return {"name": name, "in": "path", "required": True, "description": description, "schema": schema}


def in_header(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Return an optional header of the request, for OpenAPI."""
    return {"name": name, "in": "header", "required": False, "description": description, "schema": schema}


def in_query(name: str, description: str, schema: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return an optional parameter of the query, for OpenAPI."""
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema, **more}
