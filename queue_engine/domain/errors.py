"""The exceptions of the engine. Their text is written for the client that sent the request.

EngineError
├── InvalidRequest          a field or a query parameter breaks its rule
├── Unauthorized            no valid API key; one and the same text for every reason
├── NotFound                an endpoint, task, worker or credential that the caller cannot see
├── StateConflict           the state of the resource forbids the request
├── EndpointClosed          the endpoint takes no tasks now
├── TooManyRequests         rate limit or full queue; has the time after which to retry
└── StoreUnavailable        the store does not respond or refuses writes; has the time after which to retry
"""

from __future__ import annotations

from enum import StrEnum


class EngineError(Exception):
    """Root of all errors that may be shown to a client."""


class InvalidRequest(EngineError):
    """A field breaks its rule: the message is `<field>: <rule>`."""

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(f"{field}: {rule}")
        self.field = field
        self.rule = rule


class Unauthorized(EngineError):
    """The API key is missing, malformed, unknown, revoked or sent twice."""

    def __init__(self) -> None:
        super().__init__("X-Api-Key: one valid API key is required")


class Resource(StrEnum):
    """The kind of resource that was not found."""

    ENDPOINT = "endpoint"
    TASK = "task"
    WORKER = "worker"
    CREDENTIAL = "credential"


class NotFound(EngineError):
    """The resource does not exist, or it belongs to another tenant."""

    def __init__(self, resource: Resource) -> None:
        super().__init__(f"{resource.value} not found")
        self.resource = resource


class StateConflict(EngineError):
    """The state of the resource does not allow the request."""


class EndpointClosed(EngineError):
    """The endpoint is stopped, stopping or failed and takes no tasks."""


class TooManyRequests(EngineError):
    """The rate limit, or the limit of waiting tasks, is reached.

    `scope` is the limit's name in the metrics; `retry_after_seconds` is at least 1.
    """

    def __init__(self, message: str, *, scope: str, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.scope = scope
        self.retry_after_seconds = max(1, retry_after_seconds)


class StoreUnavailable(EngineError):
    """The store cannot be reached or refuses writes. No change was made in part."""

    def __init__(self, reason: str, *, retry_after_seconds: int = 1) -> None:
        super().__init__(f"the store is unavailable: {reason}")
        self.reason = reason
        self.retry_after_seconds = max(1, retry_after_seconds)
