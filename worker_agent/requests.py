"""The requests to a container: to execute a task, and to notify it that a task was stopped."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from queue_engine.domain.quick import quick_init
from queue_engine.domain.tasks import ClaimedTask
from worker_agent.container import ContainerAddress

CANCEL_TIMEOUT_SECONDS = 5.0
"""Timeout for the response to a cancellation."""


@quick_init
@dataclass(frozen=True)
class ForwardRequest:
    """An HTTP request to the container."""

    host: str
    port: int
    path: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes | memoryview = field(repr=False)
    timeout_seconds: float


def request_for(task: ClaimedTask, address: ContainerAddress) -> ForwardRequest | None:
    """Return the request that executes a task; None if the worker does not expose the task's workerPort."""
    port = address.port_for(task.spec.worker_port)
    if port is None:
        return None
    headers = dict(task.spec.headers)
    if not any(name.lower() == "content-type" for name in headers):
        headers["Content-Type"] = "application/json"
    headers |= _ids(task)
    if task.spec.traceparent is not None and not any(name.lower() == "traceparent" for name in headers):
        headers["traceparent"] = task.spec.traceparent
    return ForwardRequest(
        address.host, port, task.spec.process_uri, tuple(headers.items()), task.input, task.timeout_seconds
    )


def cancel_request_for(task: ClaimedTask, path: str | None, address: ContainerAddress) -> ForwardRequest | None:
    """Return the request that notifies the container of a stopped task; None if the endpoint has no path for it."""
    port = address.port_for(task.spec.worker_port)
    if path is None or port is None:
        return None
    headers = {"Content-Type": "application/json"} | _ids(task)
    body = json.dumps({"taskId": task.lease.task_id}).encode()
    return ForwardRequest(address.host, port, path, tuple(headers.items()), body, CANCEL_TIMEOUT_SECONDS)


def _ids(task: ClaimedTask) -> dict[str, str]:
    return {
        "X-Task-Id": task.lease.task_id,
        "X-Endpoint-Id": task.lease.endpoint_id,
        "X-Task-Attempt": str(task.attempt),
    }
