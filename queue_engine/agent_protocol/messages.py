"""The messages of the protocol. Unknown members are ignored, so that either side may be newer than the other.

Lengths, numbers and patterns are checked when a message is decoded. Times are epoch milliseconds of the store's clock.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from queue_engine.domain.attempts import Renewal
from queue_engine.domain.endpoints import DesiredState, ServiceMode
from queue_engine.domain.retry import RetryOn
from queue_engine.domain.tasks import Cost
from queue_engine.domain.workers import WorkerStatus

MAX_CLAIMS = 64
"""Maximum number of tasks that one call claims from each queue of the endpoint."""
MAX_TOGETHER = 24
"""Maximum number of attempts that one call starts or ends, and of claims that it puts back."""
MAX_LEASES = 500
"""Maximum number of leases that one call renews."""
MAX_LOG_LINES = 500
MAX_WAIT_MS = 25_000
"""Maximum wait of a long poll. Reverse proxies end a request that is silent for 30 or 60 seconds."""
MAX_TEXT = 64 * 1024
"""Maximum length of an error. It repeats 2 KiB of a container's response, and names other text by its own limits."""

WorkerId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}\Z")]
TaskId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_]{1,255}\Z")]
Token = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
"""The random token of an attempt, which the agent makes: a start repeated with the same token is the same attempt."""
CallId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]
ClaimText = Annotated[str, Meta(min_length=1, max_length=320)]
"""A claimed task, as the server describes it. The agent sends it back unchanged."""
Text = Annotated[str, Meta(max_length=MAX_TEXT)]
Address = Annotated[str, Meta(max_length=320)]
"""`host:port` of the container."""
Place = Annotated[str, Meta(pattern=r"^(?:[0-9]{1,20}-[0-9]{1,20})?\Z")]
"""A place in the sequence of cancellations; empty: none."""
Count = Annotated[int, Meta(ge=0, le=2**53)]
Seconds = Annotated[float, Meta(ge=0, le=2_592_000)]
Milliseconds = Annotated[float, Meta(ge=0, le=2**53)]


class Done(Struct, frozen=True):
    """The response of a call without a result."""


class WorkerRequest(Struct, frozen=True):
    """A request that names only the worker: `register`, `remove`, `hello`."""

    worker: WorkerId


class HelloResponse(Struct, frozen=True):
    """The settings of the endpoint, and the limits of the server."""

    endpoint: str
    service_mode: ServiceMode
    concurrency: int
    start_timeout_seconds: float
    lease_seconds: float
    """Time without a renewal after which a lease expires. The agent renews four times as often."""
    log_retention_seconds: float
    max_request_bytes: int
    """Maximum size of a request. An output that does not fit makes its task fail."""
    max_response_bytes: int
    """Maximum size of a response, which an agent may refuse to exceed."""
    exposed_port: int | None = None
    ready_path: str | None = None


class ClaimRequest(Struct, frozen=True):
    """Claim tasks. If none waits, the response comes with the first one, and at the latest after `wait_ms`.

    The response is empty, before the time, when the server drains, and when the worker calls again: a worker has one
    claim at a time. A repeated call with the same `claim_id` returns what the first one claimed, if the same process
    still knows it. With `is_repeated` the call claims nothing else and does not wait. Claims whose response was lost
    are queued again by the server, at once if it notices.
    """

    worker: WorkerId
    claim_id: CallId
    limit: Annotated[int, Meta(ge=1, le=MAX_CLAIMS)]
    wait_ms: Annotated[int, Meta(ge=0, le=MAX_WAIT_MS)]
    is_repeated: bool = False


class ClaimResponse(Struct, frozen=True):
    claims: Annotated[tuple[ClaimText, ...], Meta(max_length=2 * MAX_CLAIMS)] = ()


class Start(Struct, frozen=True):
    """Start an attempt: see `Claim.start` of the agent's ports."""

    claim: ClaimText
    token: Token
    address: Address
    is_ahead: bool = False


class StartRequest(Struct, frozen=True):
    worker: WorkerId
    starts: Annotated[tuple[Start, ...], Meta(min_length=1, max_length=MAX_TOGETHER)]


class AttemptHead(Struct, frozen=True, omit_defaults=True):
    """A started attempt without its input."""

    task: TaskId
    attempt: Count
    number: Count
    created_at_ms: Count
    """`StartedAttempt.queued_at_ms`, by the name that it has in version 1 of the protocol."""
    started_at_ms: Count
    timeout_seconds: Annotated[float, Meta(ge=0)]
    used_attempts: Count
    """`Budget.attempt`; the next three are the rest of the budget."""
    max_attempts: Count
    connections_lost: Count = 0
    busy_tries: Count = 0
    is_suspect: bool = False
    is_first: bool = True
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    path: str = ""
    headers: dict[str, str] = {}
    traceparent: str | None = None
    unreadable: str | None = None
    """The reason why the server cannot open the task's headers. The attempt then has no input."""
    is_key_missing: bool = False


class StartResult(Struct, frozen=True, omit_defaults=True):
    """The result of one start. STALE: the claim is no longer valid. ERROR: see `error`."""

    word: Literal["OK", "STALE", "ERROR"]
    attempt: AttemptHead | None = None
    error: Text = ""


