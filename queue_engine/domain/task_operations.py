"""Operations: many tasks of an endpoint are cancelled, retried, deleted or sent again, in the background."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from queue_engine.domain.field_errors import FieldError
from queue_engine.domain.task_filters import TASK_FILTERS, TaskFilters
from queue_engine.domain.tasks import TERMINAL_STATES, TaskState

MAX_GIVEN_TASKS = 10_000
"""Limit of the tasks that an operation gets by their ids."""
OPERATION_ID_RULE = "must be 1 to 64 characters of A-Z, a-z, 0-9 and _"
_OPERATION_ID = re.compile(r"[A-Za-z0-9_]{1,64}")


def is_operation_id(text: str) -> bool:
    """Return True if `text` has the form of an operation's id."""
    return _OPERATION_ID.fullmatch(text) is not None


class TaskAction(StrEnum):
    """The change that an operation makes to its tasks."""

    CANCEL = "cancel"
    RETRY = "retry"
    DELETE = "delete"
    REDELIVER = "redeliver"
    """Send the results again, also those that were delivered."""


_STATES: Mapping[TaskAction, frozenset[TaskState]] = {
    TaskAction.CANCEL: frozenset(TaskState) - TERMINAL_STATES,
    TaskAction.RETRY: TERMINAL_STATES,
    TaskAction.DELETE: TERMINAL_STATES,
    TaskAction.REDELIVER: TERMINAL_STATES,
}
"""States of the tasks that an action can change."""


def filter_error(action: TaskAction, filters: TaskFilters) -> FieldError | None:
    """Return the error of filters by which the action can change no task. Its field is the name of a filter, or empty.

    A filter alone may allow such states and the combination not, as a state and a status that exclude each other.
    """
    states = _STATES[action]
    if filters.states & states:
        return None
    only = TaskFilters()
    for one in TASK_FILTERS:
        if not replace(only, **{one.name: getattr(filters, one.name)}).states & states:
            words = ", ".join(state for state in TaskState if state in states)
            return one.asked, f"{action} can only change tasks in the states {words}"
    return "", "no task can match all of these filters"


class OperationStatus(StrEnum):
    """The status of an operation."""

    RUNNING = "running"
    DONE = "done"
    """All tasks were looked at."""
    CANCELLED = "cancelled"
    FAILED = "failed"
    """It cannot go on. Tasks that it has not come to are not changed."""


class SkipReason(StrEnum):
    """The reason why an operation has not changed a task that it has found."""

    NOT_FOUND = "notFound"
    """The task does not exist, or was deleted."""
    NEWER = "newer"
    """The task was submitted after the operation began."""
    NOT_ENDED = "notEnded"
    """Only ended tasks are retried, deleted and sent again."""
    ENDED = "ended"
    """An ended task is not cancelled."""
    CHANGED = "changed"
    """The task has changed after it was found, and may no longer match."""
    REQUESTED = "requested"
    """The cancellation was requested before."""
    NO_WEBHOOK = "noWebhook"
    """The task has no webhook to which its result could be sent."""
    DUE = "due"
    """The result is being sent, or is due."""


@dataclass(frozen=True)
class Author:
    """The holder of the key that has begun an operation."""

    key_id: str
    key_name: str
    address: str


@dataclass(frozen=True)
class NewOperation:
    """An operation to begin. It has either filters or the ids of tasks."""

    operation_id: str
    action: TaskAction
    filters: TaskFilters | None
    task_ids: tuple[str, ...]
    """Distinct ids."""
    is_dry: bool
    """True if it finds and counts the tasks and changes none."""
    fingerprint: str
    """A digest of the request, by which a repeated one is recognized."""
    author: Author


@dataclass(frozen=True)
class TaskOperation:
    """An operation. Times are epoch milliseconds of the store's clock."""

    endpoint_id: str
    operation_id: str
    tenant: str
    action: TaskAction
    filters: TaskFilters | None
    """None if the tasks were given by their ids."""
    is_dry: bool
    status: OperationStatus
    total: int
    """Number of tasks to look at: those of the endpoint at the start, or the given ones."""
    scanned: int
    """Number of tasks that were looked at. Filters that have an index look at fewer than `total`."""
    progress: float
    """Part of the tasks that the operation has come to, from 0 to 1."""
    matched: int
    """Number of tasks that were found. A given id without a task is not among them."""
    done: int
    """Number of tasks that were changed; of a dry operation, that would have been changed."""
    failed: int
    """Number of tasks whose change failed."""
    skips: Mapping[SkipReason, int] = field(default_factory=dict)
    """Numbers of tasks that were found and not changed, and of given ids without a task, by reason."""
    unknown_ids: tuple[str, ...] = ()
    """Given ids without a task, the first of them."""
    error: str | None = None
    """The reason why the operation or the latest change of a task failed."""
    started_at_ms: int = 0
    updated_at_ms: int = 0
    ended_at_ms: int | None = None
    author: Author = Author("", "", "")

    @property
    def given(self) -> int | None:
        """Number of given ids; None with filters."""
        return self.total if self.filters is None else None

    @property
    def skipped(self) -> int:
        return sum(self.skips.values())

    @property
    def is_running(self) -> bool:
        return self.status is OperationStatus.RUNNING


@dataclass(frozen=True)
class OperationPage:
    """A page of operations, newest first."""

    items: tuple[TaskOperation, ...]
    total: int
    """Number of operations on all pages."""


def order_of(action: TaskAction, filters: TaskFilters | None, task_ids: Collection[str]) -> str:
    """Return what an operation is to do, for the audit log."""
    if filters is None:
        return f"{action} {len(task_ids)} tasks by their ids"
    return f"{action} tasks by {json.dumps(filters.to_dict(), ensure_ascii=False)}"


def end_of(operation: TaskOperation) -> str:
    """Return what an operation has done, for the audit log."""
    return f"{operation.action} {operation.status}: {operation.done} of {operation.matched} tasks changed"
