"""Names are looked up in threads that neither the event loop nor the end of the process waits for."""

import asyncio
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from queue_engine.net.names import is_literal, look_up
from tests.waiting import GIVE_UP_SECONDS

ROOT = Path(__file__).parents[2]
HANG_SECONDS = 300
END_SECONDS = 60
"""Limit for the whole program, far below the time for which the look-up hangs."""
PROGRAM = f"""
import asyncio, socket, time
import uvloop
from queue_engine.net.connecting import connect_to_host
from queue_engine.store.redis.client import connect

asked = []


def hang(host, *arguments, **options):
    asked.append(host)
    time.sleep({HANG_SECONDS})


socket.getaddrinfo = hang


async def call_of(kind):
    if kind == "store":
        await connect("redis://store.test:6379").ping()
    else:
        await connect_to_host(("worker.test", 80))


async def main():
    for number, kind in enumerate(("store", "worker"), start=1):
        calls = [asyncio.create_task(call_of(kind)) for _ in range(5)]
        while len(asked) < number:
            await asyncio.sleep(0.01)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


uvloop.run(main())
print(*asked)
"""


def test_a_process_ends_although_no_name_server_responds() -> None:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=END_SECONDS, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["store.test", "worker.test"]


async def test_simultaneous_look_ups_of_a_name_share_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, asked = threading.Event(), 0

    def wait(*arguments: Any, **options: Any) -> Any:
        nonlocal asked
        asked += 1
        go_on.wait()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 80))]

    monkeypatch.setattr(socket, "getaddrinfo", wait)
    calls = [asyncio.create_task(look_up("one.test", 80)) for _ in range(3)]
    cancelled = asyncio.create_task(look_up("one.test", 80))
    await asyncio.sleep(0)
    cancelled.cancel()
    go_on.set()
    results = await asyncio.gather(*calls)
    assert [found[0][4] for found in results] == [("192.0.2.1", 80)] * 3
    assert asked == 1
    await look_up("one.test", 80)
    assert asked == 2


async def test_a_name_that_does_not_exist_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(OSError, match="unknown"):
        await look_up("none.test", 80)


async def test_a_thread_that_cannot_be_started_fails_one_look_up_and_no_later_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faults = [RuntimeError("can't start new thread")]

    class Thread(threading.Thread):
        def start(self) -> None:
            if faults:
                raise faults.pop()
            super().start()

    monkeypatch.setattr(threading, "Thread", Thread)
    with pytest.raises(OSError, match=r"one\.test cannot be looked up: can't start new thread"):
        await look_up("one.test", 80)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_arguments, **_options: [])
    async with asyncio.timeout(GIVE_UP_SECONDS):
        assert await look_up("one.test", 80) == []


async def test_an_unexpected_error_of_a_look_up_reaches_its_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    async with asyncio.timeout(GIVE_UP_SECONDS):
        with pytest.raises(MemoryError):
            await look_up("one.test", 80)


@pytest.mark.parametrize(("host", "expected"), [("127.0.0.1", True), ("::1", True), ("localhost", False)])
def test_an_address_needs_no_look_up(host: str, expected: bool) -> None:
    assert is_literal(host) is expected
