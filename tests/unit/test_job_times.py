"""The times at which a controller looks at the queue of the background jobs, and queues them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from queue_engine.controller.jobs import DUE_MICROSECOND, LOOK_SECONDS, Periodic, _worker, seconds_to_next_look


@pytest.mark.parametrize(
    ("now", "wait"), [(100.0, 0.13), (100.12, 0.01), (100.131, 0.999), (100.2, 0.93), (100.999, 0.131)]
)
def test_a_worker_looks_at_its_queue_once_a_second(now: float, wait: float) -> None:
    assert seconds_to_next_look(now) == pytest.approx(wait, abs=1e-6)


def test_a_worker_looks_at_its_queue_just_after_jobs_are_due() -> None:
    assert 0 < LOOK_SECONDS - DUE_MICROSECOND / 1e6 < 0.01


async def no_work() -> None:
    """Do nothing."""


@pytest.mark.parametrize("every_seconds", [1, 10])
@pytest.mark.parametrize("jump_seconds", [90, -90], ids=["pause", "step back of the clock"])
async def test_a_jump_of_the_clock_delays_no_later_run(
    every_seconds: int, jump_seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = _worker("redis://127.0.0.1:1", "queue", [Periodic("sweep", no_work, every_seconds)])
    times: list[datetime] = []

    async def note(_: str, *, _job_id: str, **__: Any) -> None:
        times.append(datetime.fromtimestamp(int(_job_id.rpartition(":")[2]) / 1000, UTC))

    monkeypatch.setattr(worker.pool, "enqueue_job", note)
    now = datetime(2026, 1, 1, 0, 5, 0, 130_000, UTC)
    for look in range(60):
        now += timedelta(seconds=jump_seconds if look == 30 else 1)
        await worker.run_cron(now, 0.5)
        if look == 30:
            times.clear()
    before, after = now - timedelta(seconds=every_seconds), now + timedelta(seconds=1)
    assert before <= times[-1] <= after
    assert len(times) >= 29 // every_seconds
