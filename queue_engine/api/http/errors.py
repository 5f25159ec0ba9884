"""The table that maps exceptions to HTTP responses, and the exceptions that only HTTP has."""

from __future__ import annotations

import logging
import uuid

from starlette.exceptions import HTTPException
from starlette.types import Scope

from queue_engine.api.http.rate_headers import rate_headers
from queue_engine.api.http.responses import Headers, Response, failure
from queue_engine.domain.errors import (
    EndpointClosed,
    EngineError,
    Forbidden,
    InvalidRequest,
    NotFound,
    PreconditionFailed,
    RateLimitReached,
    Resource,
    StateConflict,
    StoreUnavailable,
    TooManyRequests,
    Unauthorized,
)

log = logging.getLogger(__name__)

INVALID_REQUEST = 10001
INTERNAL = 10002
TOO_MANY = 429
ENDPOINT_NOT_FOUND = 14000

CLOSE: Headers = ((b"connection", b"close"),)


class BodyTooLarge(EngineError):
    """The body is larger than the limit."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"body: must be at most {limit} bytes")


class NotJson(EngineError):
    """The body is not declared as JSON in UTF-8."""

    def __init__(self, rule: str) -> None:
        super().__init__(f"body: {rule}")


class ForeignPage(EngineError):
    """A request to the console names another host, or comes from a page that is not the console's."""


class BodyStalled(EngineError):
    """The client stopped sending in the middle of the body."""

    def __init__(self) -> None:
        super().__init__("body: did not arrive in time")


class WorkerUnavailable(EngineError):
    """No running worker accepts the request, or the worker that accepted it sent no valid response."""

    retry_after_seconds = 1


class ResponseCutOff(Exception):
    """A worker's response ended after its start was sent on, so the connection to the client must end too."""


class ClientGone(Exception):
    """The client closed the connection before its body was complete, so no response is sent."""


_NOT_FOUND_CODES = {
    Resource.ENDPOINT: ENDPOINT_NOT_FOUND,
    Resource.TASK: 24011,
    Resource.WORKER: 10007,
    Resource.CREDENTIAL: 10007,
    Resource.KEY: 10007,
    Resource.AGENT_TOKEN: 10007,
    Resource.TENANT: 10007,
    Resource.RECOVERY: 10007,
    Resource.OPERATION: 10007,
}

_STATUS_AND_CODE: tuple[tuple[type[EngineError], int, int], ...] = (
    (InvalidRequest, 400, INVALID_REQUEST),
    (BodyStalled, 400, INVALID_REQUEST),
    (Unauthorized, 401, 40101),
    (Forbidden, 403, 40301),
    (ForeignPage, 403, 40301),
    (StateConflict, 409, 12001),
    (EndpointClosed, 409, 24000),
    (PreconditionFailed, 412, 12001),
    (BodyTooLarge, 413, INVALID_REQUEST),
    (NotJson, 415, INVALID_REQUEST),
    (TooManyRequests, 429, TOO_MANY),
    (StoreUnavailable, 503, INTERNAL),
    (WorkerUnavailable, 503, INTERNAL),
)


def response_to(error: Exception, scope: Scope) -> Response:
    """Return the response to `error`. An unexpected error is logged under an id that the response contains."""
    if isinstance(error, HTTPException):
        return _routing_failure(error, scope)
    status, code, message = failure_of(error, scope)
    return failure(status, code, message, _headers_for(error) if isinstance(error, EngineError) else ())


def failure_of(error: Exception, scope: Scope) -> tuple[int, int, str]:
    """Return the HTTP status, the code and the message of an error. An unexpected error is logged under an id that the
    message contains.
    """
    if isinstance(error, NotFound):
        return 404, _NOT_FOUND_CODES[error.resource], str(error)
    for kind, status, code in _STATUS_AND_CODE:
        if isinstance(error, kind):
            return status, code, str(error)
    error_id = uuid.uuid4().hex[:16]
    log.error("internal error", exc_info=error, extra={"error_id": error_id, "method": scope["method"]})
    return 500, INTERNAL, f"internal error, id {error_id}"


def _headers_for(error: EngineError) -> Headers:
    if isinstance(error, (TooManyRequests, StoreUnavailable, WorkerUnavailable)):
        seconds = error.retry_after_seconds
        rates = rate_headers(error.rates) if isinstance(error, RateLimitReached) else ()
        return rates if seconds is None else ((b"retry-after", b"%d" % seconds), *rates)
    if isinstance(error, Unauthorized):
        return ((b"www-authenticate", b"ApiKey"),)
    return CLOSE if isinstance(error, BodyStalled) else ()


def _routing_failure(error: HTTPException, scope: Scope) -> Response:
    """Return the response for a path that does not exist, or that does not have this method."""
    if error.status_code == 405:
        allowed = (error.headers or {})["Allow"]
        return failure(405, INVALID_REQUEST, f"method: must be one of {allowed}", ((b"allow", allowed.encode()),))
    code = ENDPOINT_NOT_FOUND if scope["path"].startswith("/v2/serverless") else INVALID_REQUEST
    return failure(404, code, "no such path")
