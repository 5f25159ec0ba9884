"""Listening Unix sockets that only this user can connect to.

The sockets of a work directory are in one folder with mode 0700, because not every system checks the mode of a socket
file:

    <work_dir>/sockets/5f0c9a1be2d4

Some work directories cannot have sockets: the path would be longer than about 100 bytes, or the file system does not
support them. The folder is then created in the temporary folder, or in /tmp if that fails too:

    /tmp/queue-engine-1000-8c1f22d0a4b7/5f0c9a1be2d4

Its name has the user's id and a hash of the work directory, so that the next process finds and removes the sockets of a
killed process (`remove_unserved`).
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import socket
import stat
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path

_FOLDER = "sockets"
_SHORTEST = Path("/tmp")  # noqa: S108 - a folder in it is used only when it is private to this user
_UNFINISHED = ".new"
_UNFINISHED_SECONDS = 60.0
_BACKLOG = 32


def listen_privately(work_dir: Path) -> tuple[socket.socket, Path]:
    """Return a listening socket and its absolute address. Creates `work_dir` if it is missing. Raises OSError."""
    failures: list[OSError] = []
    for folder in _folders(work_dir):
        try:
            return _listening_in(folder)
        except OSError as error:
            failures.append(error)
    raise failures[0]


def sockets_of(work_dir: Path) -> list[Path]:
    """Return the addresses of the sockets of this work directory. Folders that other users can enter are ignored."""
    return [path for folder in _folders(work_dir) if _is_private(folder) for path in folder.iterdir()]


def remove_socket(address: Path) -> None:
    """Delete the socket file. Never raises, and is safe to call twice."""
    with suppress(OSError):
        address.unlink()


def remove_unserved(work_dir: Path) -> None:
    """Delete the sockets of this work directory that no process listens on."""
    for path in sockets_of(work_dir):
        if _is_left(path):
            remove_socket(path)


def remove_folders(work_dir: Path) -> None:
    """Delete the socket folders of this work directory that are empty. Never raises."""
    for folder in _folders(work_dir):
        with suppress(OSError):
            folder.rmdir()


def _folders(work_dir: Path) -> list[Path]:
    """Return the folders that are tried, in order."""
    work_dir = work_dir.absolute()
    name = f"queue-engine-{os.geteuid()}-{hashlib.sha256(os.fsencode(work_dir)).hexdigest()[:12]}"
    temporary = Path(tempfile.gettempdir())
    return list(dict.fromkeys([work_dir / _FOLDER, temporary / name, _SHORTEST / name]))


def _listening_in(folder: Path) -> tuple[socket.socket, Path]:
    _make_private(folder)
    address = folder / secrets.token_hex(6)
    unfinished = address.with_suffix(_UNFINISHED)
    with ExitStack() as undo:
        listener = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        listener.bind(str(unfinished))
        undo.callback(remove_socket, unfinished)
        listener.listen(_BACKLOG)
        # Renamed only now, because `remove_unserved` of another process deletes a socket that does not listen yet.
        unfinished.rename(address)
        undo.pop_all()
    return listener, address


def _make_private(folder: Path) -> None:
    """Create the folder if it is missing. Raises OSError if other users can enter it or may have created it."""
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if not _is_private(folder):
        raise PermissionError(errno.EPERM, "must be a folder of this user with mode 0700", str(folder))


def _is_private(folder: Path) -> bool:
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and found.st_mode & 0o077 == 0


def _is_left(path: Path) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    if not stat.S_ISSOCK(found.st_mode):
        return False
    if path.suffix == _UNFINISHED:
        return time.time() - found.st_mtime > _UNFINISHED_SECONDS
    return not _is_served(path)


def _is_served(address: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.setblocking(False)  # so that a server that hangs, and whose backlog is full, does not delay the caller
        try:
            client.connect(str(address))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
    return True
