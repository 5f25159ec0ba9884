"""The token of an agent, which may be replaced in its file while the agent runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from queue_engine.crypto.secret_files import read_secret_file
from queue_engine.net.reloaded_files import Reloaded

TOKEN_FILE = "WORKER_AGENT_TOKEN_FILE"  # noqa: S105 - the name of a variable


class Token:
    """A token, or the file that has it, which is read again when it changes. Raises ValueError if it cannot be read.

    `check` raises ValueError for a text that is not a token of this agent.
    """

    def __init__(
        self,
        token: str,
        path: Path | None = None,
        *,
        check: Callable[[str], None] = lambda _: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._token = token
        self._path = path
        self._check = check
        self._file = (
            None
            if path is None
            else Reloaded(self._read, [path], what="token", setting=TOKEN_FILE, monotonic=monotonic)
        )

    def current(self) -> str:
        """Return the token, at most a second older than its file."""
        return self._token if self._file is None else self._file.current()

    def after_refusal(self, refused: str) -> str | None:
        """Return a token in place of a refused one; None if there is no other one in the file."""
        try:
            latest = self._token if self._path is None else self._read()
        except ValueError:
            return None
        return None if latest == refused else latest

    def _read(self) -> str:
        path = self._path
        if path is None:
            return self._token
        token = read_secret_file(path)
        self._check(token)
        return token
