"""The outermost layer: turns exceptions into responses and measures requests."""

from __future__ import annotations

from http import HTTPStatus
from time import perf_counter

from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from queue_engine.api.http.errors import ClientGone, ResponseCutOff, response_to
from queue_engine.api.http.refused_requests import RefusedRequests
from queue_engine.domain.errors import StoreUnavailable, TooManyRequests
from queue_engine.observability import metrics

CLIENT_GONE = 499
"""Status in the metrics of a request whose client closed the connection before the response."""

_KNOWN_STATUSES = {CLIENT_GONE} | set(HTTPStatus)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Edge:
    """Wraps the routes. Turns an exception of a handler into a response, unless a response has begun."""

    def __init__(self, app: ASGIApp, refused: RefusedRequests) -> None:
        self._app = app
        self._refused = refused
        self._requests: dict[tuple[str, str, str], Counter] = {}
        self._durations: dict[tuple[str, str], Histogram] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        method, scope = scope["method"], _routed(scope)
        status = 0

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note_status)
        except (ClientGone, ResponseCutOff):  # the server closes the connection: the response is incomplete
            status = status or CLIENT_GONE
        except Exception as error:
            if status:
                raise
            self._note(error)
            await response_to(error, scope).send(note_status)
        finally:
            self._measure(scope, method, status, perf_counter() - started)

    def _note(self, error: Exception) -> None:
        """Count or log the errors that an operator must notice."""
        if isinstance(error, TooManyRequests):
            metrics.rate_limited.labels(scope=error.scope).inc()
        elif isinstance(error, StoreUnavailable):
            self._refused.note(error)

    def _measure(self, scope: Scope, method: str, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path_format", "unmatched")
        method = method if method in _METHODS else "OTHER"
        self._counter(route, method, _code(status)).inc()
        self._duration(route, method).observe(seconds)

    # Cached because `labels()` costs more than the counting. Both caches are bounded: routes, methods and statuses are
    # closed sets.
    def _counter(self, route: str, method: str, code: str) -> Counter:
        key = (route, method, code)
        if key not in self._requests:
            self._requests[key] = metrics.http_requests.labels(route=route, method=method, code=code)
        return self._requests[key]

    def _duration(self, route: str, method: str) -> Histogram:
        key = (route, method)
        if key not in self._durations:
            self._durations[key] = metrics.http_request_duration.labels(route=route, method=method)
        return self._durations[key]


def _routed(scope: Scope) -> Scope:
    """Return the scope that routes are matched with: `HEAD` as `GET`, and a path of `/v2` without its trailing slash.

    The server drops the body of a response to `HEAD`. Requests under `/e/` reach the worker as they are.
    """
    raw_path: bytes = scope["raw_path"]
    changes: dict[str, str | bytes] = {}
    if scope["method"] == "HEAD" and not raw_path.startswith(b"/e/"):
        changes["method"] = "GET"
    if raw_path.endswith(b"/") and raw_path.startswith(b"/v2/"):
        changes |= {"path": scope["path"][:-1], "raw_path": raw_path[:-1]}
    return {**scope, **changes} if changes else scope


def _code(status: int) -> str:
    """Return the status for the metrics, such as `404`, or `7xx` for one that is not registered.

    Workers of an ALB endpoint choose their own statuses, so without this rule each status would be a new time series.
    """
    return str(int(status)) if status in _KNOWN_STATUSES else f"{status // 100}xx"
