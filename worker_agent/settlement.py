"""The end of attempts: record outcomes and release unfinished attempts; count and log both."""

from __future__ import annotations

import logging
from functools import cache, partial

from prometheus_client import Counter

from queue_engine.domain.attempts import Settled, StartedAttempt
from queue_engine.domain.tasks import Failed, Outcome, Succeeded, TaskState, TryAgain, loggable_error
from queue_engine.observability import metrics
from queue_engine.observability.logs import log_soon
from worker_agent.ports import OutcomeSink, until_available

log = logging.getLogger(__name__)


class Settlement:
    """Sends each outcome to the engine, and repeats this until the engine accepts or rejects it."""

    def __init__(self, sink: OutcomeSink) -> None:
        self._sink = sink

    async def settle(self, attempt: StartedAttempt, outcome: Outcome, *, run_seconds: float) -> None:
        """Record the outcome of an attempt, which took `run_seconds`."""
        settled = await until_available(partial(self._sink.settle, attempt.lease, outcome), "settle")
        _count(outcome, settled, run_seconds)
        if log.isEnabledFor(logging.INFO):
            waited_seconds = (attempt.started_at_ms - attempt.queued_at_ms) / 1000
            facts = attempt.ids | {
                "waited_seconds": waited_seconds,
                "outcome": _label(outcome),
                "store": settled.word,
                "seconds": round(run_seconds, 4),
            }
            if not isinstance(outcome, Succeeded):
                facts["error"] = loggable_error(outcome.error)
            log_soon(log, logging.INFO, "attempt ended", facts)

    async def release(self, attempt: StartedAttempt, *, called: bool) -> None:
        """Queue the task again. `called` is True if the container may have received the request."""
        word = await until_available(partial(self._sink.release, attempt.lease, called=called), "release")
        log.info("attempt released", extra={**attempt.ids, "called": called, "store": word})
        if word == "CANCELLED":
            _finished(TaskState.CANCELLED).inc()


def _count(outcome: Outcome, settled: Settled, run_seconds: float) -> None:
    is_refused = settled.word in ("FENCED", "GONE")
    _attempts("fenced" if is_refused else _label(outcome)).inc()
    metrics.task_run.observe(run_seconds)
    if is_refused:
        metrics.stale_results_rejected.inc()
    elif settled.word == "CANCELLED":
        _finished(TaskState.CANCELLED).inc()
    elif settled.word == "FAILED" or not isinstance(outcome, TryAgain):
        _finished(_state_after(outcome)).inc()
        if settled.now_ms:
            metrics.task_end_to_end.observe((settled.now_ms - settled.created_at_ms) / 1000)


@cache
def _attempts(outcome: str) -> Counter:
    """Return the counter of attempts with this outcome. Finding it by its label costs more than counting."""
    return metrics.task_attempts.labels(outcome=outcome)


@cache
def _finished(state: TaskState) -> Counter:
    """Return the counter of tasks that ended in this state."""
    return metrics.tasks_finished.labels(state=state.value)


def _label(outcome: Outcome) -> str:
    if isinstance(outcome, Succeeded):
        return "ok"
    if isinstance(outcome, Failed) and outcome.state is TaskState.CANCELLED:
        return "cancelled"
    return "timeout" if isinstance(outcome, Failed) and outcome.state is TaskState.TIMED_OUT else "error"


def _state_after(outcome: Outcome) -> TaskState:
    """Return the final state of a task after this outcome. A retry after the last attempt means FAILED."""
    if isinstance(outcome, Succeeded):
        return TaskState.SUCCEEDED
    return outcome.state if isinstance(outcome, Failed) else TaskState.FAILED
