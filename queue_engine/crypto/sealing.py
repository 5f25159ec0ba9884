"""Encryption of secrets at rest: AES-256-GCM, bound to the place where the secret is kept.

A sealed text cannot be moved to another record: the `context` (for example `task:7:abc`) is authenticated with it. It
names its key, so that keys can be changed one record after the other.
Format: `v1.<fingerprint of the key>.` + URL-safe base64 of a 12-byte random nonce followed by ciphertext and tag.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable, Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
_NONCE_BYTES = 12
_VERSION = "v1"


class SecretKeyMissing(Exception):
    """A secret cannot be kept or read because no secret key is configured."""

    def __init__(self) -> None:
        super().__init__("no secret key is configured (QUEUE_ENGINE_SECRET_KEY)")


class SealBroken(Exception):
    """A sealed secret cannot be opened: it was sealed with a key that is not configured, or moved, or changed."""

    def __init__(self, problem: str = "cannot be opened with the configured keys") -> None:
        super().__init__(f"a stored secret {problem} (QUEUE_ENGINE_SECRET_KEY, QUEUE_ENGINE_SECRET_KEY_PREVIOUS)")


class SealKeyUnknown(SealBroken):
    """A sealed secret names a key that is not configured. `fingerprint` is that key's."""

    def __init__(self, fingerprint: str) -> None:
        super().__init__(f"was sealed with another key than those configured, with the fingerprint {fingerprint[:16]}")
        self.fingerprint = fingerprint


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
        raise ValueError("must be 32 random bytes as base64; make one with `queue-engine secret-key new`")
    return key


def parse_secret_keys(text: str) -> tuple[bytes, ...]:
    """Keys separated by commas. Raises ValueError as `parse_secret_key` does."""
    return tuple(parse_secret_key(part) for part in text.split(",") if part.strip())


def fingerprint_of(key: bytes) -> str:
    """16 hexadecimal digits that tell one random key from another and nothing else about it."""
    return hashlib.sha256(b"queue-engine secret key\0" + key).hexdigest()[:16]


class Sealer:
    """A ring of keys for short secrets: seals with the current one, opens with any.

    Without a current key it refuses both with SecretKeyMissing, whatever the previous ones are.
    """

    def __init__(self, key: bytes | None, previous: Iterable[bytes] = ()) -> None:
        ring = [] if key is None else [key, *previous]
        self._ciphers = {fingerprint_of(one): AESGCM(one) for one in ring}
        self.fingerprint = fingerprint_of(key) if key is not None else ""
        """Of the current key; empty without one."""

    @classmethod
    def of(cls, keys: Sequence[bytes]) -> Sealer:
        """A ring of these keys, the current one first; none of them: no key."""
        return cls(keys[0], keys[1:]) if keys else cls(None)

    @property
    def has_key(self) -> bool:
        return bool(self._ciphers)

    def knows(self, fingerprint: str) -> bool:
        """Whether the key with this fingerprint is the current one or a previous one."""
        return fingerprint in self._ciphers

    def is_current(self, sealed: str) -> bool:
        """Whether `sealed` says that it was sealed with the current key."""
        return _parts(sealed)[0] == self.fingerprint

    def seal(self, secret: bytes, context: str) -> str:
        """`secret`, encrypted with the current key and bound to `context`."""
        if not self._ciphers:
            raise SecretKeyMissing
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + self._ciphers[self.fingerprint].encrypt(nonce, secret, context.encode())
        return f"{_VERSION}.{self.fingerprint}.{base64.urlsafe_b64encode(sealed).decode()}"

    def open(self, sealed: str, context: str) -> bytes:
        """Return what was sealed in this context with a key of the ring. Raises SealKeyUnknown and SealBroken."""
        if not self._ciphers:
            raise SecretKeyMissing
        fingerprint, data = _parts(sealed)
        cipher = self._ciphers.get(fingerprint)
        if cipher is None:
            raise SealKeyUnknown(fingerprint)
        try:
            return cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], context.encode())
        except (InvalidTag, ValueError):
            raise SealBroken from None

    def resealed(self, sealed: str, context: str) -> str:
        """The same secret under the current key; `sealed` itself when it is. Raises as `open` does."""
        return sealed if self.is_current(sealed) else self.seal(self.open(sealed, context), context)


def _parts(sealed: str) -> tuple[str, bytes]:
    """The fingerprint of the key, and what is encrypted. Raises SealBroken."""
    version, _, rest = sealed.partition(".")
    fingerprint, _, text = rest.partition(".")
    try:
        data = base64.urlsafe_b64decode(text)
    except ValueError:
        data = b""
    if version != _VERSION or not data:
        raise SealBroken
    return fingerprint, data
