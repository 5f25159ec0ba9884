"""The engine of a made-up next version, as a process: `python -m tests.upgrade.next_version controller`.

Its data format is one newer than this version's, and its migration is that of `made_up`. Each page waits for an item in
the list GATE, so that a test can kill a leader during the migration.
"""

from collections.abc import AsyncIterator

from queue_engine.cli.main import main
from queue_engine.domain.tasks import NewTask
from queue_engine.store import migrations
from queue_engine.store.keys import PROCESSES
from queue_engine.store.migrations.migration import Migration, Page, Records
from queue_engine.store.tasks import Enqueued, LaneCheck, Submission, TaskStore
from tests.upgrade.made_up import FIELD, STEP, TO, mark_tasks

GATE = f"{PROCESSES}:gate"
PAGE = 10


async def gated(records: Records, after: str) -> AsyncIterator[Page]:
    small = Records(records.redis, records.partitions, records.endpoint_ids, page_size=PAGE)
    async for page in mark_tasks(small, after):
        while await records.redis.blpop([GATE], timeout=1) is None:  # type: ignore[misc]
            continue
        yield page


async def _enqueue(self: TaskStore, task: NewTask, check: LaneCheck | None = None) -> Enqueued:
    """Accept a task as the next version does, with the field `mark`."""
    enqueued = await _enqueue_before(self, task, check)
    if enqueued.result is Submission.ACCEPTED:
        keys = self._partitions.of(task.endpoint_id)
        await self._redis.hset(keys.task(task.task_id), FIELD, "1")  # type: ignore[misc]
    return enqueued


if __name__ == "__main__":
    migrations.MIGRATIONS = (*migrations.MIGRATIONS, Migration(TO, STEP.title, gated))
    _enqueue_before = TaskStore.enqueue
    TaskStore.enqueue = _enqueue  # type: ignore[method-assign]
    main()
