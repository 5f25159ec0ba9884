"""The Python client of queue-engine, synchronous (`Client`) and asynchronous (`AsyncClient`).

It needs httpx and pydantic, and imports nothing of the engine. See docs/guides/python-client.md.
"""

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
    EndpointInfo,
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
    "Endpoint",
    "EndpointInfo",
    "Forbidden",
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
