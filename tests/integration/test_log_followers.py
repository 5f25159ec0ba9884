"""Followers of containers' output: real processes as containers, a real store, and controllers that are killed."""

from __future__ import annotations

import asyncio
import itertools
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from queue_engine.aio import Backoff
from queue_engine.backends.base import BackendError
from queue_engine.backends.container_logs import BeforeRemoval, LogEntry, nothing_before_removal
from queue_engine.controller.log_follower import LAST_LINES, Followed, LogFollower, WorkerLog
from queue_engine.controller.log_followers import NOT_FOLLOWED, LogFollowers, masked_values
from queue_engine.domain.logs import LogQuery
from queue_engine.logs.followed import MAX_UNREAD_BYTES
from queue_engine.logs.masking import Secrets
from queue_engine.observability import metrics
from queue_engine.store.store import Store
from tests.integration.parts import Program, Programs, new_endpoint
from tests.recorded_output import RecordedOutput
from tests.waiting import wait_until_async

SECRET = "tiger-4711-canary"
SECOND_NS = 1_000_000_000

CONTAINER = """
import os, sys, time
number = 0
while not os.path.exists(sys.argv[1]):
    os.write(1, b"line %d\\n" % number)
    if number % 50 == 0:
        os.write(2, b"10%\\r20%\\r")
        os.write(1, b"done\\nthe secret is tiger-")
        os.write(1, b"4711-canary\\n")
    number += 1
    time.sleep(0.005)
os.write(1, b"last of %d" % number)
"""
"""A container that writes about 200 lines a second until a file exists. It cuts lines and a secret into entries."""


class Containers:
    """Starts containers whose output is recorded, and ends them."""

    def __init__(self, directory: Path) -> None:
        self.output = RecordedOutput(directory)
        self._directory = directory
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, followed: Followed, source: str, *, resolution_ns: int = 1) -> None:
        command = [sys.executable, "-c", source, str(self._directory / "stop")]
        self._started.append(self.output.start(followed.worker_id, followed.run, command, resolution_ns=resolution_ns))

    def stop(self) -> None:
        """Let the containers end that wait for it, and wait for all."""
        (self._directory / "stop").touch()
        for container in self._started:
            container.wait()


@pytest.fixture
def containers(tmp_path: Path) -> Iterator[Containers]:
    started = Containers(tmp_path)
    yield started
    started.stop()


async def secrets_of(_: Followed) -> Secrets:
    return Secrets([SECRET])


def followers_of(store: Store, output: RecordedOutput, **options: Any) -> LogFollowers:
    given = {"retention_seconds": 3600, "retry": Backoff(0.01, 0.05), **options}
    return LogFollowers(output, store.logs, given.pop("secrets_of", secrets_of), **given)


async def new_followed(store: Store) -> Followed:
    """Return the first run of a worker of a new endpoint. Only a worker with a record gets a log."""
    endpoint_id = await new_endpoint(store)
    return await recorded(store, Followed(endpoint_id, f"{endpoint_id}-a1b2c3", 1))


async def recorded(store: Store, followed: Followed) -> Followed:
    await store.workers.put(followed.endpoint_id, followed.worker_id, managed=True)
    return followed


@pytest.fixture
async def followed(store: Store) -> Followed:
    return await new_followed(store)


async def log_of(store: Store, followed: Followed) -> list[str]:
    found = await store.logs.page(followed.endpoint_id, followed.worker_id, LogQuery(size=10_000))
    return [line.text for line in found.lines] if found else []


def has_lines(store: Store, followed: Followed, more_than: int) -> Callable[[], Any]:
    async def grown() -> bool:
        return len(await log_of(store, followed)) > more_than

    return grown


def written(count: int) -> list[str]:
    """Return the lines of CONTAINER that has written `count` numbers."""
    lines = []
    for number in range(count):
        lines.append(f"line {number}")
        if number % 50 == 0:
            lines += ["10%", "20%", "done", "the secret is ***"]
    return [*lines, f"last of {count}"]


def check_is_complete(lines: list[str]) -> None:
    """The log has every line that CONTAINER wrote, once and in order."""
    assert lines[-1].startswith("last of ")
    assert lines == written(int(lines[-1].split()[-1]))


def controller(programs: Programs, tmp_path: Path, followed: Followed) -> Program:
    arguments = (str(tmp_path), followed.endpoint_id, followed.worker_id, str(followed.run), SECRET)
    return programs.start("follow-logs", "tests.integration.follow_logs", *arguments)


