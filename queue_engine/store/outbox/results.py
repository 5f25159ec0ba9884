"""Deliveries of tasks' results."""

from __future__ import annotations

import json

from queue_engine.crypto.sealing import SealBroken, Sealer, SecretKeyMissing
from queue_engine.domain.deliveries import Delivery, TaskResult, Verdict, WebhookResponse, task_result_body
from queue_engine.domain.tasks import Task, TaskState
from queue_engine.store.calls import Scripts
from queue_engine.store.codec import TaskSpecs, task_from
from queue_engine.store.keys import EndpointKeys, TaskKeys
from queue_engine.store.outbox.entries import OutboxEntry, Settlement, open_secret, owner_of, settlement, verdict_words


class ResultDeliveries:
    """Deliveries of results, for one delivery process."""

    def __init__(self, scripts: Scripts, sealer: Sealer, process_id: str, *, max_age_ms: int) -> None:
        self._scripts = scripts
        self._sealer = sealer
        self._specs = TaskSpecs(sealer)
        self._process_id = process_id
        self._max_age_ms = max_age_ms

    async def open(self, entry: OutboxEntry) -> Delivery | None:
        endpoint_id, task_id = owner_of(entry.delivery_id)
        reply = await self._scripts.open_delivery(
            _task_keys(entry), entry_id=entry.entry_id, process_id=self._process_id
        )
        if reply.word != "OK":
            return None
        signing_secret, unreadable = open_secret(self._sealer, endpoint_id, reply.signing_secret)
        try:
            spec = self._specs.decode(reply.spec, endpoint_id, task_id)
        except (SecretKeyMissing, SealBroken) as error:
            spec, unreadable = self._specs.decode_public(reply.spec), str(error)
        task = task_from(endpoint_id, task_id, reply.fields, spec, None, reply.result)
        return Delivery(
            delivery_id=entry.delivery_id,
            entry_id=entry.entry_id,
            message_id=_message_id(task),
            attempts=reply.attempts,
            created_at_ms=reply.created_ms,
            url=spec.webhook or "",
            auth_key=spec.webhook_auth_key,
            signing_secret=signing_secret,
            body=task_result_body(_task_result(task, reply.is_too_large), retry_count=reply.attempts + 1),
            unreadable=unreadable,
        )

    async def settle(self, entry: OutboxEntry, response: WebhookResponse, verdict: Verdict, at_ms: int) -> Settlement:
        word, delay_ms, reason = verdict_words(verdict)
        record = {
            "at": at_ms,
            "status": response.status,
            "error": response.error_type,
            "durationMs": round(response.duration_seconds * 1000),
            "response": response.excerpt,
        }
        reply = await self._scripts.settle_delivery(
            _task_keys(entry),
            entry_id=entry.entry_id,
            process_id=self._process_id,
            verdict=word,
            delay_ms=delay_ms,
            reason=reason,
            record=json.dumps(record),
        )
        return settlement(reply.created_ms, reply.now_ms) if reply.word == "OK" else Settlement(accepted=False)

    async def defer(self, entry: OutboxEntry, delay_ms: int, parked: bool) -> str:
        reply = await self._scripts.defer_delivery(
            _task_keys(entry),
            entry_id=entry.entry_id,
            delay_ms=delay_ms,
            max_age_ms=self._max_age_ms,
            is_parked=parked,
        )
        return reply.word


def _task_keys(entry: OutboxEntry) -> TaskKeys:
    """Return the task's keys in the outbox's slot, also for an invalid entry."""
    endpoint_id, task_id = owner_of(entry.delivery_id)
    return EndpointKeys(entry.partition, endpoint_id).of_task(task_id)


def _message_id(task: Task) -> str:
    """Return the `webhook-id`. Each result has its own id, so a retry by hand gets a new one."""
    run = f"_{task.runs}" if task.runs > 1 else ""
    return f"msg_{task.number}_{task.attempts}{run}"


def _task_result(task: Task, truncated: bool) -> TaskResult:
    return TaskResult(
        task_number=task.number,
        task_id=task.task_id,
        endpoint_id=task.endpoint_id,
        succeeded=task.state is TaskState.SUCCEEDED,
        finished_at_ms=task.finished_at_ms or task.updated_at_ms,
        output=task.output,
        truncated=truncated,
        error=task.error,
    )
