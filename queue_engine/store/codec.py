"""Encode and decode stored tasks: specs with sealed secrets, records and the history of attempts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import orjson

from queue_engine.crypto.sealing import SealBroken, Sealer, SealKeyUnknown, key_named_by
from queue_engine.domain.endpoints import TaskCounts
from queue_engine.domain.tasks import (
    SPEC_FIELDS,
    TERMINAL_STATES,
    Attempt,
    AttemptOutcome,
    DeliveryStatus,
    Task,
    TaskSpec,
    TaskState,
    fairness_key_in,
    priority_in,
)
from queue_engine.rules.signing_secrets import signs
from queue_engine.store.redis.client import optional_int
from queue_engine.store.redis.connections import MAX_COPIED_BYTES

MAX_KEPT_SPECS = 256
"""Limit of decoded specs that a process keeps. A spec has some KiB at most."""


class SealedForEngine(SealBroken):
    """A task's headers are not sealed with a key of its endpoint, because a process of version 0.2 accepted it."""

    def __init__(self) -> None:
        super().__init__("is not sealed with a key of its endpoint yet")


class TaskSpecs:
    """Convert specs to and from stored text. Headers and the webhook's auth key are sealed and bound to their task.

    The engine's processes read `sealed`, which has both and is sealed with the secret key. Agents read
    `sealed_headers`, which is sealed with a key of the endpoint; it is empty for a task without headers. Agents and API
    processes of version 0.2 read the headers in `sealed`.
    """

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def encode(self, spec: TaskSpec, endpoint_id: str, task_id: str) -> bytes:
        """Return the spec as stored text. Raises SecretKeyMissing when there is no key to seal its secrets."""
        record = _changed_fields(spec, _PUBLIC)
        if spec.webhook_destination is not None:
            record["destination"] = spec.webhook_destination
        if spec.traceparent is not None:
            record["traceparent"] = spec.traceparent
        if spec.submitter is not None:
            record["by"] = spec.submitter
        if secrets := _changed_fields(spec, _SECRET):
            if signs(secrets.get(_AUTH_KEY, "")):
                secrets[_SIGNING_KEY] = secrets.pop(_AUTH_KEY)
            record["sealed"] = self._sealer.seal(json.dumps(secrets).encode(), _seal_context(endpoint_id, task_id))
            record[_FOR_AGENTS] = self._sealed_for_agents(secrets, endpoint_id, task_id)
        return _spec_text(record)

    def decode(self, text: bytes, endpoint_id: str, task_id: str) -> TaskSpec:
        """Return the spec. Raises SecretKeyMissing or SealBroken when it has a secret that this process cannot open."""
        if b'"sealed"' not in text:
            return _public_spec(text)
        record = json.loads(text)
        secrets: dict[str, Any] = {}
        if "sealed" in record:
            secrets = json.loads(self._sealer.open(record["sealed"], _seal_context(endpoint_id, task_id)))
            if _SIGNING_KEY in secrets:
                secrets[_AUTH_KEY] = secrets.pop(_SIGNING_KEY)
        return _spec_from(record, secrets)

    def resealed(self, text: bytes, endpoint_id: str, task_id: str) -> bytes:
        """Return the spec with its secrets sealed with the current keys, or `text` itself when they already are.

        Raises SealBroken.
        """
        record = json.loads(text)
        sealed = record.get("sealed")
        if not sealed:
            return text
        context = _seal_context(endpoint_id, task_id)
        renewed = {"sealed": self._sealer.resealed(sealed, context)}
        if not self._is_current_for_agents(record, endpoint_id):
            secrets = json.loads(self._sealer.open(sealed, context))
            renewed[_FOR_AGENTS] = self._sealed_for_agents(secrets, endpoint_id, task_id)
        return text if renewed == {"sealed": sealed} else _spec_text(record | renewed)

    def _is_current_for_agents(self, record: dict[str, Any], endpoint_id: str) -> bool:
        sealed = record.get(_FOR_AGENTS)
        return sealed == "" or (sealed is not None and self._sealer.for_endpoint(endpoint_id).is_current(sealed))

    def _sealed_for_agents(self, secrets: dict[str, Any], endpoint_id: str, task_id: str) -> str:
        if _HEADERS not in secrets:
            return ""
        headers = json.dumps({_HEADERS: secrets[_HEADERS]}).encode()
        return self._sealer.for_endpoint(endpoint_id).seal(headers, _seal_context(endpoint_id, task_id))

    def decode_public(self, text: bytes) -> TaskSpec:
        """Return the spec without its secrets, for a process that does not need them."""
        return _public_spec(text)


