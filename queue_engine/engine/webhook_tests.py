"""Send a test event to a webhook, as deliveries are sent, and tell what came of it."""

from __future__ import annotations

import uuid
from collections import Counter
from typing import Protocol

from queue_engine.crypto.sealing import Sealer
from queue_engine.domain.audit import Action, webhook_test_target
from queue_engine.domain.deliveries import WebhookResponse, WebhookTest
from queue_engine.domain.endpoints import Endpoint
from queue_engine.domain.errors import InvalidRequest, TooManyRequests
from queue_engine.domain.field_errors import raise_for
from queue_engine.domain.principals import Principal
from queue_engine.engine.access import check_sees
from queue_engine.engine.audit import Audit
from queue_engine.engine.destinations import DestinationGuard
from queue_engine.engine.patience import as_unavailable
from queue_engine.engine.secret_fields import secret_errors
from queue_engine.rules.webhook_urls import Webhook, parse_webhook

TAKEN_WITHIN_SECONDS = 10.0
"""Time within which a delivery process takes a test, unless none runs or all are busy with other tests."""
MAX_PER_TENANT = 1
MAX_AT_ONCE = 50
RETRY_SECONDS = 5

NOT_SENT = WebhookResponse(
    None,
    "not_sent",
    f"the result is unknown: no delivery process has sent it, or taken the test within {TAKEN_WITHIN_SECONDS:g} s",
)


class Tests(Protocol):
    """The tests in the store."""

    async def send(self, test: WebhookTest, *, taken_within_seconds: float) -> WebhookResponse | None: ...


class WebhookTesting:
    """Tests of webhooks. A tenant has one at a time in each process, because each holds a request open."""

    def __init__(self, tests: Tests, destinations: DestinationGuard, sealer: Sealer, audit: Audit) -> None:
        self._tests = tests
        self._destinations = destinations
        self._sealer = sealer
        self._audit = audit
        self._under_way: Counter[str] = Counter()

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
        tenant = principal.tenant
        if self._under_way[tenant] >= MAX_PER_TENANT or self._under_way.total() >= MAX_AT_ONCE:
            rule = f"webhook-test: at most {MAX_PER_TENANT} test of a tenant is sent at a time"
            raise TooManyRequests(rule, scope="tenant", retry_after_seconds=RETRY_SECONDS)
        self._under_way[tenant] += 1
        try:
            return target, await self._send(principal, endpoint, target, auth_key)
        finally:
            self._under_way[tenant] -= 1
            if not self._under_way[tenant]:
                del self._under_way[tenant]

    async def _send(
        self, principal: Principal, endpoint: Endpoint, target: Webhook, auth_key: str | None
    ) -> WebhookResponse:
        test = WebhookTest(uuid.uuid4().hex, endpoint.endpoint_id, principal.tenant, target.url, auth_key)
        try:
            response = await self._tests.send(test, taken_within_seconds=TAKEN_WITHIN_SECONDS)
        except Exception as error:
            raise as_unavailable(error) from error
        audited = webhook_test_target(endpoint.endpoint_id, target.destination)
        await self._audit.note(principal, Action.TEST_WEBHOOK, audited)
        return NOT_SENT if response is None else response
