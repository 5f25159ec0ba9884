"""A container that tries what it must not be able to do, and prints what it could, as one line of JSON.

It says only whether a try succeeded, because the engine masks its own secrets in logs. Variables:

    VICTIM_PID, VICTIM_PORT, VICTIM_FILE   another worker's container, its port, and a file in its home
    WORK_DIR, ENGINE_CODE                  the folder of the controller's files, and a file of the engine's code

Then it listens on $PORT, so that its worker runs. The agent is its parent or, in a container of its own, any other
process that it sees.
"""

import ctypes
import json
import os
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from glob import glob
from http.server import BaseHTTPRequestHandler, HTTPServer

MARK = "RESULT "
_PTRACE_ATTACH, _PTRACE_DETACH = 16, 17


def agents() -> list[int]:
    if parent := os.getppid():
        return [parent]
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]


def environment_of(pid: int) -> bool:
    with open(f"/proc/{pid}/environ", "rb") as file:
        return b"WORKER_AGENT_" in file.read()


def memory_of(pid: int) -> bool:
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        first = next(line for line in maps if " r" in line)
        memory.seek(int(first.split("-")[0], 16))
        return len(memory.read(16)) == 16


def traced(pid: int) -> bool:
    libc = ctypes.CDLL(None)
    if libc.ptrace(_PTRACE_ATTACH, pid, 0, 0) != 0:
        return False
    os.waitpid(pid, 0x40000000)  # __WALL
    libc.ptrace(_PTRACE_DETACH, pid, 0, 0)
    return True


def signalled(pid: int) -> bool:
    os.kill(pid, 0)  # needs the same right as SIGKILL
    return True


def descriptors_of(pid: int) -> bool:
    return bool(os.listdir(f"/proc/{pid}/fd"))


def read(path: str) -> bool:
    with open(path, "rb") as file:
        file.read(1)
    return True


def work_files() -> bool:
    found = glob(os.environ["WORK_DIR"] + "/*.log") + glob(os.environ["WORK_DIR"] + "/sockets/*")
    return any(os.access(path, os.R_OK) for path in found)


def code() -> bool:
    with open(os.environ["ENGINE_CODE"], "ab"):
        return True


def port_taken() -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", int(os.environ["VICTIM_PORT"])))
        listener.listen(1)
        return True


def more_rights() -> bool:
    with open("/proc/self/status") as status:
        lines = dict(line.split(":", 1) for line in status)
    own = {str(os.getgid())}
    return lines["NoNewPrivs"].strip() != "1" or set(lines["Groups"].split()) - own != set()


TRIES: dict[str, Callable[[], bool]] = {
    "agent's environment": lambda: any(map(environment_of, agents())),
    "agent's memory": lambda: any(map(memory_of, agents())),
    "agent's descriptors": lambda: any(map(descriptors_of, agents())),
    "trace the agent": lambda: any(map(traced, agents())),
    "signal the agent": lambda: any(map(signalled, agents())),
    "another container's environment": lambda: environment_of(int(os.environ["VICTIM_PID"])),
    "another container's memory": lambda: memory_of(int(os.environ["VICTIM_PID"])),
    "signal another container": lambda: signalled(int(os.environ["VICTIM_PID"])),
    "another container's file": lambda: read(os.environ["VICTIM_FILE"]),
    "another container's port": port_taken,
    "controller's files": work_files,
    "engine's code": code,
    "more rights": more_rights,
}


def run(tries: Mapping[str, Callable[[], bool]]) -> None:
    """Print which tries succeed, then serve."""
    results = {}
    for name, attempt in tries.items():
        results[name] = False
        with suppress(OSError):
            results[name] = attempt()
    sys.stdout.write(f"{MARK}{json.dumps(results)}\n")
    sys.stdout.flush()
    HTTPServer(("127.0.0.1", int(os.environ["PORT"])), BaseHTTPRequestHandler).serve_forever()


if __name__ == "__main__":
    run(TRIES)
