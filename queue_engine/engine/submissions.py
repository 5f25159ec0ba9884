"""Submit a task. Each task id is accepted once, however often and in whatever spelling the request is repeated.

A task keeps a fingerprint of the request that created it. A later request for the same task id is compared with that
fingerprint. Requests of the same bytes have the same fingerprint, and the script that accepts tasks compares it. Only
if the fingerprints differ are the requests compared here: with the fingerprints under previous secret keys, and with
the input compared by value, because a client may print the same value differently when it retries.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from os import urandom
from types import TracebackType
from typing import Any, assert_never

import orjson

from queue_engine.crypto.sealing import Sealer
from queue_engine.domain.endpoints import Endpoint
from queue_engine.domain.errors import (
    EngineError,
    InvalidRequest,
    NotFound,
    QuotaReached,
    RateLimitReached,
    Resource,
    StateConflict,
    StoreUnavailable,
)
from queue_engine.domain.field_errors import FieldError, raise_for
from queue_engine.domain.ids import task_id_from
from queue_engine.domain.principals import Principal
from queue_engine.domain.quick import quick_init
from queue_engine.domain.rates import RateState
from queue_engine.domain.tasks import SPEC_FIELDS, NewTask, Priority, TaskSpec
from queue_engine.engine.access import check_has_access
from queue_engine.engine.destinations import DestinationGuard
from queue_engine.engine.lanes_gate import LanesGate
from queue_engine.engine.patience import as_unavailable, from_store
from queue_engine.engine.queue_limits import closed, full
from queue_engine.engine.secret_fields import secret_errors
from queue_engine.engine.tenant_limits import TenantLimits
from queue_engine.observability import metrics
from queue_engine.rules.strict_json import same_value
from queue_engine.rules.webhook_urls import Webhook
from queue_engine.store.endpoints import EndpointStore
from queue_engine.store.tasks import AcceptedRequest, Enqueued, Submission, TaskStore

MAX_COMPARED_BYTES = 64 * 1024
"""Longest input that is compared by value. Comparing inputs of this size takes some megabytes of Python objects."""
MAX_HASHED_BYTES = 256 * 1024
"""Longest input that is hashed on the event loop. A longer one is hashed in a thread, so that one of 10 MB does not
delay all other requests by 12 ms."""
FINGERPRINT_BYTES = 16

_FINGERPRINTED = ("worker_port", "process_uri", "webhook", "webhook_auth_key", "headers")
_LATER = tuple((one.name, one.asked, one.default) for one in SPEC_FIELDS if one.asked not in _FINGERPRINTED)
_LATER_BESIDE_SPEC = (
    ("delay_seconds", "delay_seconds"),
    ("run_at_ms", "run_at"),
    ("priority", "priority"),
    ("fairness_key", "fairness_key"),
)

_ACCEPTED = metrics.tasks_submitted.labels(result="accepted")
_DUPLICATE = metrics.tasks_submitted.labels(result="duplicate")
_REJECTED = metrics.tasks_submitted.labels(result="rejected")


@quick_init
@dataclass(frozen=True)
class TaskRequest:
    """A task as a client submits it."""

    task_id: str | None
    """None: the engine generates an id."""
    spec: TaskSpec
    input: bytes | memoryview
    """The JSON text as received."""
    webhook: Webhook | None = None
    """The webhook of `spec`, parsed."""
    execution_timeout_seconds: int | None = None
    queue_ttl_seconds: float | None = None
    delay_seconds: float | None = None
    run_at_ms: int | None = None
    priority: Priority | None = None
    fairness_key: str | None = None

    def fingerprint(self, key: bytes) -> str:
        """Return the fingerprint. It does not depend on the spacing outside `input` or on the order of the fields.

        The hash is keyed with `key` (at most 64 bytes), so that a guess at a secret cannot be checked against the
        store's data.
        """
        spec = self.spec
        known: list[object] = [
            spec.worker_port, spec.process_uri, spec.webhook, spec.webhook_auth_key, sorted(spec.headers.items())
        ]  # fmt: skip
        # Included only when given. A request without these fields must keep the fingerprint that it had before the
        # fields existed.
        if self.execution_timeout_seconds is not None or self.queue_ttl_seconds is not None:
            known += [self.execution_timeout_seconds, self.queue_ttl_seconds]
        if later := self._later():
            known.append(later)
        digest = blake2b(orjson.dumps(known, option=orjson.OPT_SORT_KEYS), digest_size=FINGERPRINT_BYTES, key=key)
        digest.update(self.input)
        return digest.hexdigest()

    def _later(self) -> dict[str, Any]:
        """Return those fields that were added later and are given, so that fingerprints of requests without them stay
        the same.
        """
        of_spec, own = self.spec.__dict__, self.__dict__
        later = {asked: value for name, asked, default in _LATER if (value := of_spec[name]) != default}
        for name, asked in _LATER_BESIDE_SPEC:
            if (value := own[name]) is not None:
                later[asked] = value
        return later


@quick_init
@dataclass(frozen=True)
class Submitted:
    """A task that was accepted, by this request or by an earlier one with the same content."""

    task_id: str
    is_new: bool
    rates: Sequence[RateState] = ()
    """The rate limits that apply to the submission."""


@quick_init
@dataclass(frozen=True)
class Prepared:
    """A submission that no rule and no limit of its tenant refuses."""

    task: NewTask
    request: TaskRequest
    rates: Sequence[RateState]


class Submissions:
    """Accepts tasks. `secret_keys` are the server's keys: the current key first, then previous keys."""

    def __init__(
        self,
        tasks: TaskStore,
        endpoints: EndpointStore,
        sealer: Sealer,
        destinations: DestinationGuard,
        secret_keys: Sequence[bytes],
        limits: TenantLimits,
        lanes: LanesGate,
    ) -> None:
        self._tasks = tasks
        self._endpoints = endpoints
        self._limits = limits
        self._lanes = lanes
        self._sealer = sealer
        self._destinations = destinations
        # The first key is for the fingerprints of new tasks. Without a secret key the fingerprints are not keyed.
        self._fingerprint_keys = tuple(_fingerprint_key(key) for key in secret_keys) or (b"",)
        self._comparing = asyncio.Lock()

    async def submit(self, principal: Principal, endpoint_id: str, request: TaskRequest) -> Submitted:
        """Accept the task once. Call this inside `counted_rejections`.

        Raises InvalidRequest, NotFound, EndpointClosed, StoreUnavailable, StateConflict for a task id that another
        request has, RateLimitReached, QuotaReached, and TooManyRequests for a full queue.
        """
        return await self.accepted(await self.prepared(principal, endpoint_id, request))

    async def prepared(self, principal: Principal, endpoint_id: str, request: TaskRequest) -> Prepared:
        """Check a submission and take its place in the limits. `accepted` stores it.

        Raises InvalidRequest, NotFound, StoreUnavailable, RateLimitReached and QuotaReached, and StateConflict for a
        task in a lane while a process of an earlier version works.
        """
        # The hot path: one script call per request, and only the checks that the request needs.
        check_has_access(principal, endpoint_id)
        spec = request.spec
        raise_for(await self.field_errors(principal, spec.headers, spec.webhook_auth_key, request.webhook))
        rates = await self._admit(principal, endpoint_id, request)
        key = self._fingerprint_keys[0]
        if len(request.input) <= MAX_HASHED_BYTES:
            fingerprint = request.fingerprint(key)
        else:
            fingerprint = await asyncio.to_thread(request.fingerprint, key)
        task = self._new_task(principal, endpoint_id, request, fingerprint)
        if task.lane is not None:
            await self._check_lanes(task)
        elif self._tasks.has_default_lane(endpoint_id):
            try:
                await self._check_lanes(task)
            except StateConflict:  # it is refused if the endpoint still has a default priority
                self._tasks.forget_default_lane(endpoint_id)
        return Prepared(task, request, rates)

    async def _check_lanes(self, task: NewTask) -> None:
        """Check that the task may wait in a lane. Another tenant must not learn which endpoints exist."""
        try:
            await self._lanes.check(task.endpoint_id)
        except StateConflict:
            if await from_store(self._endpoints.get(task.endpoint_id, task.tenant)) is None:
                raise NotFound(Resource.ENDPOINT) from None
            raise

    async def accepted(self, prepared: Prepared) -> Submitted:
        """Store a submission, unless its endpoint refuses it.

        Raises NotFound, EndpointClosed, StoreUnavailable, StateConflict, RateLimitReached and TooManyRequests.
        """
        return await self._settled(
            prepared, await from_store(self._tasks.enqueue(prepared.task, self._check_lanes)), {}
        )

    async def all_accepted(self, group: Sequence[Prepared]) -> list[Submitted | Exception]:
        """Store submissions in their order, in shared round trips. Return for each what `accepted` returns or raises.

        Those that the store does not reply to in time are StoreUnavailable.
        """
        found: list[Enqueued | Exception] = []
        try:
            await from_store(self._tasks.enqueue_all([one.task for one in group], found, self._check_lanes))
        except StoreUnavailable as error:
            found += [error] * (len(group) - len(found))
        results: list[Submitted | Exception] = []
        closed_ones: dict[str, Endpoint | None] = {}
        for prepared, enqueued in zip(group, found, strict=True):
            try:
                if isinstance(enqueued, Exception):
                    raise as_unavailable(enqueued)
                results.append(await self._settled(prepared, enqueued, closed_ones))
            except Exception as error:  # noqa: BLE001 - it is the result of the submission
                results.append(error)
        return results

    async def _settled(
        self, prepared: Prepared, enqueued: Enqueued, closed_ones: dict[str, Endpoint | None]
    ) -> Submitted:
        """Return the result of a submission by the store's. Raises what `accepted` raises.

        `closed_ones` are endpoints that were read because they take no tasks, so that a group reads one once.
        """
        task, request, rates = prepared.task, prepared.request, prepared.rates
        if enqueued.result is Submission.CONFLICT:
            enqueued = await self._compare_with_accepted(task, request, enqueued)
        if enqueued.result is Submission.CLOSED:
            name = task.endpoint_id
            if name not in closed_ones:
                closed_ones[name] = await from_store(self._endpoints.get(name, task.tenant))
            raise closed(closed_ones[name])
        _check_accepted(enqueued, rates)
        is_new = enqueued.result is not Submission.DUPLICATE
        (_ACCEPTED if is_new else _DUPLICATE).inc()
        return Submitted(task.task_id, is_new, rates if enqueued.rate is None else (*rates, enqueued.rate))

    async def field_errors(
        self, principal: Principal, headers: Mapping[str, str], webhook_auth_key: str | None, webhook: Webhook | None
    ) -> list[FieldError]:
        """Return the errors of well-formed fields whose values this server cannot encrypt or must not connect to.

        `submit` raises them. A caller whose parser found other errors calls this to report all of them in one message.
        """
        secret = "headers" if headers else None if webhook_auth_key is None else "webhookAuthKey"
        errors = secret_errors(self._sealer, secret)
        return errors if webhook is None else errors + await self._destinations.errors(webhook, principal.tenant)

    async def _admit(self, principal: Principal, endpoint_id: str, request: TaskRequest) -> Sequence[RateState]:
        """Return the rate limits that apply. No quota refuses a task id that has a task, because it adds no task."""
        has_webhook = request.webhook is not None
        try:
            return await self._limits.admit_submission(principal, has_webhook=has_webhook)
        except QuotaReached:
            if request.task_id is None or not await self._has_task(principal, endpoint_id, request.task_id):
                raise
        return await self._limits.admit_submission(principal, has_webhook=has_webhook, is_repeated=True)

    async def _has_task(self, principal: Principal, endpoint_id: str, task_id: str) -> bool:
        """Return True if the tenant's endpoint has the task. Another tenant must not learn which tasks exist."""
        if await from_store(self._endpoints.get(endpoint_id, principal.tenant)) is None:
            return False
        return await from_store(self._tasks.accepted_request(endpoint_id, task_id, max_input_bytes=0)) is not None

    def _new_task(self, principal: Principal, endpoint_id: str, request: TaskRequest, fingerprint: str) -> NewTask:
        spec = request.spec
        if principal.sees_only_own_tasks:
            spec = replace(spec, submitter=principal.submitter)
        return NewTask(
            task_id=request.task_id or task_id_from(urandom(16)),
            endpoint_id=endpoint_id,
            tenant=principal.tenant,
            spec=spec,
            input=request.input,
            fingerprint=fingerprint,
            timeout_seconds=request.execution_timeout_seconds,
            queue_ttl_seconds=request.queue_ttl_seconds,
            delay_seconds=request.delay_seconds,
            run_at_ms=request.run_at_ms,
            priority=request.priority,
            fairness_key=request.fairness_key,
        )

    async def _compare_with_accepted(self, task: NewTask, request: TaskRequest, conflict: Enqueued) -> Enqueued:
        """Return a DUPLICATE if the task was accepted with the same request in another spelling or under a previous
        secret key.
        """
        accepted = await from_store(
            self._tasks.accepted_request(task.endpoint_id, task.task_id, max_input_bytes=MAX_COMPARED_BYTES)
        )
        if accepted is None:  # removed in between, so the id is available again
            return await from_store(self._tasks.enqueue(task, self._check_lanes))
        same = self._is_request_of(request, accepted) or await self._is_respelled_request_of(request, accepted)
        return replace(conflict, result=Submission.DUPLICATE) if same else conflict

    def _is_request_of(self, request: TaskRequest, accepted: AcceptedRequest) -> bool:
        return any(request.fingerprint(key) == accepted.fingerprint for key in self._fingerprint_keys)

    async def _is_respelled_request_of(self, request: TaskRequest, accepted: AcceptedRequest) -> bool:
        """Compare the inputs by value, if everything else is equal.

        The comparison runs in a thread, because a hostile input takes some milliseconds. Only one runs at a time,
        because it takes some megabytes.
        """
        if accepted.input is None or len(request.input) > MAX_COMPARED_BYTES:
            return False
        if not self._is_request_of(replace(request, input=accepted.input), accepted):
            return False
        async with self._comparing:
            return await asyncio.to_thread(same_value, accepted.input, bytes(request.input))


