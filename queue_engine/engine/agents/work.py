"""The ports of an agent that calls this process, in the name of its token.

The endpoint is always that of the token, so a message can name no task, lease or worker of another endpoint. All that
concerns tasks passes the same scripts, with the same fences, as calls of an agent that uses the store itself.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from queue_engine.domain.agent_tokens import AgentPrincipal
from queue_engine.domain.attempts import Renewal, Settled, StartedAttempt
from queue_engine.domain.endpoints import MAX_WORKERS, DesiredState, Endpoint, ServiceMode
from queue_engine.domain.errors import InvalidRequest, Resource, StateConflict, StoreUnavailable
from queue_engine.domain.tasks import Lease, Outcome
from queue_engine.domain.workers import AgentTimes, Pace, WorkerStatus
from queue_engine.engine.agents.access import check_started_by_hand, check_worker, is_at, is_of_machine
from queue_engine.engine.agents.cancel_watch import PartitionCancelWatch
from queue_engine.engine.agents.claims import EndpointClaims, WaitingEndpoints
from queue_engine.engine.patience import found_in_store, from_store
from queue_engine.net.ports import machine_addresses
from queue_engine.store.cancel_requests import place_of
from queue_engine.store.queue import Entry, Started, TaskQueue
from queue_engine.store.redis.client import unavailability
from queue_engine.store.store import Store
from queue_engine.store.task_source import opened_attempt

log = logging.getLogger(__name__)

MAX_KEPT_ENDPOINTS = 2000
"""Number of endpoints whose agents call this process, from which on idle ones are forgotten."""
MAX_RECORDS = 2 * MAX_WORKERS
"""Maximum number of workers of an endpoint with which an agent that was started by hand may register."""


@dataclass(frozen=True)
class WantedStart:
    """An attempt that an agent starts. `claim` is the text that a claim has returned."""

    claim: str
    token: str
    address: str
    is_ahead: bool


@dataclass(frozen=True)
class Ending:
    """The end of an attempt: its outcome, or None if it is released; `called` belongs to a release."""

    task_id: str
    token: str
    outcome: Outcome | None = field(repr=False)
    called: bool = False


@dataclass(frozen=True)
class WorkerReport:
    """The state of a worker, as its agent reports it. `run` is the number of its start."""

    run: int
    status: WorkerStatus
    running_tasks: int
    address: str
    reason: str
    error: str
    pace: Pace | None = None


class AgentWork:
    """The use cases of agents. Each raises StoreUnavailable, and WorkerForbidden for a worker of another token."""

    def __init__(
        self,
        store: Store,
        times: AgentTimes,
        *,
        local_agents: bool = False,
        machine: Callable[[], Collection[str]] = machine_addresses,
    ) -> None:
        """With `local_agents`, ALB workers that were started by hand may be on this machine, whose addresses are
        `machine`."""
        self._store = store
        self.times = times
        self._local_agents = local_agents
        self._machine = machine
        self._claims: OrderedDict[str, EndpointClaims] = OrderedDict()
        self._waiting_endpoints = WaitingEndpoints()
        self._cancel_watches: dict[int, PartitionCancelWatch] = {}
        self._modes: OrderedDict[str, ServiceMode] = OrderedDict()
        self.is_draining = False
        """True from the call of `drain` on: agents that wait should wait at another process."""

    def drain(self) -> None:
        """End the waits of all agents at once, and claim no further tasks. Safe to call from a signal handler."""
        self.is_draining = True
        for claims in self._claims.values():
            claims.drain()
        for watch in self._cancel_watches.values():
            watch.drain()

    async def aclose(self) -> None:
        """Drain, and wait until all reads have ended and their tasks are put back."""
        self.drain()
        closing = [one.aclose() for one in self._claims.values()]
        await asyncio.gather(*closing, *(one.aclose() for one in self._cancel_watches.values()))

    # Tasks

    async def claim(
        self,
        principal: AgentPrincipal,
        worker_id: str,
        claim_id: str,
        limit: int,
        ended: asyncio.Future[None],
    ) -> Sequence[str]:
        """Return claimed tasks as texts for `start` and `put_back`; wait for the first ones until `ended` is done.

        A call that is repeated with the same id returns the same tasks, if this process still knows them. Raises
        TooManyRequests if agents of too many endpoints of the tenant wait.
        """
        check_worker(principal, worker_id)
        entries = await self._claims_of(principal).claim(worker_id, claim_id, limit, ended)
        return [entry.in_words() for entry in entries]

    def repeated_claim(self, principal: AgentPrincipal, worker_id: str, claim_id: str) -> Sequence[str]:
        """Return the tasks of the worker's latest claim, if it had this id and this process still knows it."""
        check_worker(principal, worker_id)
        entries = self._claims_of(principal).repeated(worker_id, claim_id)
        return [entry.in_words() for entry in entries]

    def abandon(self, principal: AgentPrincipal, worker_id: str, claims: Sequence[str]) -> None:
        """Put back, in the background, claimed tasks that did not reach their agent."""
        queue_claims = self._claims_of(principal)
        queue_claims.abandon(worker_id, _entries_in(queue_claims.queue, claims))

    async def put_back(self, principal: AgentPrincipal, worker_id: str, claims: Sequence[str]) -> None:
        """Return claimed tasks to their queue that were not started. Raises InvalidRequest."""
        check_worker(principal, worker_id)
        queue_claims = self._claims_of(principal)
        await queue_claims.put_back(_entries_in(queue_claims.queue, claims))

    async def start(
        self, principal: AgentPrincipal, worker_id: str, starts: Sequence[WantedStart]
    ) -> list[StartedAttempt | str | None]:
        """Start attempts, and return the results of the first ones: None for a stale claim, text for an error.

        Raises InvalidRequest.
        """
        check_worker(principal, worker_id)
        queue = self._queue_of(principal, worker_id)
        entries = _entries_in(queue, [one.claim for one in starts], [one.token for one in starts])
        wanted = [(entry, one.address, one.is_ahead) for entry, one in zip(entries, starts, strict=True)]
        return await from_store(self._started(queue, wanted))

    async def renew(
        self, principal: AgentPrincipal, worker_id: str, leases: Sequence[tuple[str, str]], *, begun: int
    ) -> Sequence[Renewal]:
        """Renew leases, each a task id and a token. The calls of the first `begun` attempts have begun."""
        check_worker(principal, worker_id)
        held = [Lease(principal.endpoint_id, task_id, token) for task_id, token in leases]
        return await from_store(self._claims_of(principal).queue.renew(held, begun=begun))

    async def hold(
        self, principal: AgentPrincipal, worker_id: str, leases: Sequence[tuple[str, str]]
    ) -> Sequence[bool]:
        """Renew the leases of attempts whose calls have ended. Return True for each that is valid."""
        words = await self.renew(principal, worker_id, leases, begun=len(leases))
        return [word not in (Renewal.FENCED, Renewal.GONE) for word in words]

    async def watch(
        self, principal: AgentPrincipal, worker_id: str, after: str, ended: asyncio.Future[None]
    ) -> tuple[str, Sequence[str]]:
        """Return cancelled tasks of the worker: see `PartitionCancelWatch.watch`. Without a place, from now on."""
        check_worker(principal, worker_id)
        partition = self._store.partitions.of(principal.endpoint_id).partition
        found = self._cancel_watches.get(partition.index)
        if found is None or not after:
            now_ms = await from_store(self._store.now_ms(principal.endpoint_id))
            after = after or place_of(now_ms - 1)
            found = self._cancel_watches.setdefault(
                partition.index, PartitionCancelWatch(self._store.cancel_requests, partition, now_ms)
            )
        if self.is_draining:
            found.drain()
            ended = _done()
        return await found.watch(principal.endpoint_id, worker_id, after, ended)

    async def settle(
        self, principal: AgentPrincipal, worker_id: str, endings: Sequence[Ending]
    ) -> list[Settled | StoreUnavailable | None]:
        """Record the ends of attempts. The result of one is an error, or None for a defect, which is logged."""
        check_worker(principal, worker_id)
        queue = self._claims_of(principal).queue
        results = await from_store(
            asyncio.gather(*(_settle(queue, ending) for ending in endings), return_exceptions=True)
        )
        return [_end_result(one, principal, ending) for one, ending in zip(results, endings, strict=True)]

    # The worker

    async def endpoint(self, principal: AgentPrincipal, worker_id: str, client: str) -> Endpoint:
        """Return the endpoint of the token to an agent that begins, at the address `client`. Raises NotFound."""
        check_worker(principal, worker_id)
        endpoint = await self._endpoint(principal)
        ids = {"endpoint": principal.endpoint_id, "worker": worker_id, "token": principal.token_id}
        log.info("an agent has connected", extra={**ids, "address": client})
        return endpoint

    async def register(self, principal: AgentPrincipal, worker_id: str) -> None:
        """Create the record of a worker whose agent was started by hand. Raises StateConflict at the limit."""
        check_worker(principal, worker_id)
        check_started_by_hand(principal)
        if await from_store(self._store.workers.count(principal.endpoint_id)) >= MAX_RECORDS:
            raise StateConflict(f"worker: the endpoint has {MAX_RECORDS} workers, and takes no further ones")
        await from_store(self._store.workers.put(principal.endpoint_id, worker_id, managed=False))

    async def report(
        self, principal: AgentPrincipal, worker_id: str, report: WorkerReport, client: str | None
    ) -> DesiredState | None:
        """Record the state of the worker, as reported from the address `client`; return that of its endpoint. `client`
        is None if it is not known.

        Return None if the agent must end. Raises InvalidRequest for an address that an ALB worker must not have.
        """
        check_worker(principal, worker_id)
        if await self._mode(principal) is ServiceMode.ALB:
            self._check_address(principal, report.address, client)
        return await from_store(
            self._store.workers.report(
                principal.endpoint_id,
                worker_id,
                report.status,
                running_tasks=report.running_tasks,
                address=report.address,
                reason=report.reason,
                run=report.run if principal.worker_id is not None else 0,
                error=report.error,
                pace=report.pace,
            )
        )

    async def remove(self, principal: AgentPrincipal, worker_id: str) -> None:
        """Remove the record of a worker whose agent was started by hand and has ended."""
        check_worker(principal, worker_id)
        check_started_by_hand(principal)
        await from_store(self._store.workers.remove(principal.endpoint_id, worker_id))

    async def append_log(self, principal: AgentPrincipal, worker_id: str, batch_id: str, lines: Sequence[str]) -> None:
        """Append lines to the log of the worker's container. Without lines, extend the time for which it is kept."""
        check_worker(principal, worker_id)
        retention_ms = int(self.times.log_retention.total_seconds() * 1000)
        await from_store(
            self._store.logs.append(principal.endpoint_id, worker_id, batch_id, lines, retention_ms=retention_ms)
        )

    def _check_address(self, principal: AgentPrincipal, address: str, client: str | None) -> None:
        """Raise InvalidRequest for the address of an ALB worker that is not the agent's own, or not known to be.

        The API sends requests there, so a token would otherwise reach every address that the API reaches. A client on
        this machine may be a reverse proxy, through which an agent from anywhere calls. The backend has chosen the
        networks of the agents that it has started.
        """
        if client is None:
            raise InvalidRequest(
                "address", "cannot be checked behind a proxy that is not in the API's QUEUE_ENGINE_TRUSTED_PROXIES"
            )
        if not is_at(address, client):
            raise InvalidRequest(
                "address", f"must be the address {client}, from which the agent calls: requests are sent to it"
            )
        may_be_here = self._local_agents or principal.worker_id is not None
        if not may_be_here and is_of_machine(client, self._machine()):
            raise InvalidRequest(
                "address",
                "must not be on the API's machine, unless the API's QUEUE_ENGINE_ALB_LOCAL_AGENTS allows it; behind a "
                "proxy on that machine, set QUEUE_ENGINE_TRUSTED_PROXIES",
            )

    def _queue_of(self, principal: AgentPrincipal, worker_id: str) -> TaskQueue:
        return self._store.queue(
            endpoint_id=principal.endpoint_id,
            worker_id=worker_id,
            lease_ms=int(self.times.lease.total_seconds() * 1000),
            is_served=True,
        )

    def _claims_of(self, principal: AgentPrincipal) -> EndpointClaims:
        endpoint_id = principal.endpoint_id
        claims = self._claims.pop(endpoint_id, None)
        if claims is None:
            self._forget_idle()
            queue = self._queue_of(principal, f"api-{secrets.token_hex(8)}")
            claims = EndpointClaims(
                queue, principal.tenant, self._waiting_endpoints, lease_seconds=self.times.lease.total_seconds()
            )
            if self.is_draining:
                claims.drain()
        self._claims[endpoint_id] = claims
        return claims

    def _forget_idle(self) -> None:
        """Forget the endpoint that was used the longest time ago, if there are many and no agent of it waits."""
        if len(self._claims) >= MAX_KEPT_ENDPOINTS:
            oldest, claims = next(iter(self._claims.items()))
            if claims.is_idle:
                del self._claims[oldest]

    async def _started(
        self, queue: TaskQueue, wanted: Sequence[tuple[Entry, str, bool]]
    ) -> list[StartedAttempt | str | None]:
        results: list[StartedAttempt | str | None] = []
        for found, (entry, _, _) in zip(await queue.start_together(wanted), wanted, strict=False):
            if isinstance(found, Started):
                results.append(await opened_attempt(found, queue))
            elif isinstance(found, Exception):
                log.error("an attempt cannot be started", exc_info=found, extra={"task": entry.task_id})
                results.append("the task cannot be started")
            else:
                results.append(None)
        return results

    async def _endpoint(self, principal: AgentPrincipal) -> Endpoint:
        return await found_in_store(
            self._store.endpoints.get(principal.endpoint_id, principal.tenant), Resource.ENDPOINT
        )

    async def _mode(self, principal: AgentPrincipal) -> ServiceMode:
        """Return the endpoint's mode, which never changes."""
        mode = self._modes.get(principal.endpoint_id)
        if mode is None:
            mode = self._modes[principal.endpoint_id] = (await self._endpoint(principal)).config.service_mode
            if len(self._modes) > MAX_KEPT_ENDPOINTS:
                self._modes.popitem(last=False)
        return mode


