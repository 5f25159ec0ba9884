"""Refuse secrets on a server that cannot encrypt them."""

from __future__ import annotations

from queue_engine.crypto.sealing import Sealer
from queue_engine.domain.field_errors import FieldError


def secret_errors(sealer: Sealer, field: str | None) -> list[FieldError]:
    """Return an error of `field`, which holds a secret, if this server cannot encrypt it. None means no secret."""
    if field is None or sealer.has_key:
        return []
    return [(field, "the server has no QUEUE_ENGINE_SECRET_KEY, so secrets cannot be stored")]
