"""Signatures of webhooks in the Standard Webhooks format (standardwebhooks.com, specification 1.0).

HMAC-SHA256 over `id.timestamp.body` lets a receiver verify that a message is authentic, complete and recent.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

SECRET_PREFIX = "whsec_"  # noqa: S105 - the public prefix of every secret
MIN_SECRET_BYTES = 24
MAX_SECRET_BYTES = 64
"""The specification's limits of the length of a symmetric key."""


def new_secret(randomness: bytes) -> str:
    """Return the secret `whsec_…` made of 24–64 random bytes. Raises ValueError for another length."""
    if not MIN_SECRET_BYTES <= len(randomness) <= MAX_SECRET_BYTES:
        raise ValueError(f"a signing secret takes {MIN_SECRET_BYTES}–{MAX_SECRET_BYTES} random bytes")
    return SECRET_PREFIX + base64.b64encode(randomness).decode()


def sign(secret: str, message_id: str, timestamp_seconds: int, body: bytes) -> str:
    """Return the value of `webhook-signature`: `v1,<base64>`. Raises ValueError if the secret is not a `whsec_…`."""
    signed = f"{message_id}.{timestamp_seconds}.".encode() + body
    digest = hmac.new(_key_of(secret), signed, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def signature_headers(secret: str, message_id: str, timestamp_seconds: int, body: bytes) -> dict[str, str]:
    """Return the three headers of a signed message. Raises ValueError like `sign`."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp_seconds),
        "webhook-signature": sign(secret, message_id, timestamp_seconds, body),
    }


def _key_of(secret: str) -> bytes:
    try:
        if not secret.startswith(SECRET_PREFIX):
            raise ValueError
        return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (ValueError, binascii.Error):
        # The message must not contain the secret.
        raise ValueError(f"a signing secret is {SECRET_PREFIX} and base64") from None
