"""`/v2/serverless/{id}/webhook-test`: send a test event to a webhook."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict
from starlette.requests import Request

from queue_engine.api.http.envelope import Success, View
from queue_engine.api.http.operations import Operation
from queue_engine.api.http.order_log import note
from queue_engine.api.http.responses import Response, success
from queue_engine.api.http.services import Services
from queue_engine.api.v2.delivery_views import PhasesView, phases_view
from queue_engine.api.v2.endpoints import ENDPOINT_ID
from queue_engine.api.v2.fields import OptionalWebhook, RequestModel, names_of, parsed
from queue_engine.domain.deliveries import WebhookResponse, in_words
from queue_engine.domain.field_errors import raise_for
from queue_engine.domain.principals import Right
from queue_engine.domain.tasks import AuthKey
from queue_engine.rules.webhook_urls import Webhook

TAG = "deliveries"
_EXAMPLE: JsonDict = {"webhook": "https://hooks.example.net/results"}


class WebhookTestRequest(RequestModel):
    """The webhook to test."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    webhook: OptionalWebhook = Field(None, description="URL of the receiver; by default the webhook of the endpoint")
    webhook_auth_key: AuthKey | None = Field(
        None,
        description="Key that the receiver gets as `X-API-Key`, or that signs the event if it begins with `whsec_`, as "
        "that of a task. It is not stored in clear text, nor returned",
    )


class WebhookTestView(View):
    """The result of a test."""

    delivered: bool = Field(description="True if the receiver accepted the event")
    destination: str = Field(description="Scheme, host and port of the webhook")
    message: str = Field(description="The result in a sentence")
    status: int | None = Field(description="HTTP status of the receiver's response; null without a response")
    error: str | None = Field(
        description="Error type as in the ledger of deliveries; null if delivered. `not_sent`: there is no result, "
        "for the reason in the message"
    )
    duration_ms: int = Field(description="Duration of the attempt")
    phases: PhasesView = Field(description="Duration by phase")
    response: str = Field(
        description="The beginning of the receiver's response. A key in it is masked if it has at least 4 characters"
    )


class WebhookTestRoutes:
    """Send a test event to a webhook."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "POST", "/v2/serverless/{id}/webhook-test", self.test_webhook, right=Right.OPERATE,
                summary="Send a test event to a webhook", tag=TAG, response=Success[WebhookTestView],
                takes=WebhookTestRequest, parameters=[ENDPOINT_ID], failures=(400, 404, 413, 415), waits=True,
            ),
        ]  # fmt: skip

    async def test_webhook(self, request: Request) -> Response:
        """A delivery process sends an event of the type `webhook.test`, signed as results are, with the rules and time
        limits of deliveries. There is one attempt, also to a receiver whose deliveries are paused, and it changes
        nothing for them. The response comes when the receiver has responded, after the attempt's time limit, or after
        10 seconds if no delivery process has taken the test. The message says whether none runs, all are silent, the
        only ones have just started, or all are busy with other tests. A tenant sends one test at a time; another one
        gets 429 until the attempt of the first has ended. So does one beyond 50 in an API process.
        """
        principal = await self._services.admit(request)
        endpoint = await self._services.endpoint(request, principal)
        body = await self._services.read_object(request, principal, names_of(WebhookTestRequest))
        asked, errors = parsed(WebhookTestRequest, body.values)
        raise_for(errors)
        webhook, result = await self._services.engine.webhook_tests.send(
            principal, endpoint, asked.webhook, asked.webhook_auth_key
        )
        note(request, status=result.status or 0, fault=result.error_type or "none")
        return success(_view(webhook, result))


def _view(webhook: Webhook, result: WebhookResponse) -> dict[str, Any]:
    return {
        "delivered": result.error_type is None,
        "destination": webhook.destination,
        "message": in_words(result),
        "status": result.status,
        "error": result.error_type,
        "durationMs": round(result.duration_seconds * 1000),
        "phases": phases_view(result.phases),
        "response": result.excerpt if result.status is not None else "",
    }
