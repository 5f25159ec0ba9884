"""Format 2: endpoints are found by indexes, of their tenant and of the work of their partition.

In format 1 every list and every round of the controller reads all endpoints. Processes of format 1 do not write the
indexes. The leading controller adds their changes during the migration, and later those of agents of format 1: it goes
through all endpoints for as long as it runs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from queue_engine.store.calls import Scripts
from queue_engine.store.endpoint_index import EndpointIndex
from queue_engine.store.migrations.migration import Migration, Page, Records
from queue_engine.store.script_runner import ScriptRunner


async def index_endpoints(records: Records, after: str) -> AsyncIterator[Page]:
    """Put all endpoints into the indexes that lack them."""
    index = EndpointIndex(records.redis, Scripts(ScriptRunner(records.redis).submit), records.partitions)
    cursor = after
    while (page := await index.page(cursor)) is not None:
        cursor = page.cursor
        yield Page(cursor, len(page.ids), await index.restore(page.ids))


STEP = Migration(2, "endpoints are found by indexes", index_endpoints)
