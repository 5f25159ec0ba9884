"""Deliveries of results as the use cases need them: the ledger of a task, and orders to send a result."""

from __future__ import annotations

import json
from enum import StrEnum

from redis.asyncio import Redis

from queue_engine.domain.deliveries import DeliveryAttempt, Phases, Trigger, WebhookResponse, trigger_in
from queue_engine.store.calls import Scripts
from queue_engine.store.keys import Partitions

_json = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps would make an encoder for each record


class Resend(StrEnum):
    """Result of an order to send the result of a task."""

    SENT = "OK"
    DUPLICATE = "ALREADY"
    """The same call has made the delivery due before."""
    DUE = "DUE"
    """The delivery is due already, or being sent."""
    DELIVERED = "DELIVERED"
    """The result is delivered, and the order does not include such results."""
    NOT_ENDED = "BUSY"
    NO_WEBHOOK = "NO_WEBHOOK"
    NOT_FOUND = "GONE"


class DeliveryStore:
    """The deliveries of all tasks' results. Every method may be repeated after a lost reply."""

    def __init__(self, redis: Redis, scripts: Scripts, partitions: Partitions) -> None:
        self._redis = redis
        self._scripts = scripts
        self._partitions = partitions

    async def ledger(self, endpoint_id: str, task_id: str) -> list[DeliveryAttempt]:
        """Return the delivery attempts of the task's result, oldest first; at most the latest MAX_DELIVERY_RECORDS."""
        key = self._partitions.of(endpoint_id).partition.attempts_log(endpoint_id, task_id)
        return [delivery_attempt_from(record) for record in await self._redis.lrange(key, 0, -1)]  # type: ignore[misc]

    async def send_now(self, endpoint_id: str, task_id: str, call_id: str, trigger: Trigger) -> Resend:
        """Make the delivery of an ended task's result due. Only Trigger.REDELIVER sends a delivered result again.

        `call_id` identifies the request: a repeated call with the same id has no effect.
        """
        reply = await self._scripts.retry_delivery(
            self._partitions.of(endpoint_id).of_task(task_id),
            call_id=call_id,
            trigger=trigger.value,
            sends_delivered=trigger is Trigger.REDELIVER,
        )
        return Resend(reply.word)


def ledger_record(response: WebhookResponse, at_ms: int) -> str:
    """Return an attempt as stored. The script that stores it adds the trigger and the time of the next attempt."""
    phases = response.phases
    return _json(
        {
            "at": at_ms,
            "status": response.status,
            "error": response.error_type,
            "durationMs": round(response.duration_seconds * 1000),
            "response": response.excerpt,
            "phases": [phases.connect_ms, phases.tls_ms, phases.send_ms, phases.wait_ms],
        }
    )


def delivery_attempt_from(record: bytes) -> DeliveryAttempt:
    """Return an attempt from its record, which any version may have stored."""
    fields = json.loads(record)
    phases = fields.get("phases")
    return DeliveryAttempt(
        at_ms=fields["at"],
        status=fields["status"],
        error_type=fields["error"],
        duration_ms=fields["durationMs"],
        excerpt=fields["response"],
        trigger=trigger_in(fields.get("trigger", Trigger.RESULT)),
        phases=None if phases is None else Phases(*phases),
        next_at_ms=fields.get("next"),
    )
