"""The exceptions of the engine. Their text is written for the client that sent the request.

EngineError
├── InvalidRequest          a field or a query parameter breaks its rule
├── Unauthorized            no valid API key or agent token; the same text for every reason
├── Forbidden               the role of the API key does not allow the call
├── NotFound                an object that does not exist, or that the caller cannot see
│   └── NoOutput            a task that has not succeeded
├── StateConflict           the state of the resource forbids the request
├── PreconditionFailed      the resource is not in the state that the request names
├── EndpointClosed          the endpoint takes no tasks now
├── TooManyRequests         rate limit or full queue; has the time after which to retry
│   ├── RateLimitReached    too many submissions in this second
│   └── QuotaReached        a tenant has the maximum number of something
└── StoreUnavailable        the store does not respond or refuses writes; has the time after which to retry
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from queue_engine.domain.rates import RateScope, RateState

API_KEY_RULE = "X-Api-Key: one valid API key is required"


class EngineError(Exception):
    """Root of all errors that may be shown to a client."""


class InvalidRequest(EngineError):
    """A field breaks its rule: the message is `<field>: <rule>`."""

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(f"{field}: {rule}")
        self.field = field
        self.rule = rule


class Unauthorized(EngineError):
    """The API key is missing, malformed, unknown, revoked, expired or sent twice."""

    def __init__(self, rule: str = API_KEY_RULE) -> None:
        super().__init__(rule)


class Forbidden(EngineError):
    """The role of the API key does not allow the call."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"X-Api-Key: {reason}")


class Resource(StrEnum):
    """The kind of resource that was not found."""

    ENDPOINT = "endpoint"
    TASK = "task"
    WORKER = "worker"
    CREDENTIAL = "credential"
    KEY = "key"
    AGENT_TOKEN = "agent token"  # noqa: S105 - the name of a resource
    TENANT = "tenant"
    RECOVERY = "recovery"
    OPERATION = "operation"


class NotFound(EngineError):
    """The resource does not exist, or it belongs to another tenant."""

    def __init__(self, resource: Resource) -> None:
        super().__init__(f"{resource.value} not found")
        self.resource = resource


class NoOutput(NotFound):
    """The task has no output, because it has not succeeded."""

    def __init__(self, state: str, *, has_ended: bool) -> None:
        super().__init__(Resource.TASK)
        self.args = (f"the task has no output: it {f'ended as {state}' if has_ended else f'has not ended ({state})'}",)


class StateConflict(EngineError):
    """The state of the resource does not allow the request."""


class PreconditionFailed(EngineError):
    """The resource was changed since the state that the request names with `If-Match`."""

    def __init__(self, what: str) -> None:
        super().__init__(f"If-Match: the {what} was changed since it was read")


class EndpointClosed(EngineError):
    """The endpoint is stopped, stopping or failed and takes no tasks."""


class TooManyRequests(EngineError):
    """A limit of requests, waiting tasks or another quota is reached, which the message names.

    `scope` is the limit's name in the metrics; `retry_after_seconds` is at least 1, and None where waiting does not
    help.
    """

    def __init__(self, message: str, *, scope: str, retry_after_seconds: int | None) -> None:
        super().__init__(message)
        self.scope = scope
        self.retry_after_seconds = None if retry_after_seconds is None else max(1, retry_after_seconds)


_RATE_RULES = {
    RateScope.TENANT: "submitsPerSecond: the tenant may submit at most {} tasks per second",
    RateScope.KEY: "maxSubmitsPerSecond: the API key may submit at most {} tasks per second",
    RateScope.ENDPOINT: "maxSubmitsPerSecond: the endpoint takes at most {} submissions per second",
}
RATE_RETRY_SECONDS = 1
"""`Retry-After` at a rate limit. A limit is at least one per second, so that a token is back after a second."""


class RateLimitReached(TooManyRequests):
    """The rate limit `reached` allows no further submission in this second. `others` apply to the submission too."""

    def __init__(self, reached: RateState, others: Sequence[RateState] = ()) -> None:
        super().__init__(
            _RATE_RULES[reached.scope].format(reached.per_second),
            scope="submits",
            retry_after_seconds=RATE_RETRY_SECONDS,
        )
        self.limit = f"{reached.scope}SubmitsPerSecond"
        self.rates = (*others, reached)


class QuotaReached(TooManyRequests):
    """The tenant has its maximum number of something. The message is `<limit>: <rule>`, `limit` is the limit's name."""

    def __init__(self, message: str, *, limit: str, retry_after_seconds: int | None = None) -> None:
        super().__init__(message, scope="quota", retry_after_seconds=retry_after_seconds)
        self.limit = limit


class StoreUnavailable(EngineError):
    """The store cannot be reached or refuses writes. No change was made in part."""

    def __init__(self, reason: str, *, retry_after_seconds: int = 1) -> None:
        super().__init__(f"the store is unavailable: {reason}")
        self.reason = reason
        self.retry_after_seconds = max(1, retry_after_seconds)
