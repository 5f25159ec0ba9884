"""Home folders for containers that run as a user of their own, because such a user cannot use the controller's.

Each worker has a folder that only its user can enter, until the worker ends:

    /tmp/queue-engine-homes-8c1f22d0a4b7-4711-98765-x1y2z3/7-5e1f0c-a9b8c7

The folder above them, which belongs to the controller, is named after the work directory and after the controller's
process, so that the next controller removes it after a kill.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from uuid import uuid4

from queue_engine.processes.process_groups import birth_of

log = logging.getLogger(__name__)

_PREFIX = "queue-engine-homes"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_AT_ONCE = 1000
"""Number of entries that are moved between two listings of a folder, so that not all names are in memory."""
_PASSABLE = 0o711
"""Mode of the folder above the homes: other users can pass through it, and cannot list it."""


class WorkerHomes:
    """The homes of the workers of one controller."""

    def __init__(self, work_dir: Path) -> None:
        self._name = f"{_PREFIX}-{hashlib.sha256(os.fsencode(work_dir.absolute())).hexdigest()[:12]}"
        self._folder: Path | None = None

    def make(self, worker_id: str, user_id: int) -> Path:
        """Create the home of a worker, for a user and a group with this id. Raises OSError."""
        if self._folder is None:
            pid = os.getpid()
            self._folder = Path(tempfile.mkdtemp(prefix=f"{self._name}-{pid}-{birth_of(pid)}-"))
            self._folder.chmod(_PASSABLE)
        home = tempfile.mkdtemp(prefix=f"{worker_id}-", dir=self._folder)
        os.chown(home, user_id, user_id)
        return Path(home)

    def close_to_user(self, home: Path) -> None:
        """Let no user enter a home any longer, so that its user id can be given to another endpoint. Never raises."""
        with suppress(OSError):
            os.chown(home, os.geteuid(), os.getegid())
            home.chmod(0)

    def remove(self, home: Path) -> None:
        """Delete a home with its contents. Blocks. Never raises: what cannot be deleted stays until `remove_left`."""
        _remove(home)

    def close(self) -> None:
        """Delete the folder above the homes if it is empty. Never raises, and is safe to call twice."""
        if self._folder is not None:
            with suppress(OSError):
                self._folder.rmdir()
            self._folder = None

    def remove_left(self) -> None:
        """Delete the homes of controllers with this work directory that have died. Blocks. Never raises."""
        for folder in Path(tempfile.gettempdir()).glob(f"{self._name}-*"):
            _, _, rest = folder.name.partition(f"{self._name}-")
            pid, _, others = rest.partition("-")
            if _is_own(folder) and pid.isdecimal() and birth_of(int(pid)) != others.partition("-")[0]:
                _remove(folder)


def _remove(folder: Path) -> None:
    """Delete a folder, however deep: folders in folders are moved up to it, so that two at a time are open."""
    try:
        top = os.open(folder, _FOLDER)
    except OSError:
        return
    try:
        while _remove_some(top):
            pass
        folder.rmdir()
    except OSError as error:
        log.warning("a container's folder cannot be deleted: %s", error)
    finally:
        os.close(top)


def _remove_some(top: int) -> int:
    """Delete the entries of an open folder, and move up what is in its folders. Return the number deleted."""
    deleted = 0
    with os.scandir(top) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                inner = os.open(entry.name, _FOLDER, dir_fd=top)
                try:
                    _move_up(inner, top)
                finally:
                    os.close(inner)
                os.rmdir(entry.name, dir_fd=top)
            else:
                os.unlink(entry.name, dir_fd=top)
            deleted += 1
    return deleted


def _move_up(inner: int, top: int) -> None:
    while names := list(islice(_names(inner), _AT_ONCE)):
        for name in names:
            os.rename(name, uuid4().hex, src_dir_fd=inner, dst_dir_fd=top)


def _names(folder: int) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry.name


def _is_own(folder: Path) -> bool:
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
