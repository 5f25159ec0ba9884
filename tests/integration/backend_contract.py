"""The contract of backends (see `Backend`), as suites to be inherited by the tests of a backend.

`BackendContract` is for all backends. `EndsWithController` and `OutlivesController` are for those with that value of
`outlives_controller`. The tests of a backend give the fixtures `backend`, `make_spec` and `platform`. Commands are for
/bin/sh, with programs that a small image has, and use no files.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import pytest

from queue_engine.backends.base import Backend, BackendError, Observed, Phase, WorkerSpec
from tests.waiting import GIVE_UP_SECONDS, wait_until_async

FOREVER = "exec sleep 600"
ROUNDS = 5
"""Rounds of the test for leaks; few, because the whole suite is short of time."""


class MakeSpec(Protocol):
    """Returns a specification. With `drain="never"` the agent does not end when it is asked to."""

    def __call__(self, worker_id: str, command: str | None, *, run: int = 1, drain: str = "quick") -> WorkerSpec: ...


class Platform(Protocol):
    """The platform below a backend, as its own tools show it."""

    async def containers(self, worker_id: str) -> int:
        """Return the number of a worker's containers that run, without agents."""
        ...

    async def left(self) -> list[str]:
        """Return all that exists on the platform for the backend's installation."""
        ...

    async def kill_agent(self, worker_id: str) -> None:
        """Kill the agent of a worker by SIGKILL, as somebody else would."""
        ...

    def next_backend(self) -> Backend:
        """Return the backend of another controller of the same installation."""
        ...


