"""The outermost layer: turns exceptions into responses and measures requests."""

from __future__ import annotations

from http import HTTPStatus
from time import perf_counter

from prometheus_client import Counter, Histogram
from starlette.types import Message, Receive, Scope, Send

from queue_engine.api.http.errors import ClientGone, ResponseCutOff, response_to
from queue_engine.api.http.operations import Serve
from queue_engine.api.http.refused_requests import RefusedRequests
from queue_engine.domain.errors import QuotaReached, RateLimitReached, StoreUnavailable, TooManyRequests
from queue_engine.observability import metrics

WAITED = "queue_engine.waited"
"""Set in the scope of a request that was a long poll, although not all requests of its route are."""
WITHOUT_BODY = "queue_engine.without_body"
"""Set in the scope of a `HEAD`, so that a handler need not make a long body that is dropped."""
CLIENT_GONE = 499
"""Status in the metrics of a request whose client closed the connection before the response."""

_KNOWN_STATUSES = {CLIENT_GONE} | set(HTTPStatus)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def count_refusal(error: TooManyRequests) -> None:
    """Count a request, or a task of a batch, that a limit refuses."""
    metrics.rate_limited.labels(scope=error.scope).inc()
    if isinstance(error, (QuotaReached, RateLimitReached)):
        metrics.limit_refusals.labels(limit=error.limit).inc()


class Edge:
    """Wraps the routes. Turns an exception of a handler into a response, unless a response has begun."""

    def __init__(self, serve: Serve, refused: RefusedRequests) -> None:
        self._serve = serve
        self._refused = refused
        self._figures: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = perf_counter()
        method, scope = scope["method"], _routed(scope)
        status = 0

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            response = await self._serve(scope, receive, note_status)
            if response is not None:
                status = response.status
                await response.send(send)
        except (ClientGone, ResponseCutOff):  # the server closes the connection: the response is incomplete
            status = status or CLIENT_GONE
        except Exception as error:
            if status:
                raise
            self._note(error)
            response = response_to(error, scope)
            status = response.status
            await response.send(send)
        finally:
            self._measure(scope, method, status, perf_counter() - started)

    def _note(self, error: Exception) -> None:
        """Count or log the errors that an operator must notice."""
        if isinstance(error, TooManyRequests):
            count_refusal(error)
        elif isinstance(error, StoreUnavailable):
            self._refused.note(error)

    def _measure(self, scope: Scope, method: str, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path_format", "unmatched")
        key = (route, method if method in _METHODS else "OTHER", status)
        count, duration = self._figures.get(key) or self._figures_of(*key)
        count.inc()
        # A WebSocket lasts as long as its client wants, and a long poll until a task comes.
        is_poll = WAITED in scope or getattr(scope.get("route"), "waits", False)
        if status != HTTPStatus.SWITCHING_PROTOCOLS and not is_poll:
            duration.observe(seconds)

    def _figures_of(self, route: str, method: str, status: int) -> tuple[Counter, Histogram]:
        """Return the counter and the histogram of such requests, and keep them: `labels()` costs more than counting.

        What is kept is bounded, because routes, methods and statuses of three digits are closed sets.
        """
        figures = (
            metrics.http_requests.labels(route=route, method=method, code=_code(status)),
            metrics.http_request_duration.labels(route=route, method=method),
        )
        self._figures[route, method, status] = figures
        return figures


def _routed(scope: Scope) -> Scope:
    """Return the scope that routes are matched with: `HEAD` as `GET`, and a path of `/v2` without its trailing slash.

    The server drops the body of a response to `HEAD`. Requests under `/e/` reach the worker as they are.
    """
    raw_path: bytes = scope["raw_path"]
    changes: dict[str, str | bytes | bool] = {}
    if scope["method"] == "HEAD" and not raw_path.startswith(b"/e/"):
        changes |= {"method": "GET", WITHOUT_BODY: True}
    if raw_path.endswith(b"/") and raw_path.startswith(b"/v2/"):
        changes |= {"path": scope["path"][:-1], "raw_path": raw_path[:-1]}
    return {**scope, **changes} if changes else scope


def _code(status: int) -> str:
    """Return the status for the metrics, such as `404`, or `7xx` for one that is not registered.

    Workers of an ALB endpoint choose their own statuses, so without this rule each status would be a new time series.
    """
    return str(int(status)) if status in _KNOWN_STATUSES else f"{status // 100}xx"
