"""Tests of webhooks: an API process asks, and a delivery process sends, so that the test goes the way of deliveries.

A request is an entry of a list that delivery processes wait for. The one that takes it tells in a list of the test that
it has begun, and then the result. Both lists expire. A test has one attempt: it is lost when the process that has taken
it dies, and the client then gets no result.

A tenant has one slot in the store, whichever API processes it asks, so that a receiver that does not respond takes one
of the slots of the delivery processes at most. A test keeps the slot until it is withdrawn or its attempt has ended,
also when its client has disconnected. The slot expires, because the process that should free it may die.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from queue_engine.crypto.sealing import SealBroken, Sealer, SecretKeyMissing
from queue_engine.domain.deliveries import Phases, Unsent, WebhookResponse, WebhookTest
from queue_engine.domain.system import SILENT_MS, RunningProcess
from queue_engine.net.error_types import INTERNAL
from queue_engine.store.calls import Scripts
from queue_engine.store.keys import WEBHOOK_TESTS, webhook_test, webhook_test_of
from queue_engine.store.processes import Processes
from queue_engine.store.redis.client import MAX_BLOCK_SECONDS

MAX_WAITING = 100
"""Limit of the tests that wait for a delivery process. The oldest are removed."""
KEPT_MS = 60_000
SLOT_MS = 60_000
"""Time after which the slot of a tenant expires, unless a delivery process has taken the test."""
MARGIN_SECONDS = 5.0
"""Time beyond that of the attempt for which the result is awaited."""
DELIVERY_ROLE = "delivery"


@dataclass(frozen=True)
class TakenTest:
    """A test that a delivery process has taken, with what the request has said."""

    test: WebhookTest
    problem: str | None = None
    """Why its key cannot be opened; None: it can, or there is none."""


class WebhookTests:
    """The tests that wait, and their results. Every method raises RedisError."""

    def __init__(
        self,
        redis: Redis,
        blocking: Redis,
        scripts: Scripts,
        processes: Processes,
        sealer: Sealer,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis = redis
        self._blocking = blocking
        self._scripts = scripts
        self._processes = processes
        self._sealer = sealer
        self._monotonic = monotonic

    async def hold(self, test: WebhookTest) -> bool:
        """Take the slot of the test's tenant, which `send` frees. Return False while another test has it."""
        slot = webhook_test_of(test.tenant)
        return bool(await self._redis.set(slot, test.test_id, nx=True, px=SLOT_MS))

    async def send(
        self, test: WebhookTest, *, taken_within_seconds: float, margin_seconds: float = MARGIN_SECONDS
    ) -> WebhookResponse | Unsent:
        """Return the result of a test that has the slot of its tenant, or the reason why there is none.

        A test that is not taken in time is withdrawn. Raises SecretKeyMissing if the auth key cannot be sealed.
        """
        request, is_over, began = self._stored(test), False, self._monotonic()
        try:
            await self._push(request)
            begun = await self._told(test, taken_within_seconds)
            if begun is None:
                is_over = await self._withdrawn(request)
                if is_over:
                    return await self._why_not_taken(self._monotonic() - began)
            seconds = taken_within_seconds if begun is None else float(begun["seconds"])
            told = await self._told(test, seconds + margin_seconds)
            is_over = told is not None
            return Unsent.NO_RESULT if told is None else _response(told)
        finally:
            with suppress(RedisError, OSError):  # the slot expires
                if is_over or await self._withdrawn(request):
                    await self._free(test)

    async def take(self, attempt_seconds: float) -> TakenTest | None:
        """Return a test that waits, after telling that its attempt takes at most so long. None: there was none."""
        found = await self._popped(WEBHOOK_TESTS, MAX_BLOCK_SECONDS)
        if found is None:
            return None
        taken = self._read(found)
        kept_ms = int((attempt_seconds + MARGIN_SECONDS) * 1000)
        await self._redis.pexpire(webhook_test_of(taken.test.tenant), kept_ms)
        await self._tell(taken.test, {"seconds": attempt_seconds})
        return taken

    async def respond(self, test: WebhookTest, response: WebhookResponse) -> None:
        """Tell the result of a test, and free the slot of its tenant. Safe to call twice."""
        await self._free(test)
        phases = response.phases
        await self._tell(
            test,
            {
                "status": response.status,
                "error": response.error_type,
                "excerpt": response.excerpt,
                "duration": response.duration_seconds,
                "phases": [phases.connect_ms, phases.tls_ms, phases.send_ms, phases.wait_ms],
            },
        )

    async def _push(self, request: str) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.rpush(WEBHOOK_TESTS, request)
        pipeline.ltrim(WEBHOOK_TESTS, -MAX_WAITING, -1)
        pipeline.pexpire(WEBHOOK_TESTS, KEPT_MS)
        await pipeline.execute()

    async def _withdrawn(self, request: str) -> bool:
        """Withdraw a test. Return False if it is not waiting, because a delivery process has taken it."""
        return bool(await self._redis.lrem(WEBHOOK_TESTS, 1, request))  # type: ignore[misc]

    async def _why_not_taken(self, waited_seconds: float) -> Unsent:
        running, now_ms = await self._processes.running(), await self._processes.now_ms()
        return why_not_taken(running, now_ms, now_ms - int(waited_seconds * 1000))

    async def _free(self, test: WebhookTest) -> None:
        await self._scripts.free_webhook_test(slot=webhook_test_of(test.tenant), test_id=test.test_id)

    async def _tell(self, test: WebhookTest, told: dict[str, Any]) -> None:
        key = webhook_test(test.test_id)
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.rpush(key, json.dumps(told))
        pipeline.pexpire(key, KEPT_MS)
        await pipeline.execute()

    async def _told(self, test: WebhookTest, seconds: float) -> dict[str, Any] | None:
        """Return the next message about a test; None if none comes in time."""
        key, until = webhook_test(test.test_id), self._monotonic() + seconds
        while (left := until - self._monotonic()) > 0:
            found = await self._popped(key, min(left, MAX_BLOCK_SECONDS))
            if found is not None:
                return found
        return None

    async def _popped(self, key: str, seconds: float) -> dict[str, Any] | None:
        """Return the first entry of a list, and wait for it. Never sent twice, because it takes an entry."""
        limit = f"{max(0.01, seconds):.3f}"  # 0 would wait forever
        popped = await self._blocking.execute_command("BLPOP", key, limit)  # type: ignore[no-untyped-call]
        if popped is None:
            return None
        found: dict[str, Any] = json.loads(popped[1])
        return found

    def _stored(self, test: WebhookTest) -> str:
        sealed = None if test.auth_key is None else self._sealer.seal(test.auth_key.encode(), _context(test.test_id))
        return json.dumps(
            {"id": test.test_id, "endpoint": test.endpoint_id, "tenant": test.tenant, "url": test.url, "key": sealed}
        )

    def _read(self, fields: dict[str, Any]) -> TakenTest:
        test = WebhookTest(fields["id"], fields["endpoint"], fields["tenant"], fields["url"], None)
        if fields["key"] is None:
            return TakenTest(test)
        try:
            key = self._sealer.open(fields["key"], _context(test.test_id)).decode()
        except (SecretKeyMissing, SealBroken) as error:
            return TakenTest(test, str(error))
        return TakenTest(WebhookTest(test.test_id, test.endpoint_id, test.tenant, test.url, key))


def why_not_taken(processes: Sequence[RunningProcess], now_ms: int, asked_at_ms: int) -> Unsent:
    """Return why no delivery process has taken a test that was sent at `asked_at_ms`, by the reports of processes."""
    reported = [one for one in processes if one.role == DELIVERY_ROLE]
    if not reported:
        return Unsent.NO_PROCESS
    heard = [one for one in reported if now_ms - one.noted_at_ms <= SILENT_MS]
    if not heard:
        return Unsent.SILENT
    if all(one.started_at_ms is not None and one.started_at_ms > asked_at_ms for one in heard):
        return Unsent.STARTING
    return Unsent.BUSY


def unreadable(problem: str) -> WebhookResponse:
    """Return the result of a test whose secrets cannot be opened."""
    return WebhookResponse(None, INTERNAL, problem)


def _response(told: dict[str, Any]) -> WebhookResponse:
    return WebhookResponse(
        told["status"],
        told["error"],
        told["excerpt"],
        duration_seconds=told["duration"],
        phases=Phases(*told["phases"]),
    )


def _context(test_id: str) -> str:
    return f"webhook-test:{test_id}"
