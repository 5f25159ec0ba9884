"""Encryption of secrets at rest: AES-256-GCM, bound to the record that has the secret.

A sealed text cannot be moved to another record, because the `context` (for example `task:7:abc`) is authenticated with
it. It names its key, so that keys can be changed record by record.
Format: `v1.<fingerprint of the key>.` + URL-safe base64 of a 12-byte random nonce followed by ciphertext and tag.

The headers of an endpoint's tasks are sealed with a key of that endpoint, which is derived from the secret key. An
agent on the store has only the keys of its endpoint, so it cannot open any other secret.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
MAX_KEPT_RINGS = 256
"""Limit of the endpoints whose derived keys a ring keeps. Deriving them again takes some microseconds."""
_NONCE_BYTES = 12
_VERSION = "v1"


class SecretKeyMissing(Exception):
    """A secret cannot be stored or read, because no secret key is configured."""

    def __init__(self) -> None:
        super().__init__("no secret key is configured (QUEUE_ENGINE_SECRET_KEY)")


class SealBroken(Exception):
    """A sealed secret cannot be opened: it was sealed with a key that is not configured, or moved, or changed."""

    def __init__(self, problem: str = "cannot be opened with the configured keys") -> None:
        super().__init__(f"a stored secret {problem} (QUEUE_ENGINE_SECRET_KEY, QUEUE_ENGINE_SECRET_KEY_PREVIOUS)")


class SealKeyUnknown(SealBroken):
    """A sealed secret names a key that is not configured. `fingerprint` is the fingerprint of that key."""

    def __init__(self, fingerprint: str) -> None:
        super().__init__(f"was sealed with a key that is not configured, with the fingerprint {fingerprint[:16]}")
        self.fingerprint = fingerprint


def new_secret_key() -> str:
    """Return a new random key as URL-safe base64."""
    return base64.urlsafe_b64encode(os.urandom(KEY_BYTES)).decode()


def parse_secret_key(text: str, *, made_by: str = "secret-key new") -> bytes:
    """Return the 32 bytes of a base64 key (either alphabet). Raises ValueError, whose text does not have the key.

    `made_by` is the command that makes such a key, for the error.
    """
    try:
        key = base64.b64decode(text.strip().replace("-", "+").replace("_", "/"), validate=True)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError(f"must be 32 random bytes as base64; make one with `queue-engine {made_by}`")
    return key


def parse_secret_keys(text: str, *, made_by: str = "secret-key new") -> tuple[bytes, ...]:
    """Return the keys of a comma-separated list. Raises ValueError like `parse_secret_key`."""
    return tuple(parse_secret_key(part, made_by=made_by) for part in text.split(",") if part.strip())


def fingerprint_of(key: bytes) -> str:
    """Return 16 hexadecimal digits that identify a random key without revealing it."""
    return hashlib.sha256(b"queue-engine secret key\0" + key).hexdigest()[:16]


def endpoint_key(secret_key: bytes, endpoint_id: str) -> bytes:
    """Return the key of the headers of an endpoint's tasks. The secret key cannot be computed from it.

    HKDF-SHA256 (RFC 5869) with `endpoint:<id>` as info and without a salt. The key is one block of the hash, so each of
    the two steps is one HMAC.
    """
    extracted = hmac.digest(bytes(KEY_BYTES), secret_key, "sha256")
    return hmac.digest(extracted, f"endpoint:{endpoint_id}".encode() + b"\x01", "sha256")


def endpoint_keys_text(secret_keys: Iterable[bytes], endpoint_id: str) -> str:
    """Return the endpoint's keys from these secret keys in their order, as base64 with commas between them."""
    keys = (endpoint_key(one, endpoint_id) for one in secret_keys)
    return ",".join(base64.urlsafe_b64encode(key).decode() for key in keys)


