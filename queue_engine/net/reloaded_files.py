"""A value from files, such as a certificate, that is loaded again when the files change."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

CHECK_SECONDS = 1.0
"""Minimum time between two checks of the files. A check is made when the value is used."""

T = TypeVar("T")
_State = tuple[tuple[int, int, int], ...]


class Reloaded(Generic[T]):
    """The value that `load` makes from the files at `paths`. `what` and `setting` are its names in the log.

    Raises what `load` raises. Later, unusable files are logged and the previous value stays, because a file may be
    replaced before the other. They are tried again at each check, because they may become readable without a change
    of their contents.
    """

    def __init__(
        self,
        load: Callable[[], T],
        paths: Sequence[Path],
        *,
        what: str,
        setting: str,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._paths = tuple(paths)
        self._what = what
        self._setting = setting
        self._monotonic = monotonic
        self._checked_at = monotonic()
        self._loaded_state = self._logged_state = self._state_of_files()
        self._current = load()

    def current(self) -> T:
        """Return the value of the files as they are now, or as they were at the latest check."""
        now = self._monotonic()
        if now >= self._checked_at + CHECK_SECONDS:
            self._checked_at = now
            self._reload_if_changed()
        return self._current

    def _reload_if_changed(self) -> None:
        state = self._state_of_files()
        if state == self._loaded_state:
            return
        try:
            self._current = self._load()
        except (OSError, ValueError) as error:
            if state != self._logged_state:  # once, because the files are tried again at each check
                log.warning("the new %s is not used (%s): %s", self._what, self._setting, error)
        else:
            self._loaded_state = state
            log.info("the %s was replaced", self._what, extra={"path": str(self._paths[0])})
        self._logged_state = state

    def _state_of_files(self) -> _State:
        """Return a value that changes with the files. Empty while one of them is missing."""
        try:
            found = [os.stat(path) for path in self._paths]
        except OSError:
            return ()
        return tuple((one.st_mtime_ns, one.st_size, one.st_ino) for one in found)