class AgentSpecs:
    """Opens the headers of an endpoint's tasks for its agent, and no other secret.

    `keys` is the ring of the endpoint's keys. `sealer` is the engine's ring, without a key in an agent on the store.
    With a key it also opens the headers of tasks from before the endpoint's keys.
    """

    def __init__(self, keys: Sealer, sealer: Sealer) -> None:
        self._keys = keys
        self._sealer = sealer

    def decode(self, text: bytes, endpoint_id: str, task_id: str) -> TaskSpec:
        """Return the spec with its headers.

        Raises SecretKeyMissing, SealKeyUnknown or SealBroken when the headers cannot be opened. SealedForEngine means
        that the engine can seal them with a key of the endpoint. SealKeyUnknown has the fingerprint of the secret key.
        """
        if b'"sealed"' not in text:
            return _public_spec(text)
        record = json.loads(text)
        if not record.get("sealed") or record.get(_FOR_AGENTS) == "":
            return _spec_from(record, {})
        if _FOR_AGENTS not in record:
            return self._sealed_for_engine(text, endpoint_id, task_id)
        try:
            opened = self._keys.open(record[_FOR_AGENTS], _seal_context(endpoint_id, task_id))
        except SealKeyUnknown:
            raise SealKeyUnknown(key_named_by(record["sealed"])) from None
        return _spec_from(record, json.loads(opened))

    def _sealed_for_engine(self, text: bytes, endpoint_id: str, task_id: str) -> TaskSpec:
        if self._keys.has_key and not self._sealer.has_key:
            raise SealedForEngine
        return replace(TaskSpecs(self._sealer).decode(text, endpoint_id, task_id), webhook_auth_key=None)


_FOR_AGENTS = "sealed_headers"
_HEADERS = "headers"
_AUTH_KEY = "auth_key"
_SIGNING_KEY = "signing_key"
"""The stored name of an auth key that signs. Delivery processes of version 0.2 would send it under the other name."""

_PUBLIC = tuple((one.name, one.stored, one.default) for one in SPEC_FIELDS if not one.definition.secret)
_SECRET = tuple((one.name, one.stored, one.default) for one in SPEC_FIELDS if one.definition.secret)


def _changed_fields(spec: TaskSpec, fields: Sequence[tuple[str, str, Any]]) -> dict[str, Any]:
    """Return the fields whose value differs from the default, by their stored names."""
    values = spec.__dict__
    return {stored: value for name, stored, default in fields if (value := values[name]) != default}


def _spec_from(record: dict[str, Any], secrets: dict[str, Any]) -> TaskSpec:
    given = {name: record[stored] for name, stored, _ in _PUBLIC if stored in record}
    opened = {name: secrets[stored] for name, stored, _ in _SECRET if stored in secrets}
    return TaskSpec(
        **given,
        **opened,
        webhook_destination=record.get("destination"),
        traceparent=record.get("traceparent"),
        submitter=record.get("by"),
    )


@lru_cache(maxsize=MAX_KEPT_SPECS)
def _public_spec(text: bytes) -> TaskSpec:
    """Return a spec without secrets. It is kept, because the tasks of an endpoint often have the same one."""
    return _spec_from(json.loads(text), {})


def _spec_text(record: dict[str, object]) -> bytes:
    return orjson.dumps(record)  # a sixth of the time of json, for each submission


def _seal_context(endpoint_id: str, task_id: str) -> str:
    return f"task:{endpoint_id}:{task_id}"


def rest_of(text: bytes, start: int) -> bytes | memoryview:
    """Return the text from `start` on; a view of a long text, which is not copied."""
    return text[start:] if len(text) <= MAX_COPIED_BYTES else memoryview(text)[start:]


