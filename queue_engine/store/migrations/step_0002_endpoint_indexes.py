"""Format 2: endpoints are found by indexes, of their tenant and of the work of their partition.

In format 1 every list and every round of the controller reads all endpoints. Processes of format 1 do not write the
indexes. The leading controller adds their changes during the migration, and later those of agents of format 1: it goes
through all endpoints for as long as it runs.

A controller of format 1 that deletes an endpoint removes the counts of its workers, which a process of format 2 may
have added to those of the partition. So a round ends with the correction of the partitions' counts.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from queue_engine.store.calls import Scripts
from queue_engine.store.endpoint_index import EndpointIndex
from queue_engine.store.keys import Partition
from queue_engine.store.migrations.migration import Migration, Page, Records
from queue_engine.store.script_runner import ScriptRunner

TRIES = 5
"""Number of attempts to correct the counts of a partition whose endpoints change at the same time."""


async def index_endpoints(records: Records, after: str) -> AsyncIterator[Page]:
    """Put all endpoints into the indexes that lack them, and then correct the counts of each partition."""
    scripts = Scripts(ScriptRunner(records.redis).submit)
    index = EndpointIndex(records.redis, scripts, records.partitions)
    cursor = after
    while (page := await index.page(cursor)) is not None:
        cursor = page.cursor
        yield Page(cursor, len(page.ids), await index.restore(page.ids))
    for partition in records.partitions.all():
        yield Page(cursor, 0, await _sum_workers(records, scripts, partition))


async def _sum_workers(records: Records, scripts: Scripts, partition: Partition) -> int:
    """Correct the counts of a partition's workers. Return the number of changed counts, 1 if it has to be repeated."""
    for _ in range(TRIES):
        ids = await records.redis.zrange(partition.endpoints, 0, -1)
        counts = [records.partitions.of(endpoint_id.decode()).counts for endpoint_id in ids]
        reply = await scripts.sum_workers(partition, endpoint_counts=counts)
        if reply.word == "OK":
            return reply.changed
    return 1


STEP = Migration(2, "endpoints are found by indexes", index_endpoints)
