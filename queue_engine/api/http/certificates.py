"""The certificate of the API's server, replaced without a restart when its files change."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from pathlib import Path

from queue_engine.net.reloaded_files import Reloaded


class ServerCertificate:
    """A certificate chain and its key in PEM files; `key` is None if it is in the file of the chain.

    Raises OSError or ValueError if they cannot be used. Later, changed files are loaded as `Reloaded` does.
    """

    def __init__(self, certificate: Path, key: Path | None, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._certificate = certificate
        self._key = key
        paths = [certificate] if key is None else [certificate, key]
        self._context = Reloaded(
            self._loaded, paths, what="certificate", setting="QUEUE_ENGINE_TLS_CERT", monotonic=monotonic
        )

    def context(self) -> ssl.SSLContext:
        """Return the context of the server's socket, whose connections have the current certificate."""
        return self._context.current()

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _listening: object) -> None:
        connection.context = self._context.current()

    def _loaded(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["http/1.1"])
        context.sni_callback = self._choose  # called in every handshake, with or without a server name
        context.load_cert_chain(self._certificate, self._key, password=_no_password)
        return context


def _no_password() -> str:
    """Refuse an encrypted key: without this, OpenSSL asks for its password on the terminal."""
    raise ValueError("the key is encrypted")