def _entries_in(queue: TaskQueue, claims: Sequence[str], tokens: Sequence[str] | None = None) -> list[Entry]:
    """Return the entries that claims describe. Raises InvalidRequest."""
    entries = [queue.entry_in(claim, token) for claim, token in zip(claims, tokens or [""] * len(claims), strict=True)]
    found = [entry for entry in entries if entry is not None]
    if len(found) < len(claims):
        raise InvalidRequest("claim", "must be a text that a claim has returned")
    return found


async def _settle(queue: TaskQueue, ending: Ending) -> Settled:
    lease = Lease(queue.endpoint_id, ending.task_id, ending.token)
    if ending.outcome is None:
        return Settled(await queue.release(lease, called=ending.called))
    return await queue.settle(lease, ending.outcome)


def _end_result(
    result: Settled | BaseException, principal: AgentPrincipal, ending: Ending
) -> Settled | StoreUnavailable | None:
    if isinstance(result, Settled | StoreUnavailable):
        return result
    if not isinstance(result, Exception):
        raise result
    if (reason := unavailability(result)) is not None:
        return StoreUnavailable(reason)
    ids = {"endpoint": principal.endpoint_id, "task": ending.task_id}
    log.error("the end of an attempt cannot be recorded", exc_info=result, extra=ids)
    return None


def _done() -> asyncio.Future[None]:
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    done.set_result(None)
    return done
