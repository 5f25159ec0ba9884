"""Signatures of webhooks in the Standard Webhooks format (standardwebhooks.com, specification 1.0).

HMAC-SHA256 over `id.timestamp.body` lets a receiver verify that a message is authentic, complete and recent.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence

from queue_engine.rules.signing_secrets import MAX_SECRET_BYTES, MIN_SECRET_BYTES, SECRET_PREFIX, key_of


def new_secret(randomness: bytes) -> str:
    """Return the secret `whsec_…` made of 24–64 random bytes. Raises ValueError for another length."""
    if not MIN_SECRET_BYTES <= len(randomness) <= MAX_SECRET_BYTES:
        raise ValueError(f"a signing secret takes {MIN_SECRET_BYTES}–{MAX_SECRET_BYTES} random bytes")
    return SECRET_PREFIX + base64.b64encode(randomness).decode()


def sign(secret: str, message_id: str, timestamp_seconds: int, body: bytes) -> str:
    """Return a signature: `v1,<base64>`. Raises ValueError if the secret is not a `whsec_…`."""
    signed = f"{message_id}.{timestamp_seconds}.".encode() + body
    digest = hmac.new(key_of(secret), signed, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def signature_headers(secrets: Sequence[str], message_id: str, timestamp_seconds: int, body: bytes) -> dict[str, str]:
    """Return the headers of a message that is signed with each of the secrets. Raises ValueError like `sign`.

    A receiver accepts the message if it knows one of the secrets. Without secrets there is no signature.
    """
    headers = {"webhook-id": message_id, "webhook-timestamp": str(timestamp_seconds)}
    if secrets:
        signatures = (sign(secret, message_id, timestamp_seconds, body) for secret in secrets)
        headers["webhook-signature"] = " ".join(signatures)
    return headers
