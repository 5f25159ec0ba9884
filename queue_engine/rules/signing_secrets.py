"""Secrets that sign webhooks, in the form of Standard Webhooks (specification 1.0): `whsec_` and base64. Pure."""

from __future__ import annotations

import base64
import binascii

SECRET_PREFIX = "whsec_"  # noqa: S105 - the public prefix of every secret
MIN_SECRET_BYTES = 24
MAX_SECRET_BYTES = 64
"""The specification's limits of the length of a symmetric key."""

SECRET_RULE = (
    f"must be a signing secret if it begins with {SECRET_PREFIX}: then base64 of {MIN_SECRET_BYTES}–{MAX_SECRET_BYTES} "
    "bytes follows"
)


def key_of(secret: str) -> bytes:
    """Return the key of the signature. Raises ValueError, whose text does not have the secret."""
    try:
        if not secret.startswith(SECRET_PREFIX):
            raise ValueError
        return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (ValueError, binascii.Error):
        raise ValueError(f"a signing secret is {SECRET_PREFIX} and base64") from None


def signs(auth_key: str) -> bool:
    """Return True if a webhook's auth key is a secret that signs, and is not sent."""
    return auth_key.startswith(SECRET_PREFIX)


def check_auth_key(auth_key: str) -> str:
    """Return the auth key. Raises ValueError if it looks like a signing secret and is none."""
    if signs(auth_key):
        try:
            length = len(key_of(auth_key))
        except ValueError:
            length = 0
        if not MIN_SECRET_BYTES <= length <= MAX_SECRET_BYTES:
            raise ValueError(SECRET_RULE)
    return auth_key
