"""A made-up migration to a made-up next data format, in which each task has the field `mark`."""

from collections.abc import AsyncIterator

from queue_engine.domain.data_formats import FIRST_FORMAT
from queue_engine.store.migrations import MIGRATIONS
from queue_engine.store.migrations.migration import Migration, Page, Records

FIELD = "mark"
TO = max((step.number for step in MIGRATIONS), default=FIRST_FORMAT) + 1

_MARK = """
local changed = 0
for _, task in ipairs(KEYS) do
  if redis.call('EXISTS', task) == 1 then changed = changed + redis.call('HSETNX', task, ARGV[1], '1') end
end
return changed
"""


async def mark_tasks(records: Records, after: str) -> AsyncIterator[Page]:
    async for tasks in records.tasks(after):
        keys = [tasks.keys.task(task_id) for task_id in tasks.task_ids]
        yield Page(tasks.cursor, len(keys), await records.run(_MARK, keys, [FIELD]))


STEP = Migration(TO, "each task has a mark", mark_tasks)
