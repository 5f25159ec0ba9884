"""Secret key rotation: reseal every stored secret with the current key while all processes keep running."""

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
"""Maximum number of tasks read by one command."""
MAX_ROUNDS = 5
NAMES_KEPT = 20


@dataclass
class Progress:
    """Progress of a rotation. `resealed` counts all rounds; `checked` and `unreadable` count the latest round only."""

    round: int = 0
    checked: dict[str, int] = field(default_factory=dict)
    """Records by kind: credentials, endpoints, tasks."""
    resealed: dict[str, int] = field(default_factory=dict)
    unreadable: int = 0
    unreadable_names: list[str] = field(default_factory=list)
    """Names of the first NAMES_KEPT unreadable records."""

    @property
    def total_resealed(self) -> int:
        return sum(self.resealed.values())


@dataclass(frozen=True)
class Rotated:
    """Result of a rotation."""

    progress: Progress
    complete: bool
    """True when the last round found no secret sealed with another known key, so the store's key is the current one."""


class Rotation:
    """Reseal all secrets of a store. Safe to run at any time, to interrupt and to repeat."""

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
        """Reseal all records until a round has nothing left to do, then record the current key as the store's key.

        Other processes keep running. A secret that one of them seals with an older key during a round is resealed in
        the next round. If MAX_ROUNDS rounds are not enough, a process still seals with an older key, and the store's
        key is not changed. Raises SecretKeyMissing without a current key.
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
        """Check every record once. Return the number of records that were resealed."""
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
        """Yield the ids of all tasks of the endpoint, oldest first, including tasks added during the iteration."""
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