class Sealer:
    """A ring of keys for short secrets. It seals with the current key, and opens with any key.

    Without a current key, both raise SecretKeyMissing, even if there are previous keys.
    """

    def __init__(self, key: bytes | None, previous: Iterable[bytes] = ()) -> None:
        ring = [] if key is None else [key, *previous]
        self._keys = {fingerprint_of(one): one for one in ring}
        self._ciphers: dict[str, AESGCM] = {}
        """The ciphers of the keys that were used."""
        self.fingerprint = fingerprint_of(key) if key is not None else ""
        """The fingerprint of the current key; empty without one."""
        self.for_endpoint = lru_cache(MAX_KEPT_RINGS)(self._for_endpoint)
        """Function that returns the ring of the keys of an endpoint (`endpoint_key`), derived from each key of this
        ring."""

    @classmethod
    def of(cls, keys: Sequence[bytes]) -> Sealer:
        """Return a ring of these keys, of which the first is the current one. An empty list means no key."""
        return cls(keys[0], keys[1:]) if keys else cls(None)

    @property
    def has_key(self) -> bool:
        return bool(self._keys)

    def _for_endpoint(self, endpoint_id: str) -> Sealer:
        return Sealer.of([endpoint_key(key, endpoint_id) for key in self._keys.values()])

    def knows(self, fingerprint: str) -> bool:
        """Return True if the key with this fingerprint is the current one or a previous one."""
        return fingerprint in self._keys

    def is_current(self, sealed: str) -> bool:
        """Return True if `sealed` names the current key."""
        return _parts(sealed)[0] == self.fingerprint

    def seal(self, secret: bytes, context: str) -> str:
        """Return `secret` encrypted with the current key and bound to `context`."""
        if not self._keys:
            raise SecretKeyMissing
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + self._cipher_of(self.fingerprint).encrypt(nonce, secret, context.encode())
        return f"{_VERSION}.{self.fingerprint}.{base64.urlsafe_b64encode(sealed).decode()}"

    def open(self, sealed: str, context: str) -> bytes:
        """Return the secret that was sealed in this context with a key of the ring.

        Raises SealKeyUnknown and SealBroken.
        """
        if not self._keys:
            raise SecretKeyMissing
        fingerprint, data = _parts(sealed)
        if fingerprint not in self._keys:
            raise SealKeyUnknown(fingerprint)
        try:
            return self._cipher_of(fingerprint).decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], context.encode())
        except (_invalid_tag(), ValueError):
            raise SealBroken from None

    def _cipher_of(self, fingerprint: str) -> AESGCM:
        if fingerprint not in self._ciphers:
            self._ciphers[fingerprint] = _cipher(self._keys[fingerprint])
        return self._ciphers[fingerprint]

    def resealed(self, sealed: str, context: str) -> str:
        """Return the same secret, sealed with the current key. Raises like `open` unless that is already the case."""
        return sealed if self.is_current(sealed) else self.seal(self.open(sealed, context), context)


def key_named_by(sealed: str) -> str:
    """Return the fingerprint of the key that a sealed text names. Raises SealBroken."""
    return _parts(sealed)[0]


def load_cipher() -> None:
    """Load the cipher now, because loading it with the first secret would block the event loop for that time."""
    _cipher(bytes(KEY_BYTES))


def _cipher(key: bytes) -> AESGCM:
    # Imported with the first secret, because the library takes 8 MB of a process, and many tasks have no secret.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key)


def _invalid_tag() -> type[Exception]:
    from cryptography.exceptions import InvalidTag

    return InvalidTag


def _parts(sealed: str) -> tuple[str, bytes]:
    """Return the fingerprint of the key, and the encrypted data. Raises SealBroken."""
    version, _, rest = sealed.partition(".")
    fingerprint, _, text = rest.partition(".")
    try:
        data = base64.urlsafe_b64decode(text)
    except ValueError:
        data = b""
    if version != _VERSION or not data:
        raise SealBroken
    return fingerprint, data
