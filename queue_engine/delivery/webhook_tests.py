"""Send the tests of webhooks that clients ask for: one attempt each, by the sender of deliveries."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from typing import Protocol

from queue_engine.aio import end_tasks, retry_while_unavailable
from queue_engine.crypto.sealing import SealBroken, SecretKeyMissing
from queue_engine.crypto.signing import signature_headers
from queue_engine.delivery.sender import OutgoingRequest
from queue_engine.domain.deliveries import WebhookResponse, WebhookTest, as_recorded, webhook_test_body
from queue_engine.net.error_types import INTERNAL
from queue_engine.rules.signing_secrets import signs
from queue_engine.rules.webhook_urls import InvalidWebhook, parse_webhook
from queue_engine.store.redis.client import unavailability
from queue_engine.store.webhook_tests import TakenTest, unreadable

log = logging.getLogger(__name__)

MAX_AT_ONCE = 50
"""Limit of the tests in flight in a process, which are beside its slots for deliveries.

A test that waits for its receiver holds a socket and some kilobytes. A tenant has one test at a time, so it takes so
many tenants whose receivers do not respond until the test of another tenant waits.
"""


class Sends(Protocol):
    """Makes a single HTTP attempt."""

    async def send(self, request: OutgoingRequest) -> WebhookResponse: ...


class Tests(Protocol):
    """The tests in the store."""

    async def take(self, attempt_seconds: float) -> TakenTest | None: ...

    async def respond(self, test: WebhookTest, response: WebhookResponse) -> None: ...


class Secrets(Protocol):
    """The signing secrets of endpoints."""

    async def signing_secrets(self, endpoint_id: str, now_ms: int) -> tuple[str, ...]: ...


class WebhookTester:
    """Takes tests and sends them. `attempt_seconds` is the time limit of an attempt."""

    def __init__(self, tests: Tests, secrets: Secrets, sender: Sends, attempt_seconds: float) -> None:
        self._tests = tests
        self._secrets = secrets
        self._sender = sender
        self._attempt_seconds = attempt_seconds
        self._free = asyncio.Semaphore(MAX_AT_ONCE)
        self._sending: set[asyncio.Task[None]] = set()

    async def step(self) -> int:
        """Take a test, if there is one, and begin its attempt. Return the number of tests taken. Raises RedisError."""
        await self._free.acquire()
        taken = None
        try:
            taken = await self._tests.take(self._attempt_seconds)
        finally:
            if taken is None:
                self._free.release()
        if taken is None:
            return 1  # the wait for one was the pause
        sending = asyncio.create_task(self._send(taken))
        self._sending.add(sending)
        sending.add_done_callback(self._ended)
        return 1

    async def aclose(self) -> None:
        """Give up the tests in flight. Their clients get no result."""
        await end_tasks(*self._sending)

    def _ended(self, sending: asyncio.Task[None]) -> None:
        self._sending.discard(sending)
        self._free.release()

    async def _send(self, taken: TakenTest) -> None:
        test = taken.test
        try:
            response = unreadable(taken.problem) if taken.problem is not None else await self._attempt(test)
        except Exception:
            log.exception("a test of a webhook failed with an internal error", extra={"endpoint": test.endpoint_id})
            response = WebhookResponse(None, INTERNAL, "an error in the delivery process; see its log")
        facts = {"endpoint": test.endpoint_id, "status": response.status, "fault": response.error_type}
        log.info("test of a webhook", extra=facts)
        await retry_while_unavailable(
            lambda: self._tests.respond(test, response), passing=unavailability, what="webhook tests"
        )

    async def _attempt(self, test: WebhookTest) -> WebhookResponse:
        at_ms = int(time.time() * 1000)
        body, key = webhook_test_body(test, at_ms), test.auth_key
        headers = {"Content-Type": "application/json"}
        if key is not None and signs(key):
            secrets: tuple[str, ...] = (key,)
        else:
            if key is not None:
                headers["X-API-Key"] = key
            try:
                secrets = await self._secrets.signing_secrets(test.endpoint_id, at_ms)
            except (SecretKeyMissing, SealBroken) as error:
                return unreadable(str(error))
        headers |= signature_headers(secrets, test.message_id, at_ms // 1000, body)
        response = await self._sender.send(OutgoingRequest(test.url, headers, body, test.tenant))
        if response.error_type is None:
            return response
        return replace(as_recorded(response, named=_is_named(test.url)), duration_seconds=response.duration_seconds)


def _is_named(url: str) -> bool:
    try:
        return parse_webhook(url).literal is None
    except InvalidWebhook:
        return False