def task_from(
    endpoint_id: str,
    task_id: str,
    fields: dict[str, str],
    spec: TaskSpec,
    input_: bytes | memoryview | None,
    result: bytes,
) -> Task:
    """Return a task from its hash and texts. `result` is the output of a succeeded task, or the error of any other."""
    state = TaskState(fields["state"])
    succeeded = state is TaskState.SUCCEEDED
    return Task(
        task_id=task_id,
        endpoint_id=endpoint_id,
        number=int(fields["number"]),
        state=state,
        spec=spec,
        attempts=int(fields["attempts"]),
        lost=int(fields["lost"]),
        created_at_ms=int(fields["created"]),
        updated_at_ms=int(fields["updated"]),
        started_at_ms=optional_int(fields.get("started")),
        finished_at_ms=optional_int(fields.get("finished")),
        worker_id=fields.get("worker"),
        worker_address=fields.get("address"),
        error=result.decode("utf-8", "replace") if result and not succeeded else None,
        delivery_status=DeliveryStatus(fields.get("delivery", "INIT")),
        delivery_attempts=int(fields.get("delivery_attempts", 0)),
        delivery_error=fields.get("delivery_error"),
        delivered_at_ms=optional_int(fields.get("delivered")),
        next_delivery_at_ms=optional_int(fields.get("next_delivery")),
        delivery_parked=fields.get("delivery_parked") == "1",
        timeout_seconds=float(fields["timeout"]),
        queue_ttl_seconds=float(fields["ttl"]) if "ttl" in fields else None,
        run_at_ms=optional_int(fields.get("run_at")),
        priority=priority_in(fields.get("lane")),
        fairness_key=fairness_key_in(fields.get("lane")),
        cancel_requested="cancel" in fields,
        runs=int(fields.get("runs", 0)) + 1,
        retried_connections_lost=int(fields.get("resets", 0)),
        lost_lease="lost_token" in fields,
        silent_seconds=optional_int(fields.get("silent")),
        latest_attempt_noted="noted" in fields,
        input=input_,
        output=result if result and succeeded else None,
    )


COUNTS = ["queued", "running", "scheduled", "success", "delivered", "failed", "queued:0", "queued:2", "deliveries"]
"""Fields of an endpoint's counts, in the order of TaskCounts."""


def counts_from(values: Sequence[bytes | None]) -> TaskCounts:
    """Return the numbers of tasks from the values of COUNTS."""
    return TaskCounts(*(max(0, int(value or 0)) for value in values))


def attempt_from(record: bytes) -> Attempt:
    """Return the attempt in a record of the history. Its error may have been cut in the middle of a character."""
    fields = json.loads(record.decode("utf-8", "replace"))
    return Attempt(
        number=int(fields["attempt"]),
        worker_id=fields["workerId"],
        outcome=AttemptOutcome(fields["outcome"]),
        started_at_ms=int(fields["startedAt"]),
        ended_at_ms=int(fields["endedAt"]),
        error=fields.get("error") or None,
        tries=int(fields.get("tries", 1)),
    )


_OUTCOMES = {
    TaskState.RUNNING: AttemptOutcome.RUNNING,
    TaskState.SUCCEEDED: AttemptOutcome.OK,
    TaskState.TIMED_OUT: AttemptOutcome.TIMEOUT,
    TaskState.CANCELLED: AttemptOutcome.CANCELLED,
    TaskState.DEAD: AttemptOutcome.LOST,
}


def latest_attempt(task: Task) -> Attempt | None:
    """Return the latest attempt from the task's own fields; None before the first, and when the history has it."""
    if task.started_at_ms is None or task.latest_attempt_noted:
        return None
    outcome = _OUTCOMES.get(task.state, AttemptOutcome.ERROR)
    if task.lost_lease:
        outcome = AttemptOutcome.LOST
    elif task.ended_by_lost_connection:
        outcome = AttemptOutcome.CONNECTION_LOST
    ended_at_ms = task.updated_at_ms if task.lost_lease else task.finished_at_ms
    return Attempt(
        number=task.attempts,
        worker_id=task.worker_id or "",
        outcome=outcome,
        started_at_ms=task.started_at_ms,
        ended_at_ms=ended_at_ms,
        error=_latest_error(task),
    )


def _latest_error(task: Task) -> str | None:
    if task.state in TERMINAL_STATES:
        return task.error
    if not task.lost_lease or task.silent_seconds is None:
        return None
    # The sentence of `lost_error` in library.lua.
    return f"worker {task.worker_id or ''} did not renew the lease of the attempt for {task.silent_seconds} s"