class BackendContract:
    LIMIT_SECONDS = 30.0
    """Limit of an end by force on a loaded machine. Far below the 600 s for which the container would run."""
    LAST_LINES: tuple[str, ...] = ("first", "no such model")
    """The observed last lines of a container that wrote these; none if a log follower gets them."""

    # Starts

    async def test_a_started_worker_is_observed_running(self, backend: Backend, make_spec: MakeSpec) -> None:
        await backend.start(make_spec("w1", FOREVER))
        assert (await observed(backend, "w1")).alive
        seen = await in_phase(backend, "w1", Phase.RUNNING)
        assert (seen.run, seen.alive, seen.reason, seen.retry_helps, seen.last_lines) == (1, True, None, True, ())
        assert seen.started_at_ms > 1_600_000_000_000

    async def test_a_run_that_is_started_twice_exists_once(
        self, backend: Backend, make_spec: MakeSpec, platform: Platform
    ) -> None:
        spec = make_spec("w1", FOREVER)
        await asyncio.gather(backend.start(spec), backend.start(spec))
        await has_containers(platform, "w1", 1)
        await backend.start(spec)
        await backend.start(make_spec("w2", FOREVER))
        await has_containers(platform, "w2", 1)
        assert await platform.containers("w1") == 1
        assert set(await all_of(backend)) == {"w1", "w2"}

    async def test_a_run_that_has_ended_is_not_started_again(self, backend: Backend, make_spec: MakeSpec) -> None:
        await backend.start(make_spec("w1", "exit 3"))
        first = await ended(backend, "w1")
        await backend.start(make_spec("w1", FOREVER))
        assert await observed(backend, "w1") == first

    async def test_a_later_run_replaces_one_that_has_ended(
        self, backend: Backend, make_spec: MakeSpec, platform: Platform
    ) -> None:
        await backend.start(make_spec("w1", "exit 3"))
        await ended(backend, "w1")
        await backend.start(make_spec("w1", FOREVER, run=2))
        assert (await in_phase(backend, "w1", Phase.RUNNING)).run == 2
        await has_containers(platform, "w1", 1)

    async def test_a_later_run_is_refused_while_an_earlier_one_goes_on(
        self, backend: Backend, make_spec: MakeSpec, platform: Platform
    ) -> None:
        await backend.start(make_spec("w1", FOREVER))
        await has_containers(platform, "w1", 1)
        with pytest.raises(BackendError, match="earlier run"):
            await backend.start(make_spec("w1", FOREVER, run=2))
        assert (await observed(backend, "w1")).run == 1
        assert await platform.containers("w1") == 1

    async def test_an_earlier_run_than_the_existing_one_is_not_started(
        self, backend: Backend, make_spec: MakeSpec, platform: Platform
    ) -> None:
        await backend.start(make_spec("w1", FOREVER, run=2))
        await has_containers(platform, "w1", 1)
        await backend.start(make_spec("w1", FOREVER, run=1))
        assert (await observed(backend, "w1")).run == 2
        assert await platform.containers("w1") == 1

    @pytest.mark.parametrize("worker_id", ["", "../w1", "a/b", ".", "w 1", "w" * 64, "w\n"])
    async def test_a_worker_id_that_could_name_another_file_is_refused(
        self, backend: Backend, make_spec: MakeSpec, worker_id: str
    ) -> None:
        with pytest.raises(BackendError, match="worker id"):
            await backend.start(make_spec(worker_id, FOREVER))
        assert await all_of(backend) == {}

    def test_secrets_are_not_in_the_text_of_a_spec(self, make_spec: MakeSpec) -> None:
        secret = {"TOKEN": "canary-5e1f"}
        assert "canary-5e1f" not in repr(replace(make_spec("w1", "true"), environment=secret, agent_environment=secret))

    # Ends

    async def test_a_stopped_worker_is_forgotten(
        self, backend: Backend, make_spec: MakeSpec, platform: Platform
    ) -> None:
        await backend.start(make_spec("w1", FOREVER))
        await backend.stop("w1", 10)
        assert await all_of(backend) == {}
        assert await platform.left() == []

    async def test_stopping_what_is_not_there_is_no_error(self, backend: Backend, make_spec: MakeSpec) -> None:
        await backend.stop("w1", 10)
        await backend.kill("w1")
        await backend.start(make_spec("w1", FOREVER))
        await asyncio.gather(backend.stop("w1", 10), backend.stop("w1", 10))
        await backend.stop("w1", 10)

    async def test_a_worker_that_is_being_stopped_is_ending_and_can_be_killed_meanwhile(
        self, backend: Backend, make_spec: MakeSpec, platform: Platform
    ) -> None:
        await backend.start(make_spec("w1", FOREVER, drain="never"))
        await has_containers(platform, "w1", 1)
        stopping = asyncio.create_task(backend.stop("w1", 600))
        assert (await in_phase(backend, "w1", Phase.ENDING)).alive
        async with asyncio.timeout(self.LIMIT_SECONDS):
            await backend.kill("w1")
            await stopping
        assert await all_of(backend) == {}
        assert await platform.left() == []

    async def test_an_agent_that_does_not_drain_is_killed_after_the_grace(
        self, backend: Backend, make_spec: MakeSpec, platform: Platform
    ) -> None:
        await backend.start(make_spec("w1", FOREVER, drain="never"))
        await has_containers(platform, "w1", 1)
        async with asyncio.timeout(self.LIMIT_SECONDS):
            await backend.stop("w1", 0.2)
        assert await platform.left() == []

    async def test_a_worker_that_ends_by_itself_stays_with_its_reason(
        self, backend: Backend, make_spec: MakeSpec, platform: Platform
    ) -> None:
        await backend.start(make_spec("w1", "echo first; echo no such model; exit 3"))
        seen = await ended(backend, "w1")
        assert (seen.reason, seen.retry_helps) == ("container exited with status 3", True)
        assert seen.last_lines[: len(self.LAST_LINES)] == self.LAST_LINES
        await backend.stop("w1", 0)
        assert await all_of(backend) == {}
        assert await platform.left() == []

    async def test_a_worker_whose_agent_was_killed_has_ended(
        self, backend: Backend, make_spec: MakeSpec, platform: Platform
    ) -> None:
        await backend.start(make_spec("w1", FOREVER))
        await has_containers(platform, "w1", 1)
        await platform.kill_agent("w1")
        assert "agent killed by signal 9" in str((await ended(backend, "w1")).reason)
        await backend.kill("w1")
        assert await platform.left() == []

    async def test_many_starts_and_stops_leave_nothing(
        self, backend: Backend, make_spec: MakeSpec, platform: Platform
    ) -> None:
        for number in range(ROUNDS):
            worker_ids = [f"w{number}-{index}" for index in range(3)]
            await asyncio.gather(*(backend.start(make_spec(one, FOREVER)) for one in worker_ids))
            await asyncio.gather(*(backend.stop(one, 10) for one in worker_ids[:2]), backend.kill(worker_ids[2]))
        assert await all_of(backend) == {}
        assert await platform.left() == []


