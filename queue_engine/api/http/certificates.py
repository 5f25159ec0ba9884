"""The certificate of the API's server, replaced without a restart when its files change."""

from __future__ import annotations

import logging
import os
import ssl
import time
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

CHECK_SECONDS = 1.0
"""Minimum time between two checks of the files. A check is made when a client connects."""

_State = tuple[tuple[int, int, int], ...]


class ServerCertificate:
    """A certificate chain and its key in PEM files; `key` is None if it is in the file of the chain.

    Raises OSError or ValueError if they cannot be used. Later, unusable files are logged and the previous
    certificate stays, because a file may be replaced before the other. They are tried again at each check, because
    they may become readable without a change of their contents.
    """

    def __init__(self, certificate: Path, key: Path | None, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._certificate = certificate
        self._key = key
        self._monotonic = monotonic
        self._checked_at = monotonic()
        self._loaded_state = self._logged_state = self._state_of_files()
        self._current = self._loaded()

    def context(self) -> ssl.SSLContext:
        """Return the context of the server's socket, whose connections have the current certificate."""
        return self._current

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _listening: object) -> None:
        self._reload_if_changed()
        connection.context = self._current

    def _reload_if_changed(self) -> None:
        now = self._monotonic()
        if now < self._checked_at + CHECK_SECONDS:
            return
        self._checked_at = now
        state = self._state_of_files()
        if state == self._loaded_state:
            return
        try:
            self._current = self._loaded()
        except (OSError, ValueError) as error:
            if state != self._logged_state:  # once, because the files are tried again at each check
                log.warning("the new certificate is not used (QUEUE_ENGINE_TLS_CERT): %s", error)
        else:
            self._loaded_state = state
            log.info("the certificate was replaced", extra={"path": str(self._certificate)})
        self._logged_state = state

    def _state_of_files(self) -> _State:
        """Return a value that changes with the files. Empty while one of them is missing."""
        paths = [self._certificate] if self._key is None else [self._certificate, self._key]
        try:
            found = [os.stat(path) for path in paths]
        except OSError:
            return ()
        return tuple((one.st_mtime_ns, one.st_size, one.st_ino) for one in found)

    def _loaded(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["http/1.1"])
        context.sni_callback = self._choose  # called in every handshake, with or without a server name
        context.load_cert_chain(self._certificate, self._key, password=_no_password)
        return context


def _no_password() -> str:
    """Refuse an encrypted key: without this, OpenSSL asks for its password on the terminal."""
    raise ValueError("the key is encrypted")
