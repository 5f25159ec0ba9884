"""The ports of an agent: the interfaces through which it uses the engine.

    source ── claim ──► Claim ── start ──► StartedAttempt ── settle ──► the task has ended, or waits for a retry
                          │                      │  ▲ renew
                          └── put back           └── release ──► the task is queued again

The ports are protocols, so an implementation does not inherit from them; `worker_agent/cli.py` chooses it. The one in
`queue_engine/store/task_source.py` calls the store. The ports do not mention the store, so that an implementation may
call a server: the claims of such a source may have started when it returns them, and `put_back` then releases them.

Every call fulfils these rules:
- A call may be repeated with the same arguments after a lost response, and then has the effect of a single call.
- A call raises StoreUnavailable while the engine cannot serve it. Any other exception is a defect.
- A call may be cancelled. Its effect is then unknown, as after a lost response.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Protocol, TypeVar

from queue_engine.aio import retry_while_unavailable, run_forever
from queue_engine.domain.attempts import Renewal, Settled, StartedAttempt
from queue_engine.domain.endpoints import DesiredState
from queue_engine.domain.errors import StoreUnavailable
from queue_engine.domain.tasks import Lease, Outcome
from queue_engine.domain.workers import Pace, WorkerStatus

T = TypeVar("T")


class Claim(Protocol):
    """A task that this agent has claimed and not started yet."""

    async def start(self, *, address: str, is_ahead: bool = False) -> StartedAttempt | None:
        """Start an attempt; return None if the claim is no longer valid.

        `address` is the address on which the container listens. `is_ahead` is True if no slot is free for the call:
        the attempt does not count if its lease expires before `renew` says that its call has begun. A repeated call
        returns the same attempt.
        """
        ...

    async def put_back(self) -> None:
        """Return the task to its queue, to be claimed before most new tasks. The claim must not have been started."""
        ...


class ClaimSource(Protocol):
    """The queue of one endpoint, from which one agent claims."""

    async def claim(self, limit: int) -> Sequence[Claim]:
        """Claim tasks; if none waits, wait some seconds for one.

        `limit` is the number of attempts that may begin. A source with several queues may return that number for each
        queue.
        """
        ...

    async def claim_abandoned(self, limit: int, *, unstarted_seconds: float) -> Sequence[Claim]:
        """Claim tasks that another agent claimed at least `unstarted_seconds` ago and has not started. Does not wait.

        A source whose server handles such tasks may always return none.
        """
        ...

    async def unstarted_claims(self) -> Sequence[Claim]:
        """Return the claims of this agent that were not started, including those of a cancelled `claim`."""
        ...


class LeaseSource(Protocol):
    """The leases of running attempts."""

    async def renew(self, leases: Sequence[Lease], *, begun: int = 0) -> Sequence[Renewal]:
        """Renew all these leases in one call; return the result for each, in the same order.

        The calls of the first `begun` attempts have begun. The calls of the others wait for a slot.
        """
        ...

    async def cancelled(self) -> Collection[str]:
        """Wait until tasks of this agent are cancelled, and return their ids. Their renewals return CANCEL.

        A hint, so that the agent need not wait for its next renewal: it may name other tasks, or none. A source that
        learns of cancellations from renewals alone never returns.
        """
        ...


class OutcomeSink(Protocol):
    """Records the outcomes of attempts, and releases attempts."""

    async def settle(self, lease: Lease, outcome: Outcome) -> Settled:
        """Record the outcome of an attempt, and end its task or queue it for a retry."""
        ...

    async def release(self, lease: Lease, *, called: bool) -> str:
        """Queue the task again without counting the attempt. Return OK, CANCELLED, ALREADY, FENCED or GONE.

        `called` is True if the container may have received the request. Otherwise the attempt is not added to the
        task's history.
        """
        ...


class TaskSource(ClaimSource, LeaseSource, OutcomeSink, Protocol):
    """Everything that an agent needs to run the tasks of one endpoint."""


class WorkerRecord(Protocol):
    """The record of the worker in the engine."""

    async def register(self) -> None:
        """Create the record of a worker that no controller manages; do nothing if it exists."""
        ...

    async def report(
        self,
        status: WorkerStatus,
        *,
        running_tasks: int,
        address: str,
        reason: str,
        error: str,
        pace: Pace | None = None,
    ) -> DesiredState | None:
        """Report the state of the worker; return the desired state of its endpoint.

        `pace` is None for a worker that runs no tasks. Return None if the worker or its endpoint no longer exists, or
        the worker was started again. The agent must then end.
        """
        ...

    async def remove(self) -> None:
        """Remove the record of a worker that has ended."""
        ...


class LogSink(Protocol):
    """The log of the worker's container."""

    async def append(self, batch_id: str, lines: Sequence[str]) -> None:
        """Append at most MAX_BATCH_LINES lines. A call without lines extends the time for which the log is kept.

        A batch that is repeated immediately, with the same id, is appended once.
        """
        ...


def outage(error: BaseException) -> str | None:
    """Return the reason if the error means that the engine is unavailable; None for any other error."""
    return error.reason if isinstance(error, StoreUnavailable) else None


async def until_available(call: Callable[[], Awaitable[T]], what: str) -> T:
    """Return the result of `call`, retrying while the engine cannot serve it. `what` names it in log lines."""
    return await retry_while_unavailable(call, passing=outage, what=what)


async def loop(step: Callable[[], Awaitable[int]], *, idle_seconds: float, name: str) -> None:
    """Run a step that calls a port, forever; see `run_forever`."""
    await run_forever(step, idle_seconds=idle_seconds, name=name, passing=outage)
