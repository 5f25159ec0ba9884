"""Follow the output of all containers whose platform keeps it, in the leading controller."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from queue_engine.aio import Backoff, end_tasks, wait_for_event
from queue_engine.backends.base import Backend, BackendError, Observed, Phase
from queue_engine.backends.container_logs import LOG_END_SECONDS, ContainerLogs
from queue_engine.config.engine import ControllerSettings
from queue_engine.controller.log_follower import EndpointGone, Followed, LogFollower, LogMoved, Logs, WorkerLog
from queue_engine.domain.endpoints import Endpoint
from queue_engine.domain.workers import endpoint_of_worker
from queue_engine.logs.masking import Secrets
from queue_engine.observability import metrics, outages
from queue_engine.store.redis.client import unavailability

log = logging.getLogger(__name__)

MAX_FOLLOWED = 500
"""Maximum number of containers that are followed at once. Each has a connection to its platform and up to 200 KB of
output in memory."""
RETRY = Backoff(0.5, 30.0)
SETTLED_SECONDS = 60.0
"""Time without a failure after which the next failure counts as the first."""
NOT_FOLLOWED = (
    f"[queue-engine: the output is not followed, because {MAX_FOLLOWED} other containers are; it stays in the platform]"
)
_BEFORE_START = (Phase.WAITING, Phase.STARTING)
"""Phases in which a container may exist that was not started. Its output cannot be followed yet."""


class Endpoints(Protocol):
    """The part of the endpoint store that the masking of logs uses."""

    async def read(self, endpoint_ids: Sequence[str]) -> Mapping[str, Endpoint]: ...
    async def environment(self, endpoint_id: str) -> dict[str, str]: ...


SecretsOf = Callable[[Followed], Awaitable[Secrets]]


@dataclass(eq=False)
class _Following:
    """A follower and the task that runs it."""

    followed: Followed
    task: asyncio.Task[None] = field(init=False)
    hurry: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the next try must not wait."""
    defects: int = 0
    """Number of failures that are neither of the store nor of the backend."""
    ends_by: float | None = None
    """Monotonic time until which `end_of` waits, from the first sight of the worker's end. So workers that end together
    do not make a round of the controller late one after the other."""


