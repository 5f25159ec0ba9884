"""The ports of an agent: what it needs of the engine.

    source ── claim ──► Claim ── start ──► StartedAttempt ── settle ──► the task has ended, or waits for a retry
                          │                      │  ▲ renew
                          └── put back           └── release ──► the task is queued again

An implementation fits by structure; `worker_agent/cli.py` chooses it. `queue_engine/store/task_source.py` speaks to the
store. The ports name nothing of it, so that an implementation that speaks to a server fits as well: its claims may have
started when they are handed out, and putting one back releases it then.

For every call holds:
- It may be repeated with the same arguments after a lost response; the effect is that of one call.
- It raises StoreUnavailable while the engine cannot serve it. Any other exception is a defect.
- It may be cancelled. Its effect is then unknown, as after a lost response.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from queue_engine.aio import retry_while_unavailable, run_forever
from queue_engine.domain.attempts import Renewal, Settled, StartedAttempt
from queue_engine.domain.endpoints import DesiredState
from queue_engine.domain.errors import StoreUnavailable
from queue_engine.domain.tasks import Lease, Outcome
from queue_engine.domain.workers import WorkerStatus

T = TypeVar("T")

MAX_LOG_BATCH_LINES = 500
"""Limit for the lines of one call: the store serves no other client while it takes them in."""


class Claim(Protocol):
    """A task that was handed to this agent and not to another one."""

    async def start(self, *, address: str) -> StartedAttempt | None:
        """Start an attempt; return None when the task no longer waits with this claim.

        `address` is where the container listens. Every repetition starts the same attempt.
        """
        ...

    async def put_back(self) -> None:
        """Return the task to its queue, to be claimed before new tasks. Only for a claim that was not started."""
        ...


class ClaimSource(Protocol):
    """The queue of one endpoint, from which one agent claims."""

    async def claim(self, limit: int) -> Sequence[Claim]:
        """Claim tasks, waiting some seconds for one to come.

        `limit` is what the agent has room for. A source with several queues may hand out as many of each.
        """
        ...

    async def claim_abandoned(self, limit: int, *, unstarted_seconds: float) -> Sequence[Claim]:
        """Claim tasks that were handed to another agent and not started by it for that time. Does not wait.

        The source may leave these to its server and hand out none here.
        """
        ...

    async def unstarted_claims(self) -> Sequence[Claim]:
        """Return the claims of this agent that were not started, those of a cancelled `claim` included."""
        ...


class LeaseSource(Protocol):
    """The leases of running attempts."""

    async def renew(self, leases: Sequence[Lease]) -> Sequence[Renewal]:
        """Renew all these leases in one call; return the state of each, in the same order."""
        ...


class OutcomeSink(Protocol):
    """Takes what comes of attempts."""

    async def settle(self, lease: Lease, outcome: Outcome) -> Settled:
        """Record the outcome of an attempt, and what follows for its task."""
        ...

    async def release(self, lease: Lease, *, called: bool) -> str:
        """Queue the task again, at no cost to its budgets. Return OK, CANCELLED, ALREADY, FENCED or GONE.

        `called` is True when the container may have got the request. Otherwise the attempt leaves no trace in the
        task's history.
        """
        ...


class TaskSource(ClaimSource, LeaseSource, OutcomeSink, Protocol):
    """Everything that an agent needs to run the tasks of one endpoint."""


class WorkerRecord(Protocol):
    """The worker as the engine knows it."""

    async def register(self) -> None:
        """Create the record of a worker that no controller manages; does nothing when it exists."""
        ...

    async def report(
        self, status: WorkerStatus, *, running_tasks: int, address: str, reason: str, error: str
    ) -> DesiredState | None:
        """Report the state of the worker; return the desired state of its endpoint.

        None when the worker or its endpoint no longer exists, or the worker was started again: the agent must end.
        """
        ...

    async def remove(self) -> None:
        """Remove the record of a worker that has ended."""
        ...


class LogSink(Protocol):
    """The log of the worker's container."""

    async def append(self, batch_id: str, lines: Sequence[str]) -> None:
        """Append at most MAX_LOG_BATCH_LINES; with none, report that the worker lives, so that its log is kept.

        A batch that is repeated right after itself, with the same id, is appended once.
        """
        ...


def outage(error: BaseException) -> str | None:
    """Return the reason when the error says that the engine cannot serve now; None for any other error."""
    return error.reason if isinstance(error, StoreUnavailable) else None


async def until_available(call: Callable[[], Awaitable[T]], what: str) -> T:
    """Return the result of `call`, retrying while the engine cannot serve it. `what` names it in log lines."""
    return await retry_while_unavailable(call, passing=outage, what=what)


async def loop(step: Callable[[], Awaitable[int]], *, idle_seconds: float, name: str) -> None:
    """Run a step that calls a port forever, see `run_forever`."""
    await run_forever(step, idle_seconds=idle_seconds, name=name, passing=outage)