class StartResponse(Struct, frozen=True, omit_defaults=True):
    """The results of the first starts, at least of one; the agent sends the others again.

    The blobs are the inputs of the readable attempts, in their order.
    """

    results: Annotated[tuple[StartResult, ...], Meta(max_length=MAX_TOGETHER)]
    retry_on: tuple[RetryOn, ...]
    retry_delays_seconds: Annotated[tuple[float, ...], Meta(min_length=1, max_length=1000)]
    cancel_uri: str | None = None


class PutBackRequest(Struct, frozen=True):
    worker: WorkerId
    claims: Annotated[tuple[ClaimText, ...], Meta(min_length=1, max_length=MAX_TOGETHER)]


class LeaseName(Struct, frozen=True, array_like=True):
    """A lease of the token's endpoint."""

    task: TaskId
    token: Token


class RenewRequest(Struct, frozen=True):
    """Renew leases. The calls of the first `begun` attempts have begun."""

    worker: WorkerId
    leases: Annotated[tuple[LeaseName, ...], Meta(min_length=1, max_length=MAX_LEASES)]
    begun: Annotated[int, Meta(ge=0, le=MAX_LEASES)] = 0


class RenewResponse(Struct, frozen=True):
    words: Annotated[tuple[Renewal, ...], Meta(max_length=MAX_LEASES)]


class WatchRequest(Struct, frozen=True):
    """Wait for cancellations after a place, which a response has named; without a place, from now on."""

    worker: WorkerId
    wait_ms: Annotated[int, Meta(ge=0, le=MAX_WAIT_MS)]
    after: Place = ""


class WatchResponse(Struct, frozen=True):
    """Tasks of the worker whose cancellation was requested. The agent renews their leases, which returns CANCEL.

    A hint, so that the agent need not wait for its next renewal: it may name a task twice, or not at all.
    """

    after: Place
    """The place from which the next request continues."""
    tasks: Annotated[tuple[TaskId, ...], Meta(max_length=1000)] = ()


class SucceededEnd(Struct, frozen=True, tag="succeeded", tag_field="kind"):
    """The attempt succeeded. Its output is the next blob of the frame."""

    task: TaskId
    token: Token


class FailedEnd(Struct, frozen=True, tag="failed", tag_field="kind"):
    task: TaskId
    token: Token
    error: Text
    state: Literal["failed", "timed_out", "cancelled"]


class RetriedEnd(Struct, frozen=True, tag="retried", tag_field="kind"):
    """The task is retried: the fields of `TryAgain`."""

    task: TaskId
    token: Token
    error: Text
    delay_seconds: Seconds
    attempt_outcome: Literal["error", "timeout", "busy", "no_connection", "connection_lost"]
    cost: Cost
    last_error: Text = ""
    retry_after_seconds: Seconds | None = None


class ReleasedEnd(Struct, frozen=True, tag="released", tag_field="kind"):
    """The task is queued again, and the attempt does not count. `called`: the container may have got the request."""

    task: TaskId
    token: Token
    called: bool


End = SucceededEnd | FailedEnd | RetriedEnd | ReleasedEnd


class SettleRequest(Struct, frozen=True):
    worker: WorkerId
    ends: Annotated[tuple[End, ...], Meta(min_length=1, max_length=MAX_TOGETHER)]


class SettleResult(Struct, frozen=True, omit_defaults=True):
    """The result of one end.

    `word` is that of `Settled`, or of a release; UNAVAILABLE if the store cannot record this end now, so that the agent
    repeats it; ERROR for a defect.
    """

    word: Literal["OK", "ALREADY", "FENCED", "GONE", "CANCELLED", "FAILED", "UNAVAILABLE", "ERROR"]
    created_at_ms: Count = 0
    started_at_ms: Count = 0
    now_ms: Count = 0
    error: Text = ""


class SettleResponse(Struct, frozen=True):
    results: Annotated[tuple[SettleResult, ...], Meta(max_length=MAX_TOGETHER)]


class ReportRequest(Struct, frozen=True):
    """Report the state of the worker: see `WorkerRecord.report`. `run` is the number of the worker's start."""

    worker: WorkerId
    run: Count
    status: WorkerStatus
    running_tasks: Count
    address: Address
    reason: Text = ""
    error: Text = ""
    slots: Count | None = None
    """Number of tasks that the worker runs at the same time; None from an agent that does not report it."""
    mean_run_ms: Milliseconds | None = None
    """Moving mean of the time for which a task has a slot; None until a task has ended."""


class ReportResponse(Struct, frozen=True):
    """The desired state of the endpoint; None: the agent must end."""

    desired: DesiredState | None


class LogRequest(Struct, frozen=True):
    """Append lines to the log of the worker's container. Without lines, extend the time for which it is kept."""

    worker: WorkerId
    batch_id: Annotated[str, Meta(max_length=64)]
    lines: Annotated[tuple[Annotated[str, Meta(max_length=4096)], ...], Meta(max_length=MAX_LOG_LINES)]
