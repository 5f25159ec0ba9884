"""Verify webhooks of the engine (Standard Webhooks, specification 1.0)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Mapping, Sequence

from pydantic import ValidationError

from queue_engine.client.errors import InvalidWebhook
from queue_engine.client.models import WebhookEvent

TOLERANCE_SECONDS = 300
"""Largest difference between the time of a webhook and the current time."""
_PREFIX = "whsec_"


def verify_webhook(
    headers: Mapping[str, str], body: bytes, secret: str | Sequence[str], *, now: float | None = None
) -> WebhookEvent:
    """Return the event of a request that the engine has signed. Raises InvalidWebhook for any other request.

    `body` is the body as received, before any parsing. With several secrets, one of them must fit: give the old and
    the new one while a secret is replaced. `now` is the time in seconds since 1970, the current one by default.
    """
    if not isinstance(body, bytes | bytearray | memoryview):
        raise TypeError("body must be the bytes of the request as received")
    given = {name.lower(): value for name, value in headers.items()}
    message_id, timestamp = given.get("webhook-id", ""), given.get("webhook-timestamp", "")
    if not message_id:
        raise InvalidWebhook("webhook-id is missing")
    sent_at = _time_of(timestamp, time.time() if now is None else now)
    secrets = [secret] if isinstance(secret, str) else list(secret)
    if not secrets:
        raise ValueError("secret: at least one is required")
    signed = f"{message_id}.{timestamp}.".encode() + bytes(body)
    expected = [_signature(one, signed) for one in secrets]
    signatures = [one.encode() for one in given.get("webhook-signature", "").split()]
    # Each is compared with each in constant time, without an early end.
    if not sum(hmac.compare_digest(one, fits) for one in signatures for fits in expected):
        raise InvalidWebhook("webhook-signature is missing or wrong")
    return _event(message_id, sent_at, bytes(body))


def _time_of(text: str, now: float) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise InvalidWebhook("webhook-timestamp is missing or no number")
    if abs(now - int(text)) > TOLERANCE_SECONDS:
        raise InvalidWebhook(f"webhook-timestamp differs by more than {TOLERANCE_SECONDS} s from the current time")
    return int(text)


def _signature(secret: str, signed: bytes) -> bytes:
    """Return the signature of a secret. Raises ValueError if it is no signing secret: a mistake of the receiver."""
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not key:
        raise ValueError("secret: must be whsec_ and base64")
    return b"v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest())


def _event(message_id: str, sent_at: int, body: bytes) -> WebhookEvent:
    try:
        members = json.loads(body)
        if not isinstance(members, dict):
            raise InvalidWebhook("the body is not a JSON object")
        return WebhookEvent.model_validate({**members, "id": message_id, "sent_at": sent_at})
    except (ValidationError, RecursionError, ValueError) as error:
        raise InvalidWebhook(f"the body is not an event: {error}") from None
