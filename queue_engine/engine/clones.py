"""Clone a task: submit a copy of it under a new id, with changes.

Only the server can open the headers and the webhook key of a task, so a client cannot make the copy itself. A secret
is for the receiver that it was submitted for. Therefore the headers are copied only for the same port and path of the
container, and the webhook key only for the same webhook. Otherwise a client could have them sent to a receiver of its
choice, and read them there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from queue_engine.crypto.sealing import SealBroken, SecretKeyMissing
from queue_engine.domain.endpoints import Endpoint
from queue_engine.domain.errors import InvalidRequest, NotFound, Resource, StateConflict
from queue_engine.domain.principals import Principal
from queue_engine.domain.tasks import SPEC_FIELDS, LongText, Priority, Task, TaskSpec
from queue_engine.engine.access import check_sees, check_sees_task
from queue_engine.engine.patience import found_in_store, from_store
from queue_engine.engine.submissions import TaskRequest
from queue_engine.rules.webhook_urls import InvalidWebhook, Webhook, parse_webhook
from queue_engine.store.tasks import TaskStore


class Clones:
    """Reads tasks that are copied, and makes the requests that submit the copies."""

    def __init__(self, tasks: TaskStore) -> None:
        self._tasks = tasks

    async def original(self, principal: Principal, endpoint: Endpoint, task_id: str) -> Task:
        """Return a task with its secrets. Its input is not read if it is long.

        Raises NotFound, StoreUnavailable, and StateConflict for secrets that cannot be opened.
        """
        check_sees(principal, endpoint)
        try:
            task = await from_store(self._tasks.original(endpoint.endpoint_id, task_id))
        except (SecretKeyMissing, SealBroken) as error:
            if principal.sees_only_own_tasks:
                check_sees_task(principal, await self._brief(endpoint, task_id))
            raise StateConflict(f"taskId: the headers or the webhook key of the task are not copied: {error}") from None
        if task is None:
            raise NotFound(Resource.TASK)
        check_sees_task(principal, task)
        return task

    async def _brief(self, endpoint: Endpoint, task_id: str) -> Task:
        return await found_in_store(self._tasks.brief(endpoint.endpoint_id, task_id), Resource.TASK)

    async def input_of(self, original: Task) -> bytes | memoryview:
        """Return the input of a task. Raises NotFound for a task that was removed, and StoreUnavailable."""
        if original.long is None:
            return original.input or b""
        return await _whole(original.long.input)


async def _whole(text: LongText) -> bytes:
    parts = bytearray()
    while len(parts) < text.size:
        part = await from_store(text.read(len(parts)))
        if not part:
            raise NotFound(Resource.TASK)
        parts += part
    return bytes(parts)


def request_of_copy(
    original: Task,
    endpoint: Endpoint,
    input_: bytes | memoryview,
    changes: Mapping[str, Any],
    *,
    task_id: str | None,
    traceparent: str | None,
) -> TaskRequest:
    """Return the request that submits a copy of a task.

    `changes` has the fields that the client gives, by their names in requests; None leaves a field out. The delay of
    the original is not copied. Raises InvalidRequest for a webhook that is no longer allowed.
    """
    values = {one.name: _copied(original, changes, one.name, one.asked, one.default) for one in SPEC_FIELDS}
    webhook = _webhook_of(values["webhook"])
    if (webhook and webhook.url) != original.spec.webhook and "webhook_auth_key" not in changes:
        values["webhook_auth_key"] = None
    if _container_of(values) != _container_of(original.spec.__dict__) and "headers" not in changes:
        values["headers"] = {}
    if webhook is not None:
        values |= {"webhook": webhook.url, "webhook_destination": webhook.destination}
    return TaskRequest(
        task_id,
        TaskSpec(**values, traceparent=traceparent),
        input_,
        webhook,
        execution_timeout_seconds=changes.get("execution_timeout_seconds", int(original.timeout_seconds)),
        queue_ttl_seconds=changes.get("queue_ttl_seconds", original.queue_ttl_seconds),
        delay_seconds=changes.get("delay_seconds"),
        run_at_ms=changes.get("run_at"),
        priority=changes.get("priority", _priority_of(original, endpoint)),
        fairness_key=changes.get("fairness_key", original.fairness_key),
    )


def _copied(original: Task, changes: Mapping[str, Any], name: str, asked: str, default: Any) -> Any:
    if asked not in changes:
        return getattr(original.spec, name)
    return default if changes[asked] is None else changes[asked]


def _container_of(values: Mapping[str, Any]) -> tuple[int, str]:
    """Return the receiver of the headers."""
    return values["worker_port"], values["process_uri"]


def _webhook_of(given: Webhook | str | None) -> Webhook | None:
    if not isinstance(given, str):
        return given
    try:
        return parse_webhook(given)
    except InvalidWebhook as error:
        raise InvalidRequest("webhook", str(error)) from None


def _priority_of(original: Task, endpoint: Endpoint) -> Priority | None:
    """Return the priority of the copy; None if it is the one that the endpoint gives, so that it needs no lane."""
    default = endpoint.config.default_priority or Priority.NORMAL
    return None if original.priority is default else original.priority
