"""Attempts as the queue hands them to an agent, and what the queue makes of their leases and outcomes."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from queue_engine.domain.retry import TaskRetryPolicy
from queue_engine.domain.tasks import Budget, ClaimedTask, Lease


class Renewal(StrEnum):
    """State of one lease after its renewal."""

    OK = "OK"
    READOPTED = "READOPTED"
    """The lease had expired, no other attempt had started, and it is held again."""
    CANCEL = "CANCEL"
    """The lease is held, and the task was cancelled: the attempt must stop."""
    FENCED = "FENCED"
    GONE = "GONE"


@dataclass(frozen=True)
class Settled:
    """Result of recording an outcome. `word` is OK, ALREADY, FENCED or GONE; CANCELLED or FAILED when the task ended
    instead of waiting for another attempt. Times only with OK of an ended task, and with FAILED."""

    word: str
    created_at_ms: int = 0
    started_at_ms: int = 0
    now_ms: int = 0


@dataclass(frozen=True)
class Unreadable:
    """A task whose headers cannot be opened. `reason` says why, for the endpoint's owner."""

    reason: str
    is_key_missing: bool
    """The agent lacks a secret key that is in use, so other agents may open it. Otherwise no process can."""


@dataclass(frozen=True)
class StartedAttempt:
    """An attempt that has started and is leased to a worker. Times are epoch milliseconds of the store's clock."""

    lease: Lease
    worker_id: str
    attempt: int
    created_at_ms: int
    started_at_ms: int
    task: ClaimedTask | Unreadable
    budget: Budget
    """Budget of the task when this attempt has ended."""
    retry_policy: TaskRetryPolicy = field(default_factory=TaskRetryPolicy)
    cancel_uri: str | None = None
    """Path of the container that is called when the attempt is stopped while its call runs."""
    is_suspect: bool = False
    """Earlier attempts ended so often with a dead worker or container that the task may be the cause."""
    is_first: bool = True
    """The history has no earlier try."""

    @property
    def ids(self) -> dict[str, str | int]:
        """The fields by which the log lines of an attempt are found."""
        return {
            "endpoint": self.lease.endpoint_id,
            "task": self.lease.task_id,
            "attempt": self.attempt,
            "worker": self.worker_id,
        }
