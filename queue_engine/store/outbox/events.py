"""Deliveries of workers' status events. A worker's events are sent in order, one at a time."""

from __future__ import annotations

import json

from queue_engine.crypto.sealing import Sealer
from queue_engine.domain.deliveries import Delivery, Verdict, WorkerEvent, worker_event_body
from queue_engine.store.calls import Scripts
from queue_engine.store.keys import EndpointKeys, WorkerKeys
from queue_engine.store.outbox.entries import OutboxEntry, Settlement, open_secrets, owner_of, settlement, verdict_words


class EventDeliveries:
    """Deliveries of status events, for one delivery process."""

    def __init__(self, scripts: Scripts, sealer: Sealer, process_id: str, *, max_age_ms: int) -> None:
        self._scripts = scripts
        self._sealer = sealer
        self._process_id = process_id
        self._max_age_ms = max_age_ms

    async def open(self, entry: OutboxEntry) -> Delivery | None:
        endpoint_id, worker_id = owner_of(entry.delivery_id)
        reply = await self._scripts.open_event(
            _worker_keys(entry), entry_id=entry.entry_id, process_id=self._process_id
        )
        if reply.word != "OK":
            return None
        event = json.loads(reply.event)
        signing_secrets, unreadable = open_secrets(self._sealer, endpoint_id, reply.signing_secrets)
        change = WorkerEvent(
            endpoint_id, worker_id, event["status"], event["previous"] or None, event["reason"], int(event["at"])
        )
        return Delivery(
            delivery_id=entry.delivery_id,
            entry_id=entry.entry_id,
            message_id=f"msg_{endpoint_id}_{worker_id}_{event['created']}_{event['number']}",
            attempts=reply.attempts,
            created_at_ms=reply.created_ms,
            url=event["url"],
            auth_key=None,
            signing_secrets=signing_secrets,
            body=worker_event_body(change),
            unreadable=unreadable,
        )

    async def settle(self, entry: OutboxEntry, verdict: Verdict) -> Settlement:
        word, delay_ms, _ = verdict_words(verdict)
        reply = await self._scripts.settle_event(
            _worker_keys(entry),
            entry_id=entry.entry_id,
            process_id=self._process_id,
            verdict=word,
            delay_ms=delay_ms,
            max_age_ms=self._max_age_ms,
        )
        return settlement(reply.created_ms, reply.now_ms) if reply.word == "OK" else Settlement(accepted=False)

    async def defer(self, entry: OutboxEntry, delay_ms: int) -> str:
        reply = await self._scripts.defer_event(
            _worker_keys(entry), entry_id=entry.entry_id, delay_ms=delay_ms, max_age_ms=self._max_age_ms
        )
        return reply.word


def _worker_keys(entry: OutboxEntry) -> WorkerKeys:
    endpoint_id, worker_id = owner_of(entry.delivery_id)
    return EndpointKeys(entry.partition, endpoint_id).of_worker(worker_id)
