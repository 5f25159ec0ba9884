"""Homes of containers are deleted whatever a container has left in them."""

import os
from pathlib import Path

import pytest

from queue_engine.backends.worker_homes import WorkerHomes

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make a home for another user")

OTHER = 1_950_000_103
DEPTH = 3000


def test_a_home_with_folders_nested_deeper_than_open_files_allow_is_deleted(tmp_path: Path) -> None:
    homes = WorkerHomes(tmp_path)
    home = homes.make("w1", OTHER)
    outside = tmp_path / "outside"
    outside.touch()
    (home / "link").symlink_to(tmp_path)
    folder = os.open(home, os.O_RDONLY)
    for _ in range(DEPTH):
        os.mkdir("inner", dir_fd=folder)
        inner = os.open("inner", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)
    homes.close_to_user(home)
    assert (home.stat().st_uid, home.stat().st_mode & 0o777) == (os.geteuid(), 0)
    homes.remove(home)
    assert not home.exists()
    assert outside.exists()
    homes.close()