class LogFollowers:
    """Follows containers until `aclose`. A follower that fails is retried with backoff and does not disturb others.

    `source` calls `finish` before it removes a container, also after `aclose`.
    """

    def __init__(
        self,
        source: ContainerLogs,
        logs: Logs,
        secrets_of: SecretsOf,
        *,
        retention_seconds: float,
        limit: int = MAX_FOLLOWED,
        end_seconds: float = LOG_END_SECONDS,
        retry: Backoff = RETRY,
    ) -> None:
        self._source = source
        self._logs = logs
        self._secrets_of = secrets_of
        self._retention_seconds = retention_seconds
        self._limit = limit
        self._end_seconds = end_seconds
        self._retry = retry
        self._following: dict[Followed, _Following] = {}
        self._over_limit: dict[Followed, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._outages = outages.Outages("the output of containers")
        source.before_removal = self.finish
        metrics.log_followers.set_function(self._running)

    def look(self, observed: Mapping[str, Observed]) -> None:
        """Follow the containers of these workers, as far as the containers exist and were started, and no others."""
        self.follow(
            {
                Followed(endpoint_of_worker(worker_id), worker_id, seen.run): seen.alive
                for worker_id, seen in observed.items()
                if seen.container_id is not None and seen.phase not in _BEFORE_START
            }
        )

    def follow(self, containers: Mapping[Followed, bool]) -> None:
        """Follow these containers, and no others. The values say which of them still run."""
        for gone in self._following.keys() - containers.keys():
            self._end(self._following.pop(gone).task)
        for gone in self._over_limit.keys() - containers.keys():
            self._end(self._over_limit.pop(gone))
        free = self._limit - self._running()
        for followed in containers.keys() - self._following.keys():
            if free > 0:
                self._begin(followed)
                free -= 1
            elif followed not in self._over_limit:
                self._over_limit[followed] = asyncio.create_task(self._note_limit(followed))
        ends_by = time.monotonic() + self._end_seconds
        for followed, runs in containers.items():
            one = self._following.get(followed)
            if one is not None and not runs and one.ends_by is None:
                one.ends_by = ends_by

    async def finish(self, worker_id: str, run: int) -> None:
        """Read the output of a container that has ended to its end, for a limited time. Never raises."""
        followed = Followed(endpoint_of_worker(worker_id), worker_id, run)
        if not await self._reaches_end(followed, time.monotonic() + self._end_seconds):
            log.warning("the end of a worker's output was not read in time", extra=_ids(followed))

    async def end_of(self, worker_id: str, run: int, reason: str) -> tuple[str, ...]:
        """Return the last lines of a run that ended unexpectedly, and write the reason after them into its log.

        The reason is not written if the container has not ended, because only its agent has. Never raises; the lines
        are empty if they cannot be read in time.
        """
        followed = Followed(endpoint_of_worker(worker_id), worker_id, run)
        known = self._following.get(followed)
        ends_by = None if known is None else known.ends_by
        has_ended = await self._reaches_end(followed, ends_by or time.monotonic() + self._end_seconds)
        worker_log = self._log(followed)
        try:
            async with asyncio.timeout(self._end_seconds):
                lines = await worker_log.last_lines()
                if has_ended:
                    await worker_log.complete(reason)
                return lines
        except (TimeoutError, EndpointGone, LogMoved):
            return ()
        except Exception:
            log.warning("the last lines of a worker cannot be read", exc_info=True, extra=_ids(followed))
            return ()

    async def aclose(self) -> None:
        """Stop following, and leave the rest to the next leader. Safe to call twice."""
        tasks = [one.task for one in self._following.values()]
        self._following.clear()
        await end_tasks(*tasks, *self._over_limit.values(), *self._ending)
        self._over_limit.clear()

    async def _reaches_end(self, followed: Followed, by: float) -> bool:
        """Wait until the output has been read to its end; return False if it has not been by this monotonic time."""
        known = self._following.get(followed)
        one = known or self._started(followed)
        one.hurry.set()
        try:
            done, _ = await asyncio.wait({one.task}, timeout=max(0.0, by - time.monotonic()))
            return bool(done) and not one.task.cancelled()
        finally:
            if known is None:
                await end_tasks(one.task)

    def _running(self) -> int:
        return sum(not one.task.done() for one in list(self._following.values()))  # also called from another thread

    def _begin(self, followed: Followed) -> None:
        noting = self._over_limit.pop(followed, None)
        if noting is not None:
            self._end(noting)
        self._following[followed] = self._started(followed)

    def _end(self, task: asyncio.Task[None]) -> None:
        task.cancel()
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _started(self, followed: Followed) -> _Following:
        one = _Following(followed)
        one.task = asyncio.create_task(self._follow(one), name=f"log-{followed.worker_id}")
        return one

    def _log(self, followed: Followed) -> WorkerLog:
        return WorkerLog(self._logs, followed, retention_seconds=self._retention_seconds)

    async def _follow(self, one: _Following) -> None:
        """Follow until the output has ended."""
        followed = one.followed

        async def masked() -> Secrets:
            outages.STORE.succeeded(one)  # it has returned the log's last batch
            return await self._secrets_of(followed)

        follower = LogFollower(
            self._source,
            followed,
            self._log(followed),
            masked,
            note_output=lambda: self._outages.succeeded(one),
        )
        failures = 0
        try:
            while True:
                began = time.monotonic()
                try:
                    if await follower.follow():
                        return
                    continue
                except EndpointGone:
                    return
                except Exception as error:  # noqa: BLE001 - noted below, some of them without a traceback
                    failures = 1 if time.monotonic() - began > SETTLED_SECONDS else failures + 1
                    self._note_failure(one, error)
                await wait_for_event(one.hurry, self._retry.delay_after(failures, luck=random.random()))
                one.hurry.clear()
        finally:
            outages.STORE.left(one)
            self._outages.left(one)

    def _note_failure(self, one: _Following, error: Exception) -> None:
        """Log a failure: that of the store or the backend together with those of other followers, once an outage."""
        if isinstance(error, LogMoved):
            return
        if (reason := unavailability(error)) is not None:
            metrics.log_follower_failures.labels("store").inc()
            outages.STORE.failed(one, "logs", reason)
        elif isinstance(error, BackendError):
            metrics.log_follower_failures.labels("backend").inc()
            self._outages.failed(one, "follow", str(error))
        else:
            metrics.log_follower_failures.labels("other").inc()
            one.defects += 1
            if one.defects in (1, 10) or one.defects % 100 == 0:
                extra = {**_ids(one.followed), "failures": one.defects}
                log.warning("the output of a worker cannot be followed", exc_info=error, extra=extra)

    async def _note_limit(self, followed: Followed) -> None:
        """Write into the log of a container that it is not followed. It is not tried again if that fails."""
        try:
            await self._log(followed).note(NOT_FOLLOWED)
        except (EndpointGone, LogMoved):
            return
        except Exception:
            log.warning("a log cannot be written", exc_info=True, extra=_ids(followed))


def followers(settings: ControllerSettings, backend: Backend, logs: Logs, endpoints: Endpoints) -> LogFollowers | None:
    """Return the followers of the backend's containers; None if its agents ship logs, or the setting disables it."""
    if not settings.logs_follow or not isinstance(backend, ContainerLogs):
        return None
    secrets_of = secrets_reader(backend, endpoints)
    return LogFollowers(backend, logs, secrets_of, retention_seconds=settings.log_retention_seconds)


def secrets_reader(source: ContainerLogs, endpoints: Endpoints) -> SecretsOf:
    """Return a function that reads the values which the log of a container must not show."""

    async def read(followed: Followed) -> Secrets:
        given = await source.environment(followed.worker_id, followed.run)
        current = await endpoints.environment(followed.endpoint_id)
        endpoint = (await endpoints.read([followed.endpoint_id])).get(followed.endpoint_id)
        plain = frozenset[str]() if endpoint is None else endpoint.config.plain_variables
        return Secrets(masked_values(given, current, plain))

    return read


def masked_values(
    given: Mapping[str, str], current: Mapping[str, str], plain_variables: Collection[str]
) -> frozenset[str]:
    """Return the values that a container's log must not show.

    `given` are the endpoint's variables with which the container was created, and `current` those of the endpoint now.
    A value is plain only if it is that of a plain variable now, because its variable may have been secret before.
    """
    plain = {name: value for name, value in current.items() if name in plain_variables}
    secret = {value for name, value in current.items() if name not in plain}
    return frozenset(secret | {value for name, value in given.items() if plain.get(name) != value})


def _ids(followed: Followed) -> dict[str, str]:
    return {"endpoint": followed.endpoint_id, "worker": followed.worker_id}
