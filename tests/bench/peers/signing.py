"""Signature headers in the Standard Webhooks format, as a user of a job library writes them."""

import base64
import hashlib
import hmac
import time

KEY = b"0123456789abcdef0123456789abcdef"


def signed_headers(message_id: str, body: bytes) -> dict[str, str]:
    stamp = str(int(time.time()))
    digest = hmac.new(KEY, f"{message_id}.{stamp}.".encode() + body, hashlib.sha256).digest()
    return {
        "content-type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": stamp,
        "webhook-signature": "v1," + base64.b64encode(digest).decode(),
    }
