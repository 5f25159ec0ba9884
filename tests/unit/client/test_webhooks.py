"""Verification of webhooks: what the engine and other signers of Standard Webhooks sign is accepted, nothing else."""

import base64
import json
from datetime import UTC, datetime

import pytest
from standardwebhooks import Webhook

from queue_engine.client import InvalidWebhook, verify_webhook
from queue_engine.crypto.signing import signature_headers

SECRET = "whsec_" + base64.b64encode(b"s" * 32).decode()
OTHER = "whsec_" + base64.b64encode(b"o" * 32).decode()
NOW = 1_700_000_000
BODY = json.dumps({"task_id": 3, "user_task_id": "t1", "success": True, "result": [1], "retry_count": 1}).encode()


def signed(*secrets: str, body: bytes = BODY, at: int = NOW) -> dict[str, str]:
    return signature_headers(secrets or [SECRET], "msg_1", at, body)


def test_a_webhook_of_the_engine_is_accepted() -> None:
    event = verify_webhook(signed(), BODY, SECRET, now=NOW)
    assert (event.id, event.task_id, event.user_task_id, event.result) == ("msg_1", 3, "t1", [1])
    assert event.sent_at == NOW


def test_a_webhook_of_another_signer_is_accepted() -> None:
    signature = Webhook(SECRET).sign("msg_1", datetime.fromtimestamp(NOW, UTC), BODY.decode())
    headers = {"Webhook-Id": "msg_1", "WEBHOOK-TIMESTAMP": str(NOW), "webhook-signature": signature}
    assert verify_webhook(headers, BODY, SECRET, now=NOW).id == "msg_1"


def test_any_of_several_secrets_and_signatures_may_fit() -> None:
    assert verify_webhook(signed(OTHER), BODY, [SECRET, OTHER], now=NOW).id == "msg_1"
    assert verify_webhook(signed(OTHER, SECRET), BODY, SECRET, now=NOW).id == "msg_1"


@pytest.mark.parametrize("age", [-300, 300])
def test_a_webhook_of_the_last_five_minutes_is_accepted(age: int) -> None:
    assert verify_webhook(signed(at=NOW - age), BODY, SECRET, now=NOW).id == "msg_1"


@pytest.mark.parametrize(
    ("headers", "body", "reason"),
    [
        (signed(OTHER), BODY, "webhook-signature"),
        (signed(), BODY + b" ", "webhook-signature"),
        (signed() | {"webhook-id": "msg_2"}, BODY, "webhook-signature"),
        (signed() | {"webhook-timestamp": str(NOW + 1)}, BODY, "webhook-signature"),
        (signed() | {"webhook-signature": ""}, BODY, "webhook-signature"),
        (signed() | {"webhook-signature": "v1,ä"}, BODY, "webhook-signature"),
        ({}, BODY, "webhook-id"),
        (signed() | {"webhook-timestamp": "now"}, BODY, "webhook-timestamp"),
        (signed() | {"webhook-timestamp": "²"}, BODY, "webhook-timestamp"),
        (signed(at=NOW - 301), BODY, "300 s"),
        (signed(at=NOW + 301), BODY, "300 s"),
        (signed(body=b"[]"), b"[]", "not a JSON object"),
        (signed(body=b"{"), b"{", "not an event"),
        (signed(body=b'{"task_id": "x"}'), b'{"task_id": "x"}', "not an event"),
    ],
)
def test_any_other_request_is_refused(headers: dict[str, str], body: bytes, reason: str) -> None:
    with pytest.raises(InvalidWebhook, match=reason):
        verify_webhook(headers, body, SECRET, now=NOW)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_%", []])
def test_a_mistake_of_the_receiver_is_no_invalid_webhook(secret: str | list[str]) -> None:
    with pytest.raises(ValueError, match="secret") as raised:
        verify_webhook(signed(), BODY, secret, now=NOW)
    assert not isinstance(raised.value, InvalidWebhook)
