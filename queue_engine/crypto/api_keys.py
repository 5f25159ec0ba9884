"""Make API keys, agent tokens, and the secrets of console sessions."""

from __future__ import annotations

import secrets

KEY_PREFIX = "qe_"
TOKEN_PREFIX = "qea_"  # noqa: S105 - not a token


def new_api_key() -> str:
    """Return a new random key of 256 bits."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def new_agent_token(holder: str) -> str:
    """Return a new random token of 256 bits. `holder` is the id of an endpoint, or of a worker that is managed."""
    return f"{TOKEN_PREFIX}{holder}_{secrets.token_urlsafe(32)}"


def new_session_half() -> str:
    """Return a new random half of a console session, or the token of a link, of 256 bits."""
    return secrets.token_urlsafe(32)
