"""The certificate authorities that servers are verified against: receivers of webhooks, and the API of an agent."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from pathlib import Path

from queue_engine.net.reloaded_files import Reloaded


class Authorities:
    """The system's authorities and those in the PEM file `bundle`, which is loaded again when it changes.

    `setting` is the variable that names the bundle. Raises OSError or ValueError if the bundle cannot be used. It only
    adds authorities: names and chains are verified as without it.
    """

    def __init__(
        self,
        bundle: Path | None = None,
        *,
        setting: str = "QUEUE_ENGINE_WEBHOOK_CA",
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bundle = bundle
        self._context = Reloaded(
            self._loaded,
            [] if bundle is None else [bundle],
            what="bundle of authorities",
            setting=setting,
            monotonic=monotonic,
        )

    def context(self) -> ssl.SSLContext:
        """Return the context for a new connection. Reading the system's authorities takes 40 ms, so it is kept."""
        return self._context.current()

    def _loaded(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if self._bundle is not None:
            text = self._bundle.read_text("ascii", "ignore")  # comments between the certificates may be in any coding
            try:
                context.load_verify_locations(cadata=text)
            except ssl.SSLError as error:
                raise ValueError(f"must have certificates in PEM form: {error.reason or error}") from None
        return context
