"""What every backend promises (see `Backend`): a suite to be inherited with the fixtures `backend` and `make_spec`."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from queue_engine.backends.base import Backend, BackendError, Observed, WorkerSpec
from tests.waiting import wait_until_async

MakeSpec = Callable[..., WorkerSpec]
FOREVER = "exec sleep 600"


class BackendContract:
    async def test_a_started_worker_is_observed_alive(self, backend: Backend, make_spec: MakeSpec) -> None:
        await backend.start(make_spec("w1", FOREVER))
        observed = (await backend.observe())["w1"]
        assert observed.alive
        assert observed.exit_reason is None
        assert observed.last_lines == ()
        assert observed.started_at_ms > 1_600_000_000_000

    async def test_starting_twice_starts_one_worker(
        self, backend: Backend, make_spec: MakeSpec, tmp_path: Path
    ) -> None:
        starts = tmp_path / "starts"
        spec = make_spec("w1", f"echo x >> {starts}; {FOREVER}")
        await asyncio.gather(backend.start(spec), backend.start(spec))
        await backend.start(spec)
        await wait_until_async(starts.exists)
        assert list(await backend.observe()) == ["w1"]
        await backend.start(make_spec("w2", f"echo x >> {starts}; {FOREVER}"))
        await wait_until_async(lambda: starts.read_text() == "x\nx\n")

    async def test_a_stopped_worker_is_forgotten(self, backend: Backend, make_spec: MakeSpec) -> None:
        await backend.start(make_spec("w1", FOREVER))
        await backend.stop("w1", 10)
        assert await backend.observe() == {}

    async def test_stopping_what_is_not_there_is_no_error(self, backend: Backend, make_spec: MakeSpec) -> None:
        await backend.stop("w1", 10)
        await backend.start(make_spec("w1", FOREVER))
        await asyncio.gather(backend.stop("w1", 10), backend.stop("w1", 10))
        await backend.stop("w1", 10)

    async def test_a_worker_that_ends_by_itself_stays_with_its_reason(
        self, backend: Backend, make_spec: MakeSpec
    ) -> None:
        await backend.start(make_spec("w1", "echo first; echo no such model; exit 3"))
        observed = await ended(backend, "w1")
        assert observed.exit_reason == "container exited with status 3"
        assert observed.last_lines[:2] == ("first", "no such model")
        await backend.stop("w1", 0)
        assert await backend.observe() == {}

    async def test_a_worker_that_has_ended_can_be_started_again(self, backend: Backend, make_spec: MakeSpec) -> None:
        await backend.start(make_spec("w1", "exit 3"))
        await ended(backend, "w1")
        await backend.start(make_spec("w1", FOREVER))
        assert (await backend.observe())["w1"].alive

    async def test_closing_stops_all_and_may_be_repeated(self, backend: Backend, make_spec: MakeSpec) -> None:
        for worker_id in ("w1", "w2", "w3"):
            await backend.start(make_spec(worker_id, FOREVER))
        await backend.aclose(10)
        assert await backend.observe() == {}
        await backend.aclose(10)

    async def test_a_closed_backend_can_be_used_again(self, backend: Backend, make_spec: MakeSpec) -> None:
        await backend.start(make_spec("w1", FOREVER))
        await backend.aclose(10)
        await backend.start(make_spec("w1", FOREVER))
        assert (await backend.observe())["w1"].alive

    @pytest.mark.parametrize("worker_id", ["", "../w1", "a/b", ".", "w 1", "w" * 64, "w\n"])
    async def test_a_worker_id_that_could_name_another_file_is_refused(
        self, backend: Backend, make_spec: MakeSpec, worker_id: str
    ) -> None:
        with pytest.raises(BackendError, match="worker id"):
            await backend.start(make_spec(worker_id, FOREVER))
        assert await backend.observe() == {}

    def test_secrets_are_not_in_the_text_of_a_spec(self, make_spec: MakeSpec) -> None:
        secret = {"TOKEN": "canary-5e1f"}
        assert "canary-5e1f" not in repr(replace(make_spec("w1", "true"), environment=secret, agent_environment=secret))


async def ended(backend: Backend, worker_id: str, timeout: float = 10) -> Observed:
    async def dead() -> Observed | None:
        observed = (await backend.observe())[worker_id]
        return None if observed.alive else observed

    observed = await wait_until_async(dead, timeout, f"{worker_id} does not end")
    assert observed is not None
    return observed
