"""Requests to the API without I/O: what to send, what a response means, and when to send it again.

An operation is a generator that yields requests and receives their responses, so that it is written once for both
clients. A request that got no response is raised in the generator as Unavailable.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote

from queue_engine.client.errors import ApiError, QueueFull, Unavailable, api_error

T = TypeVar("T")

ENDPOINTS = "v2/serverless"
DEFAULT_TIMEOUT_SECONDS = 60.0
"""Time for which a call is retried."""
RESPONSE_SECONDS = 30.0
"""Time limit of a response that does not wait for a task."""
FIRST_DELAY_SECONDS = 0.1
MAX_DELAY_SECONDS = 5.0
MAX_RETRY_AFTER_SECONDS = 3600.0
_RETRIED_STATUSES = frozenset({429, 502, 503, 504})


@dataclass(frozen=True)
class Request:
    """A request, which is sent after a pause of `after` seconds."""

    method: str
    path: str
    query: Mapping[str, str | int] = field(default_factory=dict)
    body: bytes | None = field(default=None, repr=False)
    repeatable: bool = True
    """True if a second request has no further effect, so that a request without a response may be sent again."""
    timeout: float = RESPONSE_SECONDS
    """Seconds without a byte of the response after which it counts as lost."""
    after: float = 0.0
    content_type: str = "application/json"
    if_match: str | None = None
    """The `etag` of the object that is changed. If it has another one, the API refuses the change."""


@dataclass(frozen=True)
class Response:
    """The response to a request."""

    status: int
    body: bytes
    retry_after: float | None = None
    etag: str | None = None
    """The version of the object, as the header `ETag` has it."""
    content_type: str = ""
    disposition: str = ""
    """The header `Content-Disposition`."""


Flow: TypeAlias = Generator[Request, Response, T]


class NotSent(Unavailable):
    """No connection could be made, so the API has not seen the request."""


@dataclass(frozen=True)
class Patience:
    """How long an operation is retried. `clock` returns seconds of a monotonic clock."""

    clock: Callable[[], float]
    until: float

    @classmethod
    def of(cls, seconds: float, clock: Callable[[], float]) -> Patience:
        return cls(clock, clock() + seconds)

    def longer(self, seconds: float) -> Patience:
        """Return the patience for a request that the API may hold for some seconds: they do not count."""
        return replace(self, until=self.until + seconds)

    def delay(self, error: ApiError, failures: int) -> float | None:
        """Return the seconds to wait before the next try after `failures` failures; None if there is no time left."""
        backoff = min(MAX_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** min(failures - 1, 16))
        delay = backoff * (1 + random.random()) / 2 if error.retry_after is None else error.retry_after
        return delay if self.clock() + delay < self.until else None


def path_of(*parts: str) -> str:
    """Return the path of a call of endpoints. Raises ValueError for a part such as `..`."""
    return path_under(ENDPOINTS, *parts)


def path_under(first: str, *parts: str) -> str:
    """Return a path of `first` and the other parts, which are escaped. Raises ValueError for a part such as `..`."""
    for part in parts:
        if part in ("", ".", ".."):  # which an HTTP client would resolve, into the path of something else
            raise ValueError(f"{part!r} is not an id or a name")
    return "/".join([f"/{first}", *(quote(part, safe="") for part in parts)])


def json_text(value: object) -> bytes:
    """Return a value as JSON text. Raises ValueError or TypeError for one that is no JSON."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def call(request: Request, patience: Patience) -> Flow[Any]:
    """Send a request, again while that may help, and return the `data` of its response. Raises ApiError."""
    return (yield from call_for(data_of, request, patience))


def call_for_version(request: Request, patience: Patience) -> Flow[tuple[Any, str | None]]:
    """Send a request as `call` does, and return the `data` and the `etag` of its response. Raises ApiError."""
    return (yield from call_for(lambda response: (data_of(response), response.etag), request, patience))


def call_for(read: Callable[[Response], T], request: Request, patience: Patience) -> Flow[T]:
    """Send a request as `call` does, and return what `read` finds in its response. Raises ApiError."""
    failures = 0
    while True:
        try:
            return read((yield request))
        except ApiError as error:
            failures += 1
            delay = patience.delay(error, failures) if may_help(error, request) else None
            if delay is None:
                raise
            request = replace(request, after=delay)


def data_of(response: Response) -> Any:
    """Return the `data` of a response. Raises ApiError if it is an error, or not of the API."""
    try:
        envelope = json.loads(response.body)
    except (ValueError, RecursionError):
        envelope = None
    if not isinstance(envelope, dict) or "data" not in envelope:
        kind = Unavailable if response.status in _RETRIED_STATUSES else ApiError
        raise kind(f"HTTP {response.status} without the envelope of the API", status=response.status)
    if response.status == 200:
        return envelope["data"]
    message, code = str(envelope.get("message")), envelope.get("code")
    code = code if isinstance(code, int) else None
    raise api_error(message, status=response.status, code=code, retry_after=response.retry_after)


def may_help(error: ApiError, request: Request) -> bool:
    """Return True if the same request may succeed a little later, and no harm comes from sending it again."""
    if isinstance(error, NotSent | QueueFull) or error.status == 503:  # the API has done nothing
        return True
    return request.repeatable and isinstance(error, Unavailable) and error.status in {None, *_RETRIED_STATUSES}