class EndsWithController(BackendContract):
    async def test_closing_stops_all_and_may_be_repeated(
        self, backend: Backend, make_spec: MakeSpec, platform: Platform
    ) -> None:
        assert not backend.outlives_controller
        for worker_id in ("w1", "w2", "w3"):
            await backend.start(make_spec(worker_id, FOREVER))
        await backend.aclose(10)
        assert await platform.left() == []
        await backend.aclose(10)

    async def test_a_closed_backend_can_be_used_again(self, backend: Backend, make_spec: MakeSpec) -> None:
        await backend.start(make_spec("w1", FOREVER))
        await backend.aclose(10)
        await backend.start(make_spec("w1", FOREVER, run=2))
        assert (await in_phase(backend, "w1", Phase.RUNNING)).run == 2


class OutlivesController(BackendContract):
    async def test_closing_ends_no_worker_and_the_next_backend_observes_all(
        self, backend: Backend, make_spec: MakeSpec, platform: Platform
    ) -> None:
        assert backend.outlives_controller
        await backend.start(make_spec("w1", FOREVER, run=3))
        before = await in_phase(backend, "w1", Phase.RUNNING)
        await backend.start(make_spec("w2", "echo no such model; exit 3"))
        dead = await ended(backend, "w2")
        await backend.aclose(10)
        await backend.aclose(10)
        assert await platform.containers("w1") == 1
        following = platform.next_backend()
        try:
            first = await all_of(following)
            assert (first["w1"].run, first["w1"].phase) == (3, Phase.RUNNING)
            assert first["w1"].container_id == before.container_id
            assert (first["w2"].phase, first["w2"].reason) == (Phase.ENDED, dead.reason)
            await following.start(make_spec("w1", FOREVER, run=3))
            assert await platform.containers("w1") == 1
            await asyncio.gather(following.stop("w1", 10), following.stop("w2", 10))
            assert await platform.left() == []
        finally:
            await following.aclose(0)

    async def test_a_closed_backend_can_be_used_again(
        self, backend: Backend, make_spec: MakeSpec, platform: Platform
    ) -> None:
        await backend.start(make_spec("w1", FOREVER))
        await in_phase(backend, "w1", Phase.RUNNING)
        await backend.aclose(10)
        assert (await in_phase(backend, "w1", Phase.RUNNING)).run == 1
        await backend.stop("w1", 10)
        assert await platform.left() == []


async def all_of(backend: Backend) -> dict[str, Observed]:
    """All workers, as soon as the platform has been listed."""

    async def listed() -> list[Mapping[str, Observed]]:
        found = await backend.observe()
        return [] if found is None else [found]

    [found] = await wait_until_async(listed, message="the platform is not listed")
    return dict(found)


async def observed(backend: Backend, worker_id: str) -> Observed:
    return (await all_of(backend))[worker_id]


async def in_phase(backend: Backend, worker_id: str, phase: Phase, timeout: float = GIVE_UP_SECONDS) -> Observed:
    """The worker, as soon as it is in this phase."""

    async def found() -> Observed | None:
        seen = (await all_of(backend)).get(worker_id)
        return seen if seen is not None and seen.phase is phase else None

    seen = await wait_until_async(found, timeout, f"{worker_id} does not come to the phase {phase}")
    assert seen is not None
    return seen


async def ended(backend: Backend, worker_id: str, timeout: float = GIVE_UP_SECONDS) -> Observed:
    """The worker, as soon as it has ended."""
    return await in_phase(backend, worker_id, Phase.ENDED, timeout)


async def has_containers(platform: Platform, worker_id: str, count: int) -> None:
    """Wait until the number of running containers of a worker is `count`."""

    async def reached() -> bool:
        return await platform.containers(worker_id) == count

    await wait_until_async(reached, message=f"{worker_id} does not have {count} containers")
