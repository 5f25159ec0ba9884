"""A process that has imported the engine, and forks the programs that tests start: see `tests.forked`.

    python -m tests.fork_server DESCRIPTOR

Requests come over a socket. Each is the program's arguments, environment and working directory, with four descriptors:
its standard input, output and error, and a pipe for its process id and, once it has ended, its exit status.
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import select
import signal
import socket
import struct
import sys
import threading
import time
from contextlib import suppress
from importlib import import_module
from typing import Any

from queue_engine.processes.interpreter import Loading

MAX_REQUEST_BYTES = 128 * 1024
NUMBER = struct.Struct("i")
"""A process id, or an exit status as subprocess has it."""


def main() -> None:
    """Serve until the other end of the socket is closed. In a forked process, run the program that was asked for."""
    program = serve(socket.socket(fileno=int(sys.argv[1])))
    if program is None:
        return
    try:
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            _end(end.code or 0)
        raise
    _end(0)


def _end(status: int) -> None:
    """End this process in the interpreter's order, but leave its memory to the system.

    The memory is shared with the server, and to free each object copies its page first. Returns if the output cannot be
    written, because the interpreter then ends with a status of its own.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for file in (sys.stdout, sys.stderr):
        try:
            file.flush()
        except (OSError, ValueError):
            return
    os._exit(status)


def serve(requests: socket.socket) -> str | None:
    """Fork a process for each request. Return the name of its program in each of them, and None at the end."""
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    statuses: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([requests.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _report_ends(statuses)
        if requests.fileno() in ready:
            message, descriptors, _, _ = socket.recv_fds(requests, MAX_REQUEST_BYTES, 4)
            if not message:
                return None
            request = json.loads(message)
            with Loading():
                for name in request["modules"]:
                    import_module(name)
            *standard, status = descriptors
            pid = os.fork()
            if pid == 0:
                _become(request, standard, status)
                return str(request["arguments"][0])
            statuses[pid] = status
            for descriptor in standard:
                os.close(descriptor)


def _report_ends(statuses: dict[int, int]) -> None:
    """Reap the programs that have ended, and write their exit statuses."""
    while statuses:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        report = statuses.pop(pid)
        with suppress(BrokenPipeError):  # the test no longer waits for it
            os.write(report, NUMBER.pack(os.waitstatus_to_exitcode(status)))
        os.close(report)


def _become(request: dict[str, Any], standard: list[int], status: int) -> None:
    """Make this process what `python -m` would have made, and report its id. All it keeps of the server are modules."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, descriptor in enumerate(standard):
        os.dup2(descriptor, number)
    os.write(status, NUMBER.pack(os.getpid()))
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    os.chdir(request["directory"])
    sys.argv = list(request["arguments"])


if __name__ == "__main__":
    main()
