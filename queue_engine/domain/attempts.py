"""Attempts as an agent gets them from the queue, and the results of renewing leases and recording outcomes."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from queue_engine.domain.quick import quick_init
from queue_engine.domain.retry import TaskRetryPolicy
from queue_engine.domain.tasks import Budget, ClaimedTask, Lease


class Renewal(StrEnum):
    """State of one lease after its renewal."""

    OK = "OK"
    READOPTED = "READOPTED"
    """The lease had expired, no other attempt had started, and the lease is now held again."""
    CANCEL = "CANCEL"
    """The lease is held, and the task was cancelled: the attempt must stop."""
    FENCED = "FENCED"
    GONE = "GONE"


@quick_init
@dataclass(frozen=True)
class Settled:
    """Result of recording an outcome. `word` is OK, ALREADY, FENCED or GONE. It is CANCELLED or FAILED if the task
    ended instead of waiting for another attempt. Times are set only with FAILED, and with OK if the task ended.
    """

    word: str
    created_at_ms: int = 0
    started_at_ms: int = 0
    now_ms: int = 0


@dataclass(frozen=True)
class Unreadable:
    """A task whose headers cannot be decrypted. `reason` is written for the endpoint's owner."""

    reason: str
    is_key_missing: bool
    """True if the agent lacks a secret key that is in use. Then another agent may be able to decrypt the task."""
    is_being_sealed: bool = False
    """True if the engine was asked to encrypt the headers for this agent, which can decrypt them in a moment."""


@quick_init
@dataclass(frozen=True)
class StartedAttempt:
    """An attempt that has started and is leased to a worker. Times are epoch milliseconds of the store's clock."""

    lease: Lease
    worker_id: str
    attempt: int
    queued_at_ms: int
    """Time from which the attempt could begin: of the submission, the end of a delay or backoff, or a retry."""
    started_at_ms: int
    task: ClaimedTask | Unreadable
    budget: Budget
    """Budget of the task after this attempt."""
    retry_policy: TaskRetryPolicy = field(default_factory=TaskRetryPolicy)
    cancel_uri: str | None = None
    """Path of the container that the agent calls if the attempt is stopped during its call."""
    is_suspect: bool = False
    """True if the task may be the cause, because the worker or container died repeatedly in earlier attempts."""
    is_first: bool = True
    """True if the history has no earlier try."""

    @property
    def ids(self) -> dict[str, str | int | float]:
        """Return the fields that identify an attempt in log lines."""
        return {
            "endpoint": self.lease.endpoint_id,
            "task": self.lease.task_id,
            "attempt": self.attempt,
            "worker": self.worker_id,
        }