@pytest.mark.parametrize("resolution_ns", [1, SECOND_NS], ids=["nanoseconds", "seconds"])
async def test_a_log_is_complete_although_its_controllers_are_killed(
    store: Store, programs: Programs, containers: Containers, followed: Followed, tmp_path: Path, resolution_ns: int
) -> None:
    containers.start(followed, CONTAINER, resolution_ns=resolution_ns)
    for _ in range(2):
        before = len(await log_of(store, followed))
        killed = controller(programs, tmp_path, followed)
        await wait_until_async(has_lines(store, followed, before), message="no line is stored")
        killed.kill()
    containers.stop()
    followers = followers_of(store, containers.output, end_seconds=60)
    await followers.finish(followed.worker_id, 1)
    await followers.aclose()
    check_is_complete(await log_of(store, followed))


async def test_a_paused_controller_and_its_successor_write_each_line_once(
    store: Store, programs: Programs, containers: Containers, followed: Followed, tmp_path: Path
) -> None:
    containers.start(followed, CONTAINER)
    paused = controller(programs, tmp_path, followed)
    await wait_until_async(has_lines(store, followed, 0))
    paused.signal(signal.SIGSTOP)
    before = len(await log_of(store, followed))
    followers = followers_of(store, containers.output, end_seconds=60)
    followers.follow({followed: True})
    await wait_until_async(has_lines(store, followed, before))
    paused.signal(signal.SIGCONT)
    for _ in range(3):
        await wait_until_async(has_lines(store, followed, len(await log_of(store, followed))))
    containers.stop()
    await followers.finish(followed.worker_id, 1)
    await followers.aclose()
    paused.kill()
    check_is_complete(await log_of(store, followed))


async def test_the_log_of_an_ended_worker_has_its_last_lines_and_how_it_ended(
    store: Store, containers: Containers, followed: Followed
) -> None:
    numbers = "for number in range(%d): print('run %d,', number, flush=True)\nimport os; os.write(1, b'unfinished')"
    containers.start(followed, numbers % (30, 1))
    followers = followers_of(store, containers.output, end_seconds=60)
    last = await followers.end_of(followed.worker_id, 1, "container exited with status 3")
    assert last == (*(f"run 1, {number}" for number in range(31 - LAST_LINES, 30)), "unfinished")
    assert await followers.end_of(followed.worker_id, 1, "container exited with status 3") == last

    containers.start(Followed(followed.endpoint_id, followed.worker_id, 2), numbers % (2, 2))
    assert await followers.end_of(followed.worker_id, 2, "killed") == ("run 2, 0", "run 2, 1", "unfinished")
    await followers.aclose()
    lines = await log_of(store, followed)
    assert lines[30:] == [
        *("unfinished", "container exited with status 3"),
        *("run 2, 0", "run 2, 1", "unfinished", "killed"),
    ]


async def test_the_output_is_read_to_its_end_before_the_container_is_removed(
    store: Store, containers: Containers, followed: Followed
) -> None:
    containers.start(followed, CONTAINER)
    followers = followers_of(store, containers.output, end_seconds=60)
    followers.follow({followed: True})
    await wait_until_async(has_lines(store, followed, 0))
    containers.stop()
    await containers.output.before_removal(followed.worker_id, 1)
    check_is_complete(await log_of(store, followed))
    assert containers.output.connections == 0
    await followers.aclose()


async def test_a_removal_does_not_wait_for_output_that_does_not_end(
    store: Store, containers: Containers, followed: Followed, caplog: pytest.LogCaptureFixture
) -> None:
    containers.start(followed, CONTAINER)
    followers = followers_of(store, containers.output, end_seconds=0.1)
    followers.follow({followed: True})
    async with asyncio.timeout(30):
        await followers.finish(followed.worker_id, 1)
    assert "not read in time" in caplog.text
    followers.follow({})
    await wait_until_async(lambda: containers.output.connections == 0)
    await followers.aclose()


async def test_a_follower_that_fails_goes_on_and_is_counted(
    store: Store, containers: Containers, followed: Followed, caplog: pytest.LogCaptureFixture
) -> None:
    containers.start(followed, CONTAINER)
    followers = followers_of(store, containers.output, end_seconds=60)
    failures = [_failures(reason) for reason in ("backend", "other")]
    containers.output.failure = BackendError("the engine is away")
    followers.follow({followed: True})
    await wait_until_async(has_lines(store, followed, 0))
    containers.output.failure = ValueError("of a defect")
    await wait_until_async(has_lines(store, followed, len(await log_of(store, followed)) + 100))
    containers.stop()
    await followers.finish(followed.worker_id, 1)
    await followers.aclose()
    check_is_complete(await log_of(store, followed))
    assert [_failures(reason) for reason in ("backend", "other")] == [failures[0] + 1, failures[1] + 1]
    assert "the output of containers is away: the engine is away" in caplog.text
    assert "ValueError: of a defect" in caplog.text


def _failures(reason: str) -> float:
    return float(metrics.log_follower_failures.labels(reason)._value.get())