class counted_rejections:  # noqa: N801 - a context manager that reads as a verb
    """Count a submission that fails in this block as rejected.

    The block includes reading and parsing the request, because a request that breaks a rule is a rejected submission. A
    submission that fails because the store is unavailable is not counted.
    """

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if isinstance(error, EngineError) and not isinstance(error, StoreUnavailable):
            _REJECTED.inc()


def _check_accepted(enqueued: Enqueued, rates: Sequence[RateState]) -> None:
    """Raise the error of a submission that was refused. `rates` are limits of its key and tenant."""
    match enqueued.result:
        case Submission.ACCEPTED | Submission.DUPLICATE:
            return
        case Submission.CONFLICT:
            raise StateConflict("taskId: is already used by a task with a different body")
        case Submission.NOT_FOUND:
            raise NotFound(Resource.ENDPOINT)
        case Submission.NOT_QUEUE:
            raise InvalidRequest("serviceMode", "only endpoints with service mode QUEUE take tasks")
        case Submission.CLOSED:
            raise ValueError("the error of a closed endpoint needs the endpoint")
        case Submission.FULL:
            raise full()
        case Submission.TOO_LATE:
            raise InvalidRequest("runAt", "must be at most 30 days ahead")
        case Submission.LIMITED:
            if enqueued.rate is None:
                raise ValueError("a submission over a rate limit comes without the limit")
            raise RateLimitReached(enqueued.rate, rates)
    assert_never(enqueued.result)


def _fingerprint_key(key: bytes) -> bytes:
    return blake2b(b"queue-engine submission fingerprints", key=key, digest_size=32).digest()
