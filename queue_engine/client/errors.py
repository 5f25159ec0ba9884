"""Errors of the client. All of them are a ClientError."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from queue_engine.client.models import OperationInfo, TaskInfo


class ClientError(Exception):
    """Base of all errors of the client."""


class ApiError(ClientError):
    """The API refused a request, or did not respond."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        """HTTP status; None without a response."""
        self.code = code
        """Code of the envelope; None if the response has no envelope."""
        self.retry_after = retry_after
        """Seconds after which the API expects the request again; None if it does not say."""


class InvalidRequest(ApiError):
    """400, 413 or 415: the message names the field and the rule."""


class Unauthorized(ApiError):
    """401: the API key is missing, unknown or revoked."""


class Forbidden(ApiError):
    """403: the role of the API key does not allow the call."""


class NotFound(ApiError):
    """404: there is no such endpoint, task or worker."""


class Conflict(ApiError):
    """409: the state forbids the call, or the id of the task was used for another request."""


class QueueFull(ApiError):
    """429: the queue is full, or a quota or a rate limit is reached."""


class Unavailable(ApiError):
    """The API cannot be reached, or it responded with a server error."""


class TaskFailed(ClientError):
    """The task has ended without a result."""

    def __init__(self, task: TaskInfo) -> None:
        super().__init__(f"task {task.task_id}: {task.error or task.state}")
        self.task = task


class TaskCancelled(TaskFailed):
    """The task was cancelled."""


class TaskExpired(TaskFailed):
    """The task's time in the queue ran out before it started."""


class TaskTimedOut(TaskFailed):
    """The container did not respond within the execution timeout."""


class WorkerLost(TaskFailed):
    """The task lost its worker too many times."""


class WaitTimeout(ClientError, TimeoutError):
    """The task has not ended in time. It goes on, and can be waited for again."""

    def __init__(self, task: TaskInfo, timeout: float) -> None:
        super().__init__(f"task {task.task_id} has not ended after {timeout:g} s; it is {task.state}")
        self.task = task


class OperationTimeout(ClientError, TimeoutError):
    """The operation has not ended in time. It goes on, and can be waited for again."""

    def __init__(self, operation: OperationInfo, timeout: float) -> None:
        super().__init__(f"operation {operation.operation_id} has not ended after {timeout:g} s")
        self.operation = operation


class InvalidWebhook(ClientError, ValueError):
    """The request is not a genuine webhook of the engine."""


_BY_STATUS: dict[int, type[ApiError]] = {
    400: InvalidRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: InvalidRequest,
    415: InvalidRequest,
    429: QueueFull,
}
_BY_STATE: dict[str, type[TaskFailed]] = {
    "cancelled": TaskCancelled,
    "expired": TaskExpired,
    "timed_out": TaskTimedOut,
    "dead": WorkerLost,
}


def api_error(message: str, *, status: int, code: int | None, retry_after: float | None) -> ApiError:
    """Return the error of a response that is not 200."""
    error = _BY_STATUS.get(status, Unavailable if status >= 500 else ApiError)
    return error(message, status=status, code=code, retry_after=retry_after)


def task_failure(task: TaskInfo) -> TaskFailed:
    """Return the error of a task that has ended without a result."""
    return _BY_STATE.get(task.state, TaskFailed)(task)