async def test_no_line_is_stored_while_the_secrets_cannot_be_read(
    store: Store, containers: Containers, followed: Followed
) -> None:
    tries: list[Followed] = []

    async def secrets_at_last(one: Followed) -> Secrets:
        tries.append(one)
        if len(tries) < 3:
            assert await log_of(store, followed) == []
            raise BackendError("the variables cannot be read")
        return Secrets([SECRET])

    containers.start(followed, f"print('the secret is {SECRET}')")
    followers = followers_of(store, containers.output, secrets_of=secrets_at_last, end_seconds=60)
    await followers.finish(followed.worker_id, 1)
    await followers.aclose()
    assert await log_of(store, followed) == ["the secret is ***"]


async def test_a_container_beyond_the_limit_has_a_log_that_says_so_until_it_is_followed(
    store: Store, containers: Containers, followed: Followed
) -> None:
    other = await recorded(store, Followed(followed.endpoint_id, f"{followed.endpoint_id}-other", 1))
    containers.start(followed, CONTAINER)
    containers.start(other, CONTAINER)
    followers = followers_of(store, containers.output, limit=1, end_seconds=60)
    followers.follow({followed: True})
    for _ in range(3):
        followers.follow({followed: True, other: True})
        await wait_until_async(has_lines(store, other, 0))
    assert await log_of(store, other) == [NOT_FOLLOWED]
    assert containers.output.connections == 1
    followers.follow({other: True})
    followers.follow({other: True})
    containers.stop()
    await followers.finish(other.worker_id, 1)
    await followers.aclose()
    first, *lines = await log_of(store, other)
    assert first == NOT_FOLLOWED
    check_is_complete(lines)


async def test_a_follower_ends_when_its_endpoint_is_deleted(store: Store, containers: Containers) -> None:
    nowhere = Followed("4711", "4711-a1b2c3", 1)
    containers.start(nowhere, CONTAINER)
    followers = followers_of(store, containers.output)
    followers.follow({nowhere: True})
    await wait_until_async(lambda: not followers._running())
    assert containers.output.connections == 0
    await followers.aclose()


class Endless:
    """A container that writes faster than it can be followed: its platform always has old entries to return."""

    def __init__(self) -> None:
        self.before_removal: BeforeRemoval = nothing_before_removal
        self.asked: list[int] = []

    async def follow(self, worker_id: str, run: int, since_ns: int) -> AsyncGenerator[LogEntry, None]:
        self.asked.append(since_ns)
        stamp_ns = since_ns + 2 * SECOND_NS
        while True:
            stamp_ns += 1
            yield LogEntry(stamp_ns, b"x" * (MAX_UNREAD_BYTES // 2) + b"\n")

    async def environment(self, worker_id: str, run: int) -> dict[str, str]:
        return {}


class Backlog(Endless):
    """Old output that is read faster than it was written, of a platform whose clock differs from this host's."""

    async def follow(self, worker_id: str, run: int, since_ns: int) -> AsyncGenerator[LogEntry, None]:
        for number in range(16):
            yield LogEntry((number + 1) * 1000 * SECOND_NS, b"x" * (MAX_UNREAD_BYTES // 2) + b"\n")


async def test_a_backlog_is_read_whatever_the_clock_of_the_platform_is(store: Store, followed: Followed) -> None:
    clock = itertools.count(0.0, 10.0)
    log = WorkerLog(store.logs, followed, retention_seconds=3600)
    follower = LogFollower(Backlog(), followed, log, lambda: secrets_of(followed), monotonic=lambda: next(clock))
    assert await follower.follow()


async def test_output_that_is_written_too_fast_for_too_long_is_skipped(store: Store, followed: Followed) -> None:
    clock = [0.0]

    def monotonic() -> float:
        clock[0] += 10.0
        return clock[0]

    source = Endless()
    log = WorkerLog(store.logs, followed, retention_seconds=3600)
    follower = LogFollower(source, followed, log, lambda: secrets_of(followed), monotonic=monotonic)
    assert not await follower.follow()
    assert (await log_of(store, followed))[-1].endswith(" seconds skipped]")
    assert not await follower.follow()
    first, second = source.asked
    assert first == 0
    assert second > 60 * SECOND_NS


@pytest.mark.parametrize(
    ("given", "current", "plain", "masked"),
    [
        ({"A": "old"}, {"A": "new"}, set(), {"old", "new"}),
        ({"A": "old"}, {}, set(), {"old"}),
        ({"A": "same"}, {"A": "same"}, {"A"}, set()),
        ({"A": "secret before"}, {"A": "plain now"}, {"A"}, {"secret before"}),
        ({}, {"A": "new", "B": "plain"}, {"B"}, {"new"}),
    ],
)
def test_values_of_a_container_are_masked_unless_they_are_plain_now(
    given: dict[str, str], current: dict[str, str], plain: set[str], masked: set[str]
) -> None:
    assert masked_values(given, current, plain) == masked
