"""Convert attempts and outcomes from and to messages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec.structs import replace

from queue_engine.agent_protocol.frames import BadFrame, Blob
from queue_engine.agent_protocol.messages import (
    AttemptHead,
    End,
    FailedEnd,
    ReleasedEnd,
    RetriedEnd,
    SettleResult,
    StartResponse,
    SucceededEnd,
)
from queue_engine.domain.attempts import Settled, StartedAttempt, Unreadable
from queue_engine.domain.retry import TaskRetryPolicy
from queue_engine.domain.tasks import (
    AttemptOutcome,
    Budget,
    ClaimedTask,
    Failed,
    Lease,
    Outcome,
    Succeeded,
    TaskSpec,
    TaskState,
    TryAgain,
)


def head_of(attempt: StartedAttempt) -> AttemptHead:
    """Return the message of a started attempt. It has nothing that only the webhook needs."""
    task, budget = attempt.task, attempt.budget
    head = AttemptHead(
        task=attempt.lease.task_id,
        attempt=attempt.attempt,
        number=0,
        created_at_ms=attempt.queued_at_ms,
        started_at_ms=attempt.started_at_ms,
        timeout_seconds=0,
        used_attempts=budget.attempt,
        max_attempts=budget.max_attempts,
        connections_lost=budget.connections_lost,
        busy_tries=budget.busy_tries,
        is_suspect=attempt.is_suspect,
        is_first=attempt.is_first,
    )
    if isinstance(task, Unreadable):
        return replace(head, unreadable=encodable(task.reason), is_key_missing=task.is_key_missing)
    return replace(
        head,
        number=task.number,
        timeout_seconds=task.timeout_seconds,
        port=task.spec.worker_port,
        path=task.spec.process_uri,
        headers=task.spec.headers,
        traceparent=task.spec.traceparent,
    )


def attempts_in(
    response: StartResponse, blobs: Iterable[memoryview], tokens: Iterable[str], *, endpoint_id: str, worker_id: str
) -> Iterator[StartedAttempt | str | None]:
    """Return the result of each start in a response: the attempt, None for a stale claim, or the text of an error.

    `tokens` are those of the request. Raises BadFrame.
    """
    policy = TaskRetryPolicy(frozenset(response.retry_on), response.retry_delays_seconds)
    inputs = iter(blobs)
    for result, token in zip(response.results, tokens, strict=False):
        if result.word == "ERROR":
            yield result.error
        elif result.attempt is None:
            yield None
        else:
            lease = Lease(endpoint_id, result.attempt.task, token)
            task = _task_in(result.attempt, lease, inputs)
            yield _attempt_in(result.attempt, lease, task, worker_id, policy, response.cancel_uri)


def _task_in(head: AttemptHead, lease: Lease, inputs: Iterator[memoryview]) -> ClaimedTask | Unreadable:
    if head.unreadable is not None:
        return Unreadable(head.unreadable, is_key_missing=head.is_key_missing)
    input_ = next(inputs, None)
    if input_ is None:
        raise BadFrame("the frame has too few blobs")
    spec = TaskSpec(head.port, head.path, headers=head.headers, traceparent=head.traceparent)
    return ClaimedTask(lease, head.number, head.attempt, head.timeout_seconds, spec, input_)


def _attempt_in(
    head: AttemptHead,
    lease: Lease,
    task: ClaimedTask | Unreadable,
    worker_id: str,
    policy: TaskRetryPolicy,
    cancel_uri: str | None,
) -> StartedAttempt:
    return StartedAttempt(
        lease=lease,
        worker_id=worker_id,
        attempt=head.attempt,
        queued_at_ms=head.created_at_ms,
        started_at_ms=head.started_at_ms,
        task=task,
        budget=Budget(head.used_attempts, head.max_attempts, head.connections_lost, head.busy_tries),
        retry_policy=policy,
        cancel_uri=cancel_uri,
        is_suspect=head.is_suspect,
        is_first=head.is_first,
    )


def end_of(lease: Lease, outcome: Outcome) -> tuple[End, Blob | None]:
    """Return the message of an outcome, and the output of a success."""
    task, token = lease.task_id, lease.token
    if isinstance(outcome, Succeeded):
        return SucceededEnd(task, token), outcome.output
    if isinstance(outcome, Failed):
        return FailedEnd(task, token, encodable(outcome.error), outcome.state.value), None  # type: ignore[arg-type]
    return (
        RetriedEnd(
            task,
            token,
            encodable(outcome.error),
            outcome.delay_seconds,
            outcome.attempt_outcome.value,  # type: ignore[arg-type]
            outcome.cost,
            encodable(outcome.last_error),
            outcome.retry_after_seconds,
        ),
        None,
    )


def outcomes_in(ends: Iterable[End], blobs: Iterable[memoryview]) -> list[Outcome | None]:
    """Return the outcome of each end; None for a release. Raises BadFrame unless each success has its blob."""
    outputs = iter(blobs)
    outcomes = [_outcome_in(end, outputs) for end in ends]
    if next(outputs, None) is not None:
        raise BadFrame("the frame has more blobs than successful ends")
    return outcomes


def _outcome_in(end: End, outputs: Iterator[memoryview]) -> Outcome | None:
    if isinstance(end, SucceededEnd):
        output = next(outputs, None)
        if output is None:
            raise BadFrame("the frame has fewer blobs than successful ends")
        return Succeeded(output)
    if isinstance(end, FailedEnd):
        return Failed(end.error, TaskState(end.state))
    if isinstance(end, RetriedEnd):
        return TryAgain(
            end.error,
            end.delay_seconds,
            AttemptOutcome(end.attempt_outcome),
            end.cost,
            end.last_error,
            end.retry_after_seconds,
        )
    return None


def released(lease: Lease, *, called: bool) -> ReleasedEnd:
    """Return the message that releases an attempt."""
    return ReleasedEnd(lease.task_id, lease.token, called)


def settled_in(result: SettleResult) -> Settled:
    """Return the result of an outcome that was recorded or rejected."""
    return Settled(result.word, result.created_at_ms, result.started_at_ms, result.now_ms)


def result_of(settled: Settled) -> SettleResult:
    """Return the message of a result."""
    return SettleResult(settled.word, settled.created_at_ms, settled.started_at_ms, settled.now_ms)  # type: ignore[arg-type]


def encodable(text: str) -> str:
    """Return the text with `?` in place of characters that UTF-8 cannot encode."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
