"""Send a test event to a webhook, as deliveries are sent, and tell what came of it."""

from __future__ import annotations

import uuid
from typing import Protocol

from queue_engine.crypto.sealing import Sealer
from queue_engine.domain.audit import Action, webhook_test_target
from queue_engine.domain.deliveries import Unsent, WebhookResponse, WebhookTest
from queue_engine.domain.endpoints import Endpoint
from queue_engine.domain.errors import InvalidRequest, TooManyRequests
from queue_engine.domain.field_errors import raise_for
from queue_engine.domain.principals import Principal
from queue_engine.domain.system import SILENT_MS
from queue_engine.engine.access import check_sees
from queue_engine.engine.audit import Audit
from queue_engine.engine.destinations import DestinationGuard
from queue_engine.engine.patience import as_unavailable, from_store
from queue_engine.engine.secret_fields import secret_errors
from queue_engine.rules.webhook_urls import Webhook, parse_webhook
from queue_engine.store.processes import LEASE_MS

TAKEN_WITHIN_SECONDS = 10.0
"""Time within which a delivery process takes a test, unless none runs or all are busy with other tests."""
MAX_AT_ONCE = 50
"""Limit of the tests in an API process, because each holds a request open."""
RETRY_SECONDS = 5

NOT_SENT = "not_sent"
"""Error type of a test without a result."""
_WORDS = {
    Unsent.NO_PROCESS: "the test was not sent, because no delivery process runs: none has reported to the store for "
    f"{LEASE_MS // 1000} s",
    Unsent.SILENT: "the test was not sent, because no delivery process has reported to the store for "
    f"{SILENT_MS // 1000} s, so all are overloaded or have ended",
    Unsent.STARTING: "the test was not sent, because the delivery process has just started; try again now",
    Unsent.BUSY: "the test was not sent, because all slots for tests of the delivery processes were busy for "
    f"{TAKEN_WITHIN_SECONDS:g} s; try again later",
    Unsent.NO_RESULT: "the result is unknown, because the delivery process that took the test has sent none",
}


class Tests(Protocol):
    """The tests in the store."""

    async def hold(self, test: WebhookTest) -> bool: ...

    async def send(self, test: WebhookTest, *, taken_within_seconds: float) -> WebhookResponse | Unsent: ...


class WebhookTesting:
    """Tests of webhooks. A tenant sends one at a time, in all processes together."""

    def __init__(self, tests: Tests, destinations: DestinationGuard, sealer: Sealer, audit: Audit) -> None:
        self._tests = tests
        self._destinations = destinations
        self._sealer = sealer
        self._audit = audit
        self._under_way = 0

    async def send(
        self, principal: Principal, endpoint: Endpoint, webhook: Webhook | None, auth_key: str | None
    ) -> tuple[Webhook, WebhookResponse]:
        """Send a test to the webhook, by default to that of the endpoint. Return the webhook and the result.

        Raises InvalidRequest, NotFound, TooManyRequests and StoreUnavailable.
        """
        check_sees(principal, endpoint)
        if webhook is None and endpoint.config.webhook is None:
            raise InvalidRequest("webhook", "is required, because the endpoint has none of its own")
        target = webhook or parse_webhook(endpoint.config.webhook or "")
        errors = await self._destinations.errors(target, principal.tenant)
        raise_for(errors + secret_errors(self._sealer, None if auth_key is None else "webhookAuthKey"))
        if self._under_way >= MAX_AT_ONCE:
            raise _too_many(f"at most {MAX_AT_ONCE} tests are under way in an API process")
        self._under_way += 1
        try:
            return target, await self._send(principal, endpoint, target, auth_key)
        finally:
            self._under_way -= 1

    async def _send(
        self, principal: Principal, endpoint: Endpoint, target: Webhook, auth_key: str | None
    ) -> WebhookResponse:
        test = WebhookTest(uuid.uuid4().hex, endpoint.endpoint_id, principal.tenant, target.url, auth_key)
        if not await from_store(self._tests.hold(test)):
            raise _too_many("a tenant sends at most 1 test at a time, and a test of this tenant is under way")
        try:
            result = await self._tests.send(test, taken_within_seconds=TAKEN_WITHIN_SECONDS)
        except Exception as error:
            raise as_unavailable(error) from error
        audited = webhook_test_target(endpoint.endpoint_id, target.destination)
        await self._audit.note(principal, Action.TEST_WEBHOOK, audited)
        return WebhookResponse(None, NOT_SENT, _WORDS[result]) if isinstance(result, Unsent) else result


def _too_many(limit: str) -> TooManyRequests:
    return TooManyRequests(f"webhook-test: {limit}", scope="tenant", retry_after_seconds=RETRY_SECONDS)
