"""Runs the migrations of the data, in bounded steps while everything works.

The leading controller calls `step` again and again. A migration goes through these states, all of them in the hash
`{qe}:meta`, so that another leader takes it up where the one before was killed:

- It is due, and waits until no process of an older version has been seen in two looks.
- It has begun: `migration` says so, and processes of the older version do not start any longer, agents excepted. Each
  step does one page, then notes the cursor. A page whose cursor was not noted is done once more.
- After a round in which something had to be changed comes another one. It finds what a process that was not seen, such
  as one that was paused, wrote behind the cursor.
- After a round in which nothing had to be changed, `format` is raised, and the migration is complete.
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
    """How far a migration is, as it is noted in the store."""

    to: int
    cursor: str = ""
    round: int = 1
    seen: int = 0
    changed: int = 0
    """Records of this round."""

    def after(self, page: Page) -> Progress:
        return replace(self, cursor=page.cursor, seen=self.seen + page.seen, changed=self.changed + page.changed)

    def text(self) -> str:
        return json.dumps(asdict(self))


class Migrator:
    """Brings the data to the format of the last of `migrations`. Two that run at once do the same work twice."""

    def __init__(self, redis: Redis, records: Records, processes: Processes, migrations: Sequence[Migration]) -> None:
        self._redis = redis
        self._records = records
        self._processes = processes
        self._migrations = {migration.number: migration for migration in migrations}
        self._newest = max(self._migrations, default=1)
        self._older: list[str] | None = None
        """Older processes that were seen in the look before."""
        self._pages: AsyncIterator[Page] | None = None
        self._expected = Progress(0)
        """The progress behind which `_pages` goes on."""
        self._told_at = 0.0

    async def step(self) -> int:
        """Do one page, or look whether there is something to do; 0 when the next step can wait. Raises RedisError."""
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
        """End a round under way; another migrator takes it up. Its figures are no longer exported."""
        self._pages = None
        metrics.data_format.set({})

    async def _begin(self, migration: Migration) -> bool:
        """Begin the migration if no older process has been seen twice."""
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
        if self._older:  # it started at this moment
            await self._redis.hdel(META, MIGRATION)  # type: ignore[misc]
            return False
        log.info("migration begins", extra={"to": migration.number, "title": migration.title})
        return True

    async def _go_on(self, migration: Migration, progress: Progress) -> int:
        if self._pages is None or progress != self._expected:
            self._pages = migration.pages(self._records, progress.cursor)
        pages, self._pages = self._pages, None  # one that has failed is not gone on with
        began = time.monotonic()
        page = await anext(pages, None)
        if page is None:
            return await self._end_round(migration, progress)
        self._pages, self._expected = pages, progress.after(page)
        await self._note(self._expected)
        self._tell(self._expected)
        metrics.records_migrated.inc(page.changed)
        await asyncio.sleep(time.monotonic() - began)  # at most half of the time the store works for this
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
    """Return the progress that is noted in the store; None when no migration has begun.

    A newer version may have noted more than this one knows.
    """
    if not noted:
        return None
    known = {field.name for field in fields(Progress)}
    return Progress(**{name: value for name, value in json.loads(noted).items() if name in known})
