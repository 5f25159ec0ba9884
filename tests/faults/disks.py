"""Stores whose disk can be full."""

from __future__ import annotations

import errno
import resource
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.servers import StoreServer

MEBIBYTE = 1024 * 1024
DISK_BYTES = 48 * MEBIBYTE
SPACE_BYTES = 20_000
"""What a limited server's files still take."""
BALLAST = "ballast"
APPEND_ONLY = "appendonlydir"
"""The name that servers give to it by default."""
# A write that fails is an error of that write, and the server goes on. With `always` it would end instead.
OPTIONS = ("--appendonly", "yes")
_APART = ("unshare", "--user", "--map-root-user", "--mount", "--", "sh", "-c")
_MOUNT = f'mount -t tmpfs -o size={DISK_BYTES} none "$0" && exec "$@"'


class FillableServer(StoreServer):
    """A server whose disk can be filled."""

    lacking = ""
    """Why `fill` does less than it should, in a sentence; empty when it does not."""

    def fill(self) -> None:
        """From now on its files do not grow."""
        raise NotImplementedError

    def free(self) -> None:
        """There is space again."""
        raise NotImplementedError

    def copy_data(self, target: Path) -> None:
        """Copy its append-only files as they are on its disk now, for a server that has `target` as its directory."""
        shutil.copytree(self._disk / APPEND_ONLY, target / APPEND_ONLY)

    @property
    def _disk(self) -> Path:
        """Its directory, as this process sees it."""
        return self.directory


class SmallDiskServer(FillableServer):
    """Its directory is a small file system of its own, which only its process sees and which goes away with it."""

    def fill(self) -> None:
        block = bytes(MEBIBYTE)
        with (self._disk / BALLAST).open("ab", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(block)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    def free(self) -> None:
        (self._disk / BALLAST).unlink(missing_ok=True)

    def space(self) -> tuple[int, int]:
        """The size of its disk and what is free of it, in bytes."""
        usage = shutil.disk_usage(self._disk)
        return usage.total, usage.free

    @property
    def _disk(self) -> Path:
        return Path(f"/proc/{self.pid}/root{self.directory}")


class LimitedServer(FillableServer):
    """Its files may grow no further than a limit: a write beyond fails with EFBIG, as it does with ENOSPC on a disk."""

    lacking = (
        "no file system can be mounted in a namespace here, so no disk was full: "
        "the size of the store's files was limited (RLIMIT_FSIZE)"
    )

    def fill(self) -> None:
        used = sum(one.stat().st_size for one in self.directory.rglob("*") if one.is_file())
        self._limit(used + SPACE_BYTES)

    def free(self) -> None:
        self._limit(resource.RLIM_INFINITY)

    def _limit(self, soft: int) -> None:
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))


def can_mount() -> bool:
    """Whether a process here may have a file system of its own. Linux only, and not in every container."""
    if shutil.which("unshare") is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        test = (*_APART, _MOUNT, folder, "touch", f"{folder}/{BALLAST}")
        return subprocess.run(test, capture_output=True, check=False).returncode == 0


def fillable_server(
    binary: Path, directory: Path, *, mounting: Callable[[], bool] = can_mount
) -> SmallDiskServer | LimitedServer:
    """A server whose disk can be really full, where the machine allows that."""
    if mounting():
        # Each of these programs becomes the next one: the server has the process id that was started.
        words = (*_APART, _MOUNT, str(directory), str(binary))
        return SmallDiskServer(script(directory, f"exec {shlex.join(words)}"), directory, options=OPTIONS)
    # If nobody ignored SIGXFSZ it would end the server.
    limited = script(directory, f"trap '' XFSZ\nexec {shlex.quote(str(binary))}")
    return LimitedServer(limited, directory, options=OPTIONS)


def script(directory: Path, lines: str) -> Path:
    """A program that becomes a server. The last of these lines takes its arguments."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "server.sh"
    file.write_text(f'#!/bin/sh\n{lines} "$@"\n')
    file.chmod(0o755)
    return file
