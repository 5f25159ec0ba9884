"""The reasons why a platform cannot be reached, in words for the owners of endpoints: without its address."""

from __future__ import annotations

import os
import ssl

_FAILED = "the connection failed"


def reason_without_address(error: BaseException) -> str:
    """Return why a platform cannot be reached. The messages of most errors have its address, so none is repeated."""
    if isinstance(error, TimeoutError):
        return "it does not respond"
    if isinstance(error, ssl.SSLError):
        return "its certificate is not accepted, or it does not use TLS"
    number = error.errno if isinstance(error, OSError) else None
    if not number:
        return _FAILED
    # The errors of name resolution have numbers of their own, which are negative.
    return os.strerror(number) if number > 0 else "its name cannot be resolved"
