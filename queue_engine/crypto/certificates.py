"""The end of a certificate in a file."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path


def expires_at_ms(path: Path) -> int | None:
    """Return the end of the first certificate of a PEM file, in epoch milliseconds; None if it cannot be read."""
    from cryptography import x509

    try:
        end: datetime = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    except (OSError, ValueError):
        return None
    return int(end.timestamp() * 1000)
