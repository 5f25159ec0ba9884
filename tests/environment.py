"""The environment of the tests and of the programs that they start."""

import os
import sys
from pathlib import Path

AUTHORITIES = Path(__file__).with_name("authorities.pem")
"""A certificate of an authority whose key does not exist."""
INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR")


def trust_no_authority() -> None:
    """Let no TLS connection of the tests and of their programs be vouched for by this machine's authorities.

    The tests talk to loopback only. To read the machine's hundred and more certificates takes a tenth of a second of
    processor time in every program that imports an HTTP client, and in every client that a test makes.
    """
    os.environ["SSL_CERT_FILE"] = str(AUTHORITIES)
    os.environ["SSL_CERT_DIR"] = os.devnull


def look_for_no_sniffio() -> None:
    """Let httpcore know that the package `sniffio` is not installed.

    It tries to import the package several times in each request, and Python searches all folders of its path again.
    """
    try:
        import sniffio  # type: ignore[import-not-found]  # noqa: F401
    except ImportError:
        sys.modules["sniffio"] = None  # type: ignore[assignment]


def inherited() -> dict[str, str]:
    """Return the variables that a program which a test starts has from the tests' own environment."""
    return {name: os.environ[name] for name in INHERITED if name in os.environ}
