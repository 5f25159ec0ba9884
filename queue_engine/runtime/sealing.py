"""Encryption of secrets at rest: AES-256-GCM, bound to the place where the secret is kept.

A sealed text cannot be moved to another record: the `context` (for example `task:7:abc`) is authenticated with it.
Format: `v1.` + URL-safe base64 of a 12-byte random nonce followed by ciphertext and tag.
"""

from __future__ import annotations

import base64
import hashlib
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
_NONCE_BYTES = 12
_PREFIX = "v1."


class SecretKeyMissing(Exception):
    """A secret cannot be kept or read because no secret key is configured."""

    def __init__(self) -> None:
        super().__init__("no secret key is configured (QUEUE_ENGINE_SECRET_KEY)")


class SealBroken(Exception):
    """A sealed secret cannot be opened: it was sealed with another key, or moved, or changed."""

    def __init__(self) -> None:
        super().__init__("a stored secret cannot be opened with this secret key (QUEUE_ENGINE_SECRET_KEY)")


def new_secret_key() -> str:
    """A new random key, as URL-safe base64."""
    return base64.urlsafe_b64encode(os.urandom(KEY_BYTES)).decode()


def parse_secret_key(text: str) -> bytes:
    """The 32 bytes of a key given as base64 (either alphabet). Raises ValueError without repeating the key."""
    try:
        key = base64.b64decode(text.strip().replace("-", "+").replace("_", "/"), validate=True)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError("must be 32 random bytes as base64; make one with `queue-engine secret-key`")
    return key


class Sealer:
    """Seals and opens short secrets. Without a key it refuses both with SecretKeyMissing."""

    def __init__(self, key: bytes | None) -> None:
        self._cipher = AESGCM(key) if key is not None else None
        self.fingerprint = (
            hashlib.sha256(b"queue-engine secret key\0" + key).hexdigest()[:16] if key is not None else ""
        )

    @property
    def has_key(self) -> bool:
        return self._cipher is not None

    def seal(self, secret: bytes, context: str) -> str:
        """`secret`, encrypted and bound to `context`."""
        if self._cipher is None:
            raise SecretKeyMissing
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + self._cipher.encrypt(nonce, secret, context.encode())
        return _PREFIX + base64.urlsafe_b64encode(sealed).decode()

    def open(self, sealed: str, context: str) -> bytes:
        """What was sealed with this key in this context. Raises SealBroken otherwise."""
        if self._cipher is None:
            raise SecretKeyMissing
        try:
            data = base64.urlsafe_b64decode(sealed.removeprefix(_PREFIX))
            return self._cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], context.encode())
        except (InvalidTag, ValueError):
            raise SealBroken from None
