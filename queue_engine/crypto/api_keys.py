"""Make API keys."""

from __future__ import annotations

import secrets

KEY_PREFIX = "qe_"


def new_api_key() -> str:
    """Return a new random key of 256 bits."""
    return KEY_PREFIX + secrets.token_urlsafe(32)
