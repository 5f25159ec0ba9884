"""Deliveries of tasks' results."""

from __future__ import annotations

from contextlib import suppress

from redis.asyncio import Redis
from redis.exceptions import RedisError

from queue_engine.crypto.sealing import SealBroken, Sealer, SecretKeyMissing
from queue_engine.domain.deliveries import Delivery, TaskResult, Verdict, WebhookResponse, task_result_body
from queue_engine.domain.task_operations import TaskAction
from queue_engine.observability import metrics
from queue_engine.rules.signing_secrets import check_auth_key, signs
from queue_engine.store.calls import Scripts
from queue_engine.store.codec import TaskSpecs
from queue_engine.store.deliveries import ledger_record
from queue_engine.store.endpoint_index import is_indexed
from queue_engine.store.keys import FORMAT, META
from queue_engine.store.outbox.entries import OutboxEntry, Settlement, open_secrets, owner_of, settlement, verdict_words
from queue_engine.store.recoveries import RecoveryStore
from queue_engine.store.resends import Resends


class ResultDeliveries:
    """Deliveries of results, for one delivery process."""

    def __init__(
        self,
        redis: Redis,
        scripts: Scripts,
        sealer: Sealer,
        recoveries: RecoveryStore,
        resends: Resends,
        process_id: str,
        *,
        max_age_ms: int,
    ) -> None:
        self._redis = redis
        self._scripts = scripts
        self._recoveries = recoveries
        self._resends = resends
        self._sealer = sealer
        self._specs = TaskSpecs(sealer)
        self._process_id = process_id
        self._max_age_ms = max_age_ms
        self._is_indexed = False
        """True if the store's data is known to have format 2, so that no process of version 0.2 runs."""

    async def open(self, entry: OutboxEntry) -> Delivery | None:
        endpoint_id, task_id = owner_of(entry.delivery_id)
        reply = await self._scripts.open_delivery(entry.task_keys, entry_id=entry.entry_id, process_id=self._process_id)
        if reply.word != "OK":
            return None
        unreadable: str | None = None
        try:
            spec = self._specs.decode(reply.spec, endpoint_id, task_id)
        except (SecretKeyMissing, SealBroken) as error:
            spec, unreadable = self._specs.decode_public(reply.spec), str(error)
        auth_key, signing_secrets = spec.webhook_auth_key, tuple[str, ...]()
        if auth_key is not None and _can_sign(auth_key):
            signing_secrets, auth_key = (auth_key,), None
        elif unreadable is None:
            signing_secrets, unreadable = open_secrets(self._sealer, endpoint_id, reply.signing_secrets)
        result = TaskResult(
            task_number=reply.number,
            task_id=task_id,
            endpoint_id=endpoint_id,
            succeeded=reply.has_succeeded,
            finished_at_ms=reply.finished_ms,
            output=(reply.result or None) if reply.has_succeeded else None,
            truncated=reply.is_too_large,
            error=(reply.result.decode("utf-8", "replace") or None) if not reply.has_succeeded else None,
            metadata=spec.metadata,
        )
        return Delivery(
            delivery_id=entry.delivery_id,
            entry_id=entry.entry_id,
            message_id=_message_id(reply.number, reply.executions, reply.reruns),
            attempts=reply.attempts,
            created_at_ms=reply.created_ms,
            url=spec.webhook or "",
            auth_key=auth_key,
            signing_secrets=signing_secrets,
            body=task_result_body(result, retry_count=reply.sends + 1),
            unreadable=unreadable,
        )

    async def settle(self, entry: OutboxEntry, response: WebhookResponse, verdict: Verdict, at_ms: int) -> Settlement:
        word, delay_ms, reason = verdict_words(verdict)
        reply = await self._scripts.settle_delivery(
            entry.task_keys,
            entry_id=entry.entry_id,
            process_id=self._process_id,
            verdict=word,
            delay_ms=delay_ms,
            reason=reason,
            record=ledger_record(response, at_ms),
            may_keep=word == "again" and await self._may_keep(),
        )
        if reply.word != "OK":
            return Settlement(accepted=False)
        if reply.is_recovered:
            # The attempt is recorded. If the store fails now, the controllers' job advances the recovery.
            with suppress(RedisError, OSError):
                await self._recoveries.advance(owner_of(entry.delivery_id)[0])
        if reply.operation_id is not None:
            # The same: the leading controller's next step advances the operation.
            with suppress(RedisError, OSError):
                await self._advance(owner_of(entry.delivery_id)[0], reply.operation_id)
        return settlement(reply.created_ms, reply.now_ms)

    async def _advance(self, endpoint_id: str, operation_id: str) -> None:
        made_due = await self._resends.advance(endpoint_id, operation_id)
        metrics.operation_tasks.labels(action=TaskAction.REDELIVER.value).inc(made_due)

    async def _may_keep(self) -> bool:
        """Return True if no process of format 1 runs, which would lose a waiting delivery without a key of its own."""
        self._is_indexed = self._is_indexed or is_indexed(await self._redis.hget(META, FORMAT))  # type: ignore[misc]
        return self._is_indexed

    async def defer(self, entry: OutboxEntry, delay_ms: int, parked: bool) -> str:
        reply = await self._scripts.defer_delivery(
            entry.task_keys,
            entry_id=entry.entry_id,
            delay_ms=delay_ms,
            max_age_ms=self._max_age_ms,
            is_parked=parked,
            may_keep=await self._may_keep(),
        )
        return reply.word


def _can_sign(auth_key: str) -> bool:
    """Return True if a task's auth key is a signing secret.

    Version 0.2 accepted and sent any text, so a key that only begins like a signing secret is still sent.
    """
    try:
        return signs(check_auth_key(auth_key))
    except ValueError:
        return False


def _message_id(number: int, executions: int, reruns: int) -> str:
    """Return the `webhook-id`. Each result has its own id, so a retry by hand gets a new one."""
    run = f"_{reruns + 1}" if reruns else ""
    return f"msg_{number}_{executions}{run}"
