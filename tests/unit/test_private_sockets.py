"""Unix sockets in a folder that only their user can enter."""

import os
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from queue_engine.net import private_sockets
from queue_engine.net.private_sockets import (
    listen_privately,
    remove_folders,
    remove_socket,
    remove_unserved,
    sockets_of,
)

ROOT = Path(__file__).parents[2]
LONG = "é" * 60
"""A name of 120 bytes: no socket below a folder of this name has an address that the system accepts."""
KILLED = """
import os, signal, sys
from pathlib import Path
from queue_engine.net.private_sockets import listen_privately

kept = listen_privately(Path(sys.argv[1]))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def work_dir() -> Iterator[Path]:
    """A path that is shorter than those of `tmp_path`."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "work"


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The temporary folder of this test alone."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def is_reachable(address: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(address))
        except OSError:
            return False
    return True


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_only_the_user_can_enter_the_folder_of_a_socket(work_dir: Path) -> None:
    before = os.umask(0)
    try:
        listener, address = listen_privately(work_dir)
    finally:
        os.umask(before)
    with listener:
        assert is_reachable(address)
        assert address.parent == work_dir / "sockets"
        assert mode_of(address.parent) == 0o700
        assert sockets_of(work_dir) == [address]
    remove_socket(address)
    remove_socket(address)
    assert sockets_of(work_dir) == []
    remove_folders(work_dir)
    remove_folders(work_dir)
    assert list(work_dir.iterdir()) == []


def test_sockets_of_a_long_work_directory_are_in_one_private_temporary_folder(work_dir: Path, temporary: Path) -> None:
    long = work_dir / LONG
    first, address = listen_privately(long)
    second, other = listen_privately(long)
    elsewhere, apart = listen_privately(long / "x")
    with first, second, elsewhere:
        assert is_reachable(address)
        assert address.parent.parent == temporary
        assert mode_of(address.parent) == 0o700
        assert other.parent == address.parent != apart.parent
        assert set(sockets_of(long)) == {address, other}


def test_the_next_process_removes_what_a_killed_one_has_left_for_a_long_work_directory(
    work_dir: Path, temporary: Path
) -> None:
    long = work_dir / LONG
    command = [sys.executable, "-c", KILLED, str(long)]
    subprocess.run(command, cwd=ROOT, env={"TMPDIR": str(temporary)}, check=False, timeout=60)
    [left] = sockets_of(long)
    assert left.parent.parent == temporary
    remove_unserved(long)
    assert sockets_of(long) == []
    remove_folders(long)
    assert list(temporary.iterdir()) == []


def test_a_long_temporary_folder_is_replaced_too(work_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = work_dir / LONG
    long.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    listener, address = listen_privately(long)
    try:
        with listener:
            assert is_reachable(address)
            assert address.parent.parent == Path("/tmp")
    finally:
        remove_socket(address)
        remove_folders(long)


def test_every_length_of_the_work_directory_has_a_place_for_sockets(work_dir: Path, temporary: Path) -> None:
    for length in range(1, 120):
        listener, address = listen_privately(work_dir.with_name("x" * length))
        with listener:
            assert is_reachable(address)


def test_an_address_is_absolute(work_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work_dir.parent)
    listener, address = listen_privately(Path("relative"))
    with listener:
        assert address.is_absolute()
        assert address.samefile(Path("relative") / "sockets" / address.name)


def open_to_others(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o755)


def linked(folder: Path) -> None:
    target = folder.with_name("target")
    target.mkdir(mode=0o700)
    folder.symlink_to(target)


def of_another_user(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder to another user")
    folder.mkdir(mode=0o700)
    os.chown(folder, 65534, 65534)


@pytest.mark.parametrize("make", [open_to_others, linked, of_another_user])
def test_a_folder_that_other_users_could_enter_or_have_made_is_neither_used_nor_cleaned(
    work_dir: Path, temporary: Path, make: Callable[[Path], None]
) -> None:
    work_dir.mkdir()
    folder = work_dir / "sockets"
    make(folder)
    with socket.socket(socket.AF_UNIX) as unserved:
        unserved.bind(str(folder / "other"))
    listener, address = listen_privately(work_dir)
    with listener:
        assert is_reachable(address)
        assert address.parent.parent == temporary
    remove_unserved(work_dir)
    assert not address.exists()
    assert [path.name for path in folder.iterdir()] == ["other"]


def test_a_socket_that_cannot_be_listened_on_leaves_nothing(
    work_dir: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: socket.socket, __: int) -> None:
        raise OSError("no")

    monkeypatch.setattr(socket.socket, "listen", fails)
    with pytest.raises(OSError, match="no"):
        listen_privately(work_dir)
    assert sockets_of(work_dir) == []
    remove_folders(work_dir)
    assert list(work_dir.iterdir()) == []


def test_without_any_place_the_error_names_the_work_directory(work_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work_dir.mkdir()
    file = work_dir / "sockets"
    file.write_text("no folder")
    monkeypatch.setattr(private_sockets, "_folders", lambda _: [file, file / "below"])
    with pytest.raises(PermissionError, match="mode 0700") as refused:
        listen_privately(work_dir)
    assert refused.value.filename == str(file)


def test_what_a_killed_process_has_left_is_removed_and_nothing_else(work_dir: Path) -> None:
    left, stale = listen_privately(work_dir)
    left.close()
    (work_dir / "w1.log").write_text("line")
    (work_dir / "sockets" / "note").write_text("no socket")
    listener, served = listen_privately(work_dir)
    with listener:
        remove_unserved(work_dir)
        assert not stale.exists()
        assert is_reachable(served)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(served))
            listener.listen(0)  # a full backlog is that of a server that hangs
            remove_unserved(work_dir)
        assert served.exists()
    assert (work_dir / "w1.log").exists()
    assert (work_dir / "sockets" / "note").exists()
    remove_unserved(work_dir / "missing")


def test_a_socket_that_does_not_listen_yet_is_not_removed_by_another_process(
    work_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listen = socket.socket.listen

    def swept(self: socket.socket, backlog: int) -> None:
        remove_unserved(work_dir)
        listen(self, backlog)

    monkeypatch.setattr(socket.socket, "listen", swept)
    listener, address = listen_privately(work_dir)
    with listener:
        assert address.parent == work_dir / "sockets"
        assert is_reachable(address)


def test_a_socket_whose_process_was_killed_before_it_listened_is_removed_later(work_dir: Path) -> None:
    listener, address = listen_privately(work_dir)
    listener.close()
    unfinished = address.rename(address.with_suffix(".new"))
    remove_unserved(work_dir)
    assert unfinished.exists()
    a_while_ago = time.time() - 120
    os.utime(unfinished, (a_while_ago, a_while_ago))
    remove_unserved(work_dir)
    assert not unfinished.exists()
