"""Changing the secret key: every stored secret is sealed anew with the current key, while everything runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field

from redis.asyncio import Redis

from queue_engine.crypto.sealing import Sealer, SecretKeyMissing
from queue_engine.store import keys
from queue_engine.store.credentials import CredentialStore
from queue_engine.store.endpoints import EndpointStore
from queue_engine.store.keys import Partitions
from queue_engine.store.resealing import Resealed
from queue_engine.store.tasks import TaskStore

CHUNK = 200
"""Tasks that are read at once."""
MAX_ROUNDS = 5
NAMES_KEPT = 20


@dataclass
class Progress:
    """What was done so far, over all rounds but `checked`, which is that of the latest."""

    round: int = 0
    checked: dict[str, int] = field(default_factory=dict)
    """Records by kind: credentials, endpoints, tasks."""
    resealed: dict[str, int] = field(default_factory=dict)
    unreadable: int = 0
    unreadable_names: list[str] = field(default_factory=list)
    """The first of them."""

    @property
    def total_resealed(self) -> int:
        return sum(self.resealed.values())


@dataclass(frozen=True)
class Rotated:
    """How a rotation ended."""

    progress: Progress
    complete: bool
    """The last round found nothing that another known key had sealed, and the store's key is the current one now."""


class Rotation:
    """Seals all secrets of a store anew. Safe to run at any time, to break off and to repeat."""

    def __init__(
        self,
        redis: Redis,
        partitions: Partitions,
        sealer: Sealer,
        credentials: CredentialStore,
        endpoints: EndpointStore,
        tasks: TaskStore,
    ) -> None:
        self._redis = redis
        self._partitions = partitions
        self._sealer = sealer
        self._credentials = credentials
        self._endpoints = endpoints
        self._tasks = tasks

    async def run(self, on_progress: Callable[[Progress], None] = lambda _: None) -> Rotated:
        """Go over all records until a round finds nothing left to do, then note the current key as the store's.

        Other processes go on meanwhile: what one of them seals with an older key while a round is under way is found
        by the next. After MAX_ROUNDS some process still seals with an older key; then nothing is noted. Raises
        SecretKeyMissing without a current key.
        """
        if not self._sealer.has_key:
            raise SecretKeyMissing
        progress = Progress()
        for number in range(1, MAX_ROUNDS + 1):
            progress.round = number
            if not await self._round(progress, on_progress):
                await self._redis.hset(keys.META, keys.FINGERPRINT, self._sealer.fingerprint)  # type: ignore[misc]
                await self._redis.hdel(keys.META, keys.NEXT_FINGERPRINT)  # type: ignore[misc]
                return Rotated(progress, complete=True)
        return Rotated(progress, complete=False)

    async def _round(self, progress: Progress, on_progress: Callable[[Progress], None]) -> int:
        """One look at every record; returns how many were sealed anew."""
        before = progress.total_resealed
        progress.checked = dict.fromkeys(("credentials", "endpoints", "tasks"), 0)
        progress.unreadable, progress.unreadable_names = 0, []
        async for kind, names, results in self._records():
            _add(progress, kind, names, results)
            on_progress(progress)
        return progress.total_resealed - before

    async def _records(self) -> AsyncIterator[tuple[str, Sequence[str], Sequence[Resealed]]]:
        for credential_id in range(1, await self._credentials.last_id() + 1):
            result = await self._credentials.reseal(credential_id)
            if result is not None:
                yield "credentials", [f"credential {credential_id}"], [result]
        for endpoint_id in await self._endpoints.ids():
            yield "endpoints", [f"endpoint {endpoint_id}"], [await self._endpoints.reseal(endpoint_id)]
            async for task_ids in self._task_ids(endpoint_id):
                results = await self._tasks.reseal(endpoint_id, task_ids)
                yield "tasks", [f"task {task_id} of endpoint {endpoint_id}" for task_id in task_ids], results

    async def _task_ids(self, endpoint_id: str) -> AsyncIterator[list[str]]:
        """The ids of all tasks of the endpoint, oldest first, those that are added meanwhile too."""
        stream, after = self._partitions.of(endpoint_id).created, "-"
        while entries := await self._redis.xrange(stream, after, count=CHUNK):
            yield [fields[b"t"].decode() for _, fields in entries]
            after = "(" + entries[-1][0].decode()


def _add(progress: Progress, kind: str, names: Iterable[str], results: Sequence[Resealed]) -> None:
    progress.checked[kind] += len(results)
    progress.resealed[kind] = progress.resealed.get(kind, 0) + results.count(Resealed.RESEALED)
    unreadable = [name for name, result in zip(names, results, strict=True) if result is Resealed.UNREADABLE]
    progress.unreadable += len(unreadable)
    progress.unreadable_names += unreadable[: NAMES_KEPT - len(progress.unreadable_names)]
