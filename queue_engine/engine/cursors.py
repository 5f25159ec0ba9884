"""Cursors of lists: opaque texts that say where the next page of a list begins.

A cursor is bound to the list that it was made for: its endpoint, its filters and its order. Its digest is made with the
server's secret key, so that a client can neither change a cursor nor use it for another list. Without a secret key the
digest only detects mistakes; access to an endpoint never depends on a cursor.
"""

from __future__ import annotations

import binascii
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from hmac import compare_digest

from queue_engine.domain.errors import InvalidRequest

MAX_CURSOR_CHARACTERS = 64

_PLACES = struct.Struct(">QQ")
_DIGEST_BYTES = 16


@dataclass(frozen=True)
class Position:
    """The place of a task behind which a page begins, and the last place of the walk; 0: without such a limit."""

    after: int
    upto: int = 0


class Cursors:
    """Makes and reads cursors. `secret_keys` are the server's keys: the current key first, then previous keys."""

    def __init__(self, secret_keys: Sequence[bytes]) -> None:
        self._keys = tuple(_cursor_key(key) for key in secret_keys) or (b"",)

    def made(self, walk: bytes, position: Position) -> str:
        """Return a cursor for a position in the list that `walk` identifies."""
        places = _PLACES.pack(position.after, position.upto)
        return urlsafe_b64encode(places + _digest(self._keys[0], walk, places)).decode()

    def read(self, walk: bytes, cursor: str) -> Position:
        """Return the position of a cursor of the list that `walk` identifies. Raises InvalidRequest."""
        places, digest = _parts_of(cursor)
        if not any(compare_digest(digest, _digest(key, walk, places)) for key in self._keys):
            raise InvalidRequest(
                "cursor", "is not one of this list; a cursor is only for the endpoint and the filters of its page"
            )
        return Position(*_PLACES.unpack(places))


def _parts_of(cursor: str) -> tuple[bytes, bytes]:
    """Return the places and the digest in a cursor. Raises InvalidRequest."""
    try:
        raw = urlsafe_b64decode(cursor.encode("ascii")) if len(cursor) <= MAX_CURSOR_CHARACTERS else b""
    except (ValueError, binascii.Error):
        raw = b""
    if len(raw) != _PLACES.size + _DIGEST_BYTES or urlsafe_b64encode(raw).decode() != cursor:
        raise InvalidRequest("cursor", "must be the nextCursor of a page, unchanged; empty for the first page")
    return raw[: _PLACES.size], raw[_PLACES.size :]


def _cursor_key(key: bytes) -> bytes:
    return blake2b(b"queue-engine cursors", key=key, digest_size=32).digest()


def _digest(key: bytes, walk: bytes, places: bytes) -> bytes:
    return blake2b(walk + places, key=key, digest_size=_DIGEST_BYTES).digest()
