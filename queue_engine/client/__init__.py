"""The Python client of queue-engine, synchronous (`Client`) and asynchronous (`AsyncClient`).

It needs httpx and pydantic, and imports nothing of the engine. See docs/guides/python-client.md.
"""

import sys as _sys

if "httpx" not in _sys.modules:
    # httpx imports its own command too where rich is installed: an eighth of the time of a short command.
    _sys.modules["httpx._main"] = None  # type: ignore[assignment]
    try:
        import httpx as _httpx  # noqa: F401
    finally:
        del _sys.modules["httpx._main"]

from queue_engine.client.async_client import AsyncClient, AsyncEndpoint, AsyncOperation, AsyncTask
from queue_engine.client.errors import (
    ApiError,
    ClientError,
    Conflict,
    Forbidden,
    InvalidRequest,
    InvalidWebhook,
    NotFound,
    OperationTimeout,
    QueueFull,
    TaskCancelled,
    TaskExpired,
    TaskFailed,
    TaskTimedOut,
    Unauthorized,
    Unavailable,
    WaitTimeout,
    WorkerLost,
)
from queue_engine.client.exchange import NotSent
from queue_engine.client.mapping import MapItem
from queue_engine.client.models import (
    Attempt,
    Batch,
    BatchItem,
    Delivery,
    Download,
    EndpointInfo,
    Head,
    LogLine,
    OperationInfo,
    PriorityCounts,
    TaskCounts,
    TaskInfo,
    Waiting,
    WebhookEvent,
    WorkerInfo,
)
from queue_engine.client.sync_client import Client, Endpoint, Operation, Task
from queue_engine.client.webhooks import verify_webhook

__all__ = [
    "ApiError",
    "AsyncClient",
    "AsyncEndpoint",
    "AsyncOperation",
    "AsyncTask",
    "Attempt",
    "Batch",
    "BatchItem",
    "Client",
    "ClientError",
    "Conflict",
    "Delivery",
    "Download",
    "Endpoint",
    "EndpointInfo",
    "Forbidden",
    "Head",
    "InvalidRequest",
    "InvalidWebhook",
    "LogLine",
    "MapItem",
    "NotFound",
    "NotSent",
    "Operation",
    "OperationInfo",
    "OperationTimeout",
    "PriorityCounts",
    "QueueFull",
    "Task",
    "TaskCancelled",
    "TaskCounts",
    "TaskExpired",
    "TaskFailed",
    "TaskInfo",
    "TaskTimedOut",
    "Unauthorized",
    "Unavailable",
    "WaitTimeout",
    "Waiting",
    "WebhookEvent",
    "WorkerInfo",
    "WorkerLost",
    "verify_webhook",
]
