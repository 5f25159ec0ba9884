"""A store whose disk is full, in each of the two ways."""

from pathlib import Path

import pytest

from tests.faults.disks import DISK_BYTES, OPTIONS, LimitedServer, SmallDiskServer, can_mount, fillable_server
from tests.servers import StoreServer, valkey_binary
from tests.waiting import wait_until


def value(server: SmallDiskServer | LimitedServer, name: str) -> str:
    lines = server.command("INFO", "persistence").splitlines()
    return next(line.partition(":")[2] for line in lines if line.startswith(f"{name}:"))


@pytest.fixture(params=[True, False], ids=["small disk", "limited files"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> SmallDiskServer | LimitedServer:
    if request.param and not can_mount():
        pytest.skip("no file system can be mounted in a namespace here")
    return fillable_server(valkey_binary(), tmp_path, mounting=lambda: bool(request.param))


def test_a_full_disk_refuses_writes_until_there_is_space(server: SmallDiskServer | LimitedServer) -> None:
    with server:
        server.command("SET", "before", "1")
        server.fill()
        wait_until(lambda: server.command("SET", "a", "x" * 50_000).startswith("-MISCONF"), message="it takes writes")
        assert value(server, "aof_last_write_status") == "err"
        assert server.command("GET", "before") == "1"
        server.free()
        wait_until(lambda: server.command("SET", "b", "1") == "+OK", message="it refuses writes")
        assert value(server, "aof_last_write_status") == "ok"


def test_its_disk_is_its_own_and_really_full(tmp_path: Path) -> None:
    if not can_mount():
        pytest.skip("no file system can be mounted in a namespace here")
    with fillable_server(valkey_binary(), tmp_path, mounting=lambda: True) as server:
        assert isinstance(server, SmallDiskServer)
        size, free = server.space()
        assert size == DISK_BYTES
        assert free > 0
        server.fill()
        assert server.space() == (DISK_BYTES, 0)
        assert not (tmp_path / "appendonlydir").exists()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["server.log", "server.sh"]


def test_what_is_on_its_disk_can_be_taken_over_by_another_server(
    server: SmallDiskServer | LimitedServer, tmp_path: Path
) -> None:
    copy = StoreServer(valkey_binary(), tmp_path / "copy", options=OPTIONS)
    with server:
        server.command("SET", "before", "1")
        server.fill()
        wait_until(lambda: server.command("SET", "a", "x" * 50_000).startswith("-MISCONF"), message="it takes writes")
        server.free()
        wait_until(lambda: server.command("SET", "after", "1") == "+OK", message="it refuses writes")
        # A write waits in the server's memory while an earlier one is being synchronized.
        wait_until(lambda: value(server, "aof_buffer_length") == "0", message="it does not write")
        server.copy_data(copy.directory)
    with copy:
        assert (copy.command("GET", "before"), copy.command("GET", "after")) == ("1", "1")


def test_a_machine_that_cannot_mount_says_that_less_was_done(tmp_path: Path) -> None:
    server = fillable_server(valkey_binary(), tmp_path, mounting=lambda: False)
    assert "RLIMIT_FSIZE" in server.lacking
    assert not fillable_server(valkey_binary(), tmp_path, mounting=lambda: True).lacking
