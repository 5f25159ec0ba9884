"""Start the engine's programs by fork, from a process that has imported them: see `tests.fork_server`.

To import what a program needs takes half a second of processor time, and the tests start hundreds of programs. A forked
program is a process with its own arguments, environment, session, working directory and standard files, and it ends and
is killed like any other. Two things differ: its command line and variables in /proc are those of the server, and its
modules are there already. Tests of a start, of imports and of installed commands use subprocess.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from tests.environment import inherited
from tests.fork_server import MAX_REQUEST_BYTES, NUMBER

ROOT = Path(__file__).resolve().parents[1]
COMMAND_SECONDS = 60.0
_PROCESS = "queue_engine.cli.serve_role"
_MODULES: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("queue_engine", "api"): (_PROCESS, "queue_engine.cli.serve_api"),
    ("queue_engine", "delivery"): (_PROCESS, "queue_engine.cli.serve_delivery"),
    ("queue_engine", "controller"): (_PROCESS, "queue_engine.cli.serve_controller"),
    ("worker_agent", "--endpoint"): ("worker_agent.cli",),
}
"""Imports of the server for a program, which the first two of its arguments name."""
_COMMANDS = ("queue_engine.cli.main", "queue_engine.client")
"""Imports for any other command of the engine, besides the module of the command's name."""
_OF_INTERPRETER = ("PYTHON", "LANG", "LC_", "LD_", "MALLOC_")
"""Beginnings of variables that act before the first line of a program."""


class Process(Protocol):
    """The interface of a process that tests use. `subprocess.Popen` has it too."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...


def program_environment() -> dict[str, str]:
    """Return the variables of a program that is given nothing else. The server has them too."""
    return {**inherited(), "PYTHONPATH": str(ROOT)}


def start_program(
    arguments: Sequence[str], environment: Mapping[str, str], stdin: int, stdout: int, stderr: int
) -> Process:
    """Start `python -m …` as the leader of a session: by fork, unless that would make a difference to the program."""
    modules = _modules_of(arguments)
    if modules is None or _of_interpreter(environment) != _of_interpreter(program_environment()):
        return execute(arguments, environment, stdin, stdout, stderr)
    request = {
        "arguments": list(arguments),
        "environment": dict(environment),
        "directory": os.getcwd(),
        "modules": modules,
    }
    reports, report = os.pipe()
    try:
        socket.send_fds(_server(), [json.dumps(request).encode()], [stdin, stdout, stderr, report])
    finally:
        os.close(report)
    return ForkedProcess(arguments, reports)


def execute(arguments: Sequence[str], environment: Mapping[str, str], stdin: int, stdout: int, stderr: int) -> Process:
    """Start `python -m …` as the leader of a session, in a new interpreter."""
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        env=environment,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    )


def run_command(
    arguments: Sequence[str], variables: Mapping[str, str] | None = None, *, given: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run `python -m …` with these variables besides its usual ones, and this input. Raises TimeoutExpired."""
    environment = {**program_environment(), **(variables or {})}
    with (
        tempfile.TemporaryFile("w+") as stdin,
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
    ):
        stdin.write(given)
        stdin.seek(0)
        process = start_program(arguments, environment, stdin.fileno(), out.fileno(), err.fileno())
        try:
            status = process.wait(COMMAND_SECONDS)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            raise
        for output in (out, err):
            output.seek(0)
        return subprocess.CompletedProcess(list(arguments), status, out.read(), err.read())


class ForkedProcess:
    """A forked program. The fork server reaps it, and reports its process id and its exit status by a pipe."""

    def __init__(self, arguments: Sequence[str], reports: int) -> None:
        self._arguments = arguments
        self._reports = reports
        self._status: int | None = None
        self._reading = threading.Lock()
        self.pid = self._next_report()
        # After its end its id may be that of another process, because the server reaps it at once.
        self._handle: int | None = None
        with suppress(ProcessLookupError):
            self._handle = os.pidfd_open(self.pid)

    def poll(self) -> int | None:
        """Return the exit status, negative after a signal, or None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status once it has ended. Raises TimeoutExpired."""
        if self._status is None:
            ended = select.poll()
            ended.register(self._reports, select.POLLIN)
            if not ended.poll(None if timeout is None else timeout * 1000):
                raise subprocess.TimeoutExpired(list(self._arguments), timeout or 0)
            with self._reading:
                if self._status is None:
                    self._status = self._next_report()
        return self._status

    def send_signal(self, sig: int) -> None:
        """Send a signal. Does nothing after its end."""
        if self.poll() is None and self._handle is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, sig)

    def __del__(self) -> None:
        for descriptor in (self._reports, self._handle):
            if descriptor is not None:
                os.close(descriptor)

    def _next_report(self) -> int:
        report = os.read(self._reports, NUMBER.size)
        if not report:
            raise AssertionError(f"the fork server has ended, which was to run {' '.join(self._arguments)}")
        (number,) = NUMBER.unpack(report)
        return int(number)


def _modules_of(arguments: Sequence[str]) -> tuple[str, ...] | None:
    """Return what the server imports for this program, or None if it forks no such program."""
    package, command = arguments[0], arguments[1] if len(arguments) > 1 else ""
    if package == "queue_engine" and (package, command) not in _MODULES and command != "up":
        module = f"queue_engine.cli.{command.replace('-', '_')}"
        return (*_COMMANDS, module) if find_spec(module) is not None else _COMMANDS
    return _MODULES.get((package, command))


def _of_interpreter(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_OF_INTERPRETER)}


@cache
def _server() -> socket.socket:
    """Start the server of this process, which ends with it, and return the socket for requests to it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_REQUEST_BYTES)
    with theirs:
        subprocess.Popen(
            [sys.executable, "-m", "tests.fork_server", str(theirs.fileno())],
            env=program_environment(),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    return ours
