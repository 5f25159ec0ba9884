"""A hostile program in a container of its own: the tries of the process backend, and those over the network.

    python -m tests.clusters.hostile_in_container

Variables, besides those of `hostile_container`:

    GATEWAY, AGENTS_PORT   where the API listens for agents
    CLOSED_PORTS           comma-separated: ports of the engine and its store, which it must not reach
    ENGINE_SOCKET          the path of the container engine's socket on the host
    VICTIM_ENDPOINT, VICTIM_WORKER, VICTIM_TASK   another endpoint, its worker, its running task
    VICTIM_ADDRESS         the address of that worker
    OWN_TOKEN              an agent token of its own endpoint, as if it had read its agent's
"""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from queue_engine.agent_protocol import calls
from queue_engine.agent_protocol import messages as m
from queue_engine.agent_protocol.frames import CONTENT_TYPE
from queue_engine.crypto.api_keys import new_agent_token
from queue_engine.domain.tasks import Cost
from queue_engine.domain.workers import WorkerStatus
from tests.integration.hostile_container import TRIES, run

CALL_SECONDS = 10
NOT_IN_CONTAINERS = frozenset({"another container's port"})
"""On loopback, which a container has for itself."""
FORGED = "f" * 32
"""A token of an attempt."""


HOSTS = (os.environ.get("GATEWAY", ""), "127.0.0.1")


def of_victim(name: str) -> str:
    return os.environ[f"VICTIM_{name}"]


def connected(host: str, port: int) -> bool:
    with socket.create_connection((host, port), timeout=CALL_SECONDS):
        return True


def closed_ports() -> bool:
    return any(tried(partial(connected, host, port)) for port in numbers("CLOSED_PORTS") for host in HOSTS)


def numbers(name: str) -> list[int]:
    return [int(text) for text in os.environ[name].split(",")]


def engine_socket() -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ["ENGINE_SOCKET"])
        return True


def traffic() -> bool:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)):
        return True


def disk() -> bool:
    os.mknod("/tmp/disk", stat.S_IFBLK | 0o600, os.makedev(8, 0))
    return True


def mounted() -> bool:
    return bool(ctypes.CDLL(None).mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0)


def kernel_settings() -> bool:
    with open("/proc/sys/kernel/core_pattern", "r+b"):
        return True


def other_worker() -> bool:
    return connected(of_victim("ADDRESS"), 8000)


def key_made() -> bool:
    body = json.dumps({"name": "mine", "role": "admin"})
    return any(asked("/v2/keys", body.encode(), token, "application/json")[0] == 200 for token in tokens())


def tokens() -> Iterator[str | None]:
    """A made-up token of the other endpoint and of its worker, a true one of the own endpoint, and none."""
    yield from (
        new_agent_token(of_victim("ENDPOINT")),
        new_agent_token(of_victim("WORKER")),
        os.environ["OWN_TOKEN"],
        None,
    )


def asked(path: str, body: bytes, token: str | None, content_type: str = CONTENT_TYPE) -> tuple[int, bytes]:
    headers = {"Content-Type": content_type} | ({} if token is None else {"Authorization": f"Bearer {token}"})
    connection = http.client.HTTPConnection(os.environ["GATEWAY"], int(os.environ["AGENTS_PORT"]), timeout=CALL_SECONDS)
    try:
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    except http.client.HTTPException as error:
        raise OSError from error
    finally:
        connection.close()


def responses(call: calls.Call[Any, Any], request: Any, *blobs: bytes) -> Iterator[Any]:
    """Yield the successful responses to this call, with each token."""
    body = b"".join(call.request.encode(request, blobs))
    for token in tokens():
        status, frame = asked(call.path, body, token)
        if status == 200:
            yield call.response.decode(frame)[0]


def settled(*ends: m.End, blobs: tuple[bytes, ...] = ()) -> bool:
    found = responses(calls.SETTLE, m.SettleRequest(of_victim("WORKER"), ends), *blobs)
    return any(result.word == "OK" for response in found for result in response.results)


def leased() -> bool:
    lease = m.LeaseName(of_victim("TASK"), FORGED)
    found = responses(calls.RENEW, m.RenewRequest(of_victim("WORKER"), (lease,)))
    return any(word.value == "OK" for response in found for word in response.words)


def postponed() -> bool:
    return settled(m.RetriedEnd(of_victim("TASK"), FORGED, "no", 3600.0, "error", Cost.ATTEMPT))


def forged() -> bool:
    return settled(m.SucceededEnd(of_victim("TASK"), FORGED), blobs=(b'"forged"',))


def claimed() -> bool:
    found = responses(calls.CLAIM, m.ClaimRequest(of_victim("WORKER"), FORGED, 1, 0))
    return any(response.claims for response in found)


def worker_changed() -> bool:
    report = m.ReportRequest(of_victim("WORKER"), 99, WorkerStatus.FAILED, 0, "127.0.0.1:1")
    gone = m.WorkerRequest(of_victim("WORKER"))
    return any(True for _ in responses(calls.REPORT, report)) or any(True for _ in responses(calls.REMOVE, gone))


def logged() -> bool:
    return any(True for _ in responses(calls.LOG, m.LogRequest(of_victim("WORKER"), "b1", ("forged",))))


def tried(attempt: Callable[[], bool]) -> bool:
    with suppress(OSError):
        return attempt()
    return False


IN_CONTAINER: dict[str, Callable[[], bool]] = {
    **{name: attempt for name, attempt in TRIES.items() if name not in NOT_IN_CONTAINERS},
    "agent's traffic": traffic,
    "host's disk": disk,
    "mount": mounted,
    "kernel settings": kernel_settings,
    "container engine": engine_socket,
    "store and API of clients": closed_ports,
    "key for itself": key_made,
    "another endpoint's lease": leased,
    "another endpoint's deadline": postponed,
    "another endpoint's result and delivery": forged,
    "another endpoint's count": claimed,
    "another endpoint's worker": worker_changed,
    "another endpoint's log": logged,
}
OVER_NETWORK = {"another worker's server": other_worker}
"""Fails only where the engine's network keeps its containers apart."""

if __name__ == "__main__":
    run(IN_CONTAINER | OVER_NETWORK)
