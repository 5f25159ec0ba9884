"""Runs the migrations of the data in limited steps, while all processes keep working.

The leading controller calls `step` repeatedly. The state of a migration is in the hash `{qe}:meta`, so that a new
leader continues where the previous leader ended:

- Due: the migration waits until two consecutive checks have found no process of an older version.
- Begun: the field `migration` has the progress, and processes of the older version, except agents, refuse to start.
  Each step migrates one page, then stores the cursor. A page whose cursor was not stored is migrated again.
- When a round has changed records, another round follows. It finds records that an undetected process, such as a paused
  one, has written behind the cursor.
- Complete: after a round without changes, the field `format` is raised.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, fields, replace

from redis.asyncio import Redis

from queue_engine.observability import metrics
from queue_engine.store.keys import FORMAT, META, MIGRATION
from queue_engine.store.migrations.migration import Migration, Page, Records
from queue_engine.store.processes import Processes

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 10.0
"""Time between two lines of progress in the log."""


@dataclass(frozen=True)
class Progress:
    """Progress of a migration, as recorded in the store."""

    to: int
    cursor: str = ""
    round: int = 1
    seen: int = 0
    changed: int = 0
    """`seen` and `changed` are numbers of records in this round."""

    def after(self, page: Page) -> Progress:
        return replace(self, cursor=page.cursor, seen=self.seen + page.seen, changed=self.changed + page.changed)

    def text(self) -> str:
        return json.dumps(asdict(self))


class Migrator:
    """Converts the data to the format of the last migration. Two concurrent migrators are safe but duplicate work."""

    def __init__(self, redis: Redis, records: Records, processes: Processes, migrations: Sequence[Migration]) -> None:
        self._redis = redis
        self._records = records
        self._processes = processes
        self._migrations = {migration.number: migration for migration in migrations}
        self._newest = max(self._migrations, default=1)
        self._older: list[str] | None = None
        """Older processes that the previous check found; None before the first check."""
        self._pages: AsyncIterator[Page] | None = None
        self._expected = Progress(0)
        """The progress from which `_pages` continues."""
        self._told_at = 0.0

    async def step(self) -> int:
        """Migrate one page, or check if a migration is due. Return 0 when the next step can wait. Raises RedisError."""
        found, noted = await self._redis.hmget(META, [FORMAT, MIGRATION])  # type: ignore[misc]
        number = int(found or self._newest)
        metrics.data_format.set({"store": number, "newest": self._newest})
        migration = self._migrations.get(number + 1)
        if migration is None:
            return 0
        progress = progress_from(noted)
        if progress is None or progress.to != migration.number:
            return int(await self._begin(migration))
        return await self._go_on(migration, progress)

    async def aclose(self) -> None:
        """Stop the current round, which another migrator can continue, and stop exporting the metrics."""
        self._pages = None
        metrics.data_format.set({})

    async def _begin(self, migration: Migration) -> bool:
        """Begin the migration after two consecutive checks without an older process. Return True if it has begun."""
        before, self._older = self._older, await self._processes.older()
        if self._older and self._older != before:
            log.warning(
                "the migration waits for processes of the version before to end",
                extra={"to": migration.number, "processes": self._older},
            )
        if self._older or before != []:
            return False
        await self._note(Progress(migration.number))
        self._older = await self._processes.older()
        if self._older:  # an older process started between the check and the note
            await self._redis.hdel(META, MIGRATION)  # type: ignore[misc]
            return False
        log.info("migration begins", extra={"to": migration.number, "title": migration.title})
        return True

    async def _go_on(self, migration: Migration, progress: Progress) -> int:
        if self._pages is None or progress != self._expected:
            self._pages = migration.pages(self._records, progress.cursor)
        pages, self._pages = self._pages, None  # an iterator that has raised cannot continue
        began = time.monotonic()
        page = await anext(pages, None)
        if page is None:
            return await self._end_round(migration, progress)
        self._pages, self._expected = pages, progress.after(page)
        await self._note(self._expected)
        self._tell(self._expected)
        metrics.records_migrated.inc(page.changed)
        await asyncio.sleep(time.monotonic() - began)  # so that the store is busy with it half of the time at most
        return 1

    async def _end_round(self, migration: Migration, progress: Progress) -> int:
        facts = asdict(replace(progress, cursor=""))
        if progress.changed:
            log.info("a round of the migration is over, and another one follows", extra=facts)
            await self._note(Progress(progress.to, round=progress.round + 1))
            return 0
        await self._redis.hset(META, mapping={FORMAT: migration.number, MIGRATION: ""})  # type: ignore[misc]
        log.info("migration is complete: the data has a new format", extra=facts)
        return 1

    async def _note(self, progress: Progress) -> None:
        await self._redis.hset(META, MIGRATION, progress.text())  # type: ignore[misc]

    def _tell(self, progress: Progress) -> None:
        if time.monotonic() - self._told_at >= PROGRESS_SECONDS:
            self._told_at = time.monotonic()
            log.info("migration goes on", extra=asdict(progress))


def progress_from(noted: bytes | None) -> Progress | None:
    """Return the progress that the store has recorded; None when no migration has begun.

    Fields that a newer version has added are ignored.
    """
    if not noted:
        return None
    known = {field.name for field in fields(Progress)}
    return Progress(**{name: value for name, value in json.loads(noted).items() if name in known})
