"""The delivery process: read due deliveries from the outbox, send each in its turn, and record the outcome."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import Counter

from queue_engine.aio import Backoff, end_tasks, retry_while_unavailable, run_forever, wait_for_event
from queue_engine.crypto.signing import signature_headers
from queue_engine.delivery.breaker import BreakerLimits
from queue_engine.delivery.lanes import Deferred, Kind, LaneLimits, Trouble, Turn
from queue_engine.delivery.networks import Networks
from queue_engine.delivery.responses import ERROR_TYPES
from queue_engine.delivery.sender import OutgoingRequest
from queue_engine.delivery.shares import ShareLimits, Shares
from queue_engine.domain.deliveries import (
    Delivered,
    Delivery,
    GivenUp,
    Verdict,
    WebhookResponse,
    as_recorded,
    verdict_on,
)
from queue_engine.domain.destinations import DestinationNote, Standing
from queue_engine.domain.retry import Schedule
from queue_engine.net.error_types import INTERNAL
from queue_engine.observability import metrics
from queue_engine.observability.logs import log_soon
from queue_engine.rules.webhook_urls import InvalidWebhook, parse_webhook
from queue_engine.store.keys import ids_of_delivery
from queue_engine.store.outbox.entries import OutboxEntry
from queue_engine.store.outbox.outbox import Outbox
from queue_engine.store.redis.client import unavailability
from queue_engine.store.standings import MAX_NOTED, TenantNote

log = logging.getLogger(__name__)

MAX_READ = 32
"""Maximum number of entries read from one partition at once."""
MAX_READ_AHEAD = 256
"""The same while a partition has more than MAX_READ, so that a new entry is soon found behind many of another tenant.
Reading them all from 16 partitions takes about 20 ms."""
MAX_TAKEN = 256
"""Maximum number of entries taken from a shelf at once."""
MAX_SET_ASIDE = 10_000
"""Number of deliveries that wait to be put onto shelves or to be deferred above which nothing is read."""
PARKED_AT_ONCE = 64
"""Number of deliveries that are deferred at the same time, so that other calls of the store do not wait behind them."""
BLOCK_MS = 2000
PROMOTE_SECONDS = 0.25
"""Minimum time between two looks for due deliveries, so that many of them share one."""
GAUGES_SECONDS = 5.0
STANDINGS_SECONDS = 5.0
"""Time between two notes of the destinations with which something is wrong, and between two looks for orders."""
PARKING = Backoff(2.0, 300.0)
HOLDING_STATUSES = (429, 503)
"""Statuses whose `Retry-After` holds for the destination, and not for the one delivery only."""
BROKEN_SECONDS = 30.0
"""Pause of a delivery after an internal error, so that it is neither lost nor retried in a tight loop."""


class Sends(Protocol):
    """Makes a single HTTP attempt."""

    async def send(self, request: OutgoingRequest) -> WebhookResponse: ...


class Standings(Protocol):
    """Keeps the notes of delivery processes."""

    async def write(self, process: str, notes: Sequence[TenantNote]) -> list[tuple[str, str]]: ...


class Tester(Protocol):
    """Sends tests of webhooks."""

    async def step(self) -> int: ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True)
class DeliveryConfig:
    """Times in seconds."""

    schedule: Schedule
    slots: int
    lease_seconds: float
    """Time without a sign of life after which a delivery process is treated as dead."""
    attempt_seconds: float
    """Maximum duration of an attempt, which a drain waits for."""


class DeliveryService:
    """Runs until `drain`. If it dies, another process takes over the deliveries that it has read and not settled.

    Deliveries are sent at least once: if a response could not be recorded, the delivery is sent again, with the same
    `webhook-id`.
    """

    def __init__(
        self,
        config: DeliveryConfig,
        outbox: Outbox,
        sender: Sends,
        *,
        seen_addresses: Callable[[str], Sequence[str]] = lambda _: (),
        standings: Standings | None = None,
        tester: Tester | None = None,
    ) -> None:
        """`standings` gets the notes of this process; without it, none are written. `tester` sends tests of webhooks.

        `seen_addresses` returns the addresses of a host name as the latest lookup has found them.
        """
        self._config = config
        self._outbox = outbox
        self._sender = sender
        self._standings = standings
        self._tester = tester
        self._has_noted = False
        limits = ShareLimits(slots=config.slots, lanes=LaneLimits(breaker=BreakerLimits(parking=PARKING)))
        self._shares: Shares[OutboxEntry] = Shares(limits, network_of=Networks(seen_addresses).of)
        self._read_limit = MAX_READ
        self._to_park: deque[Deferred[OutboxEntry]] = deque()
        self._to_shelve: deque[OutboxEntry] = deque()
        self._parking = asyncio.Event()
        self._shelving = asyncio.Event()
        self._set_aside = asyncio.Event()
        self._refill = asyncio.Event()
        self._wake = asyncio.Event()
        self._draining = asyncio.Event()
        self._attempts: set[asyncio.Task[None]] = set()

    def drain(self) -> None:
        """Start no further attempt, and end. Safe to call from a signal handler and more than once."""
        self._draining.set()

    async def run(self) -> None:
        """Work until drained. Then attempts in flight finish and are recorded, and the rest returns to the outbox."""
        tick_seconds = self._config.lease_seconds / 4
        await retry_while_unavailable(self._adopt, passing=unavailability, what="the outbox")
        background = [
            _loop(self._adopt, "adopt", tick_seconds),
            _loop(self._gauges, "gauges", GAUGES_SECONDS),
            _loop(self.note_standings, "standings", STANDINGS_SECONDS),
        ]
        feeding = [
            _loop(self._read, "read"),
            _loop(self._promote, "promote", PROMOTE_SECONDS),
            _loop(self._dispatch, "dispatch"),
            _loop(self._park, "park"),
            _loop(self._shelve, "shelve"),
            _loop(self._take, "take"),
            *([_loop(self._tester.step, "webhook tests")] if self._tester is not None else []),
        ]
        try:
            await self._draining.wait()
            await end_tasks(*feeding)
            await self._finish()
        finally:
            await end_tasks(*feeding, *background, *self._attempts)
            if self._tester is not None:
                await self._tester.aclose()

    # Feeding the lanes

    async def _read(self) -> int:
        """Read a batch, even if many deliveries wait here: those for which there is no room are put onto shelves."""
        while len(self._to_shelve) + len(self._to_park) > MAX_SET_ASIDE:
            self._set_aside.clear()
            await self._set_aside.wait()
        entries = await self._outbox.read(self._read_limit, block_ms=BLOCK_MS)
        self._read_limit = MAX_READ if len(entries) < self._read_limit else MAX_READ_AHEAD
        self._add(entries)
        return len(entries)

    async def _promote(self) -> int:
        """Wait until a delivery is due again, and move those that are due. Return 0 to let further ones gather."""
        await self._outbox.wait_until_due()
        return int(await self._outbox.promote_due())

    async def _take(self) -> int:
        """Take deliveries from a shelf whose tenant has room here, or wait for a change."""
        self._refill.clear()
        now = time.monotonic()
        shelves = self._outbox.shelves
        place = shelves.next(now, self._shares.has_room)
        if place is not None:
            shelf, after = place
            self._add(await self._outbox.take(shelf, after, MAX_TAKEN))
            return 1
        ready_at = shelves.ready_at
        resting = ready_at is not None and ready_at > now
        await wait_for_event(self._refill, ready_at - now if resting and ready_at is not None else None)
        return 1

    async def _adopt(self) -> int:
        """Report that this process lives, and take over the deliveries of dead ones. Return 0, to wait for the tick."""
        lease_ms = int(self._config.lease_seconds * 1000)
        adopted = await self._outbox.adopt(tick_ms=lease_ms // 4, lease_ms=lease_ms)
        if adopted:
            log.warning("deliveries of a dead process are taken over", extra={"count": len(adopted)})
        self._add(adopted)
        self._refill.set()
        return 0

    def _add(self, entries: list[OutboxEntry]) -> None:
        for entry in entries:
            self._shares.add(entry.tenant, entry.destination, entry)
        if entries:
            self._wake.set()

    # Sending

    async def _dispatch(self) -> int:
        """Start all attempts that may start now, hand over the deliveries that should wait, then wait for a change."""
        self._wake.clear()
        while (turn := self._shares.next(time.monotonic())) is not None:
            attempt = asyncio.create_task(self._attempt(turn))
            self._attempts.add(attempt)
            attempt.add_done_callback(self._attempts.discard)
        for one in self._shares.take_deferred(time.monotonic()):
            if one.parked:
                self._to_park.append(one)
                self._parking.set()
            else:
                self._to_shelve.append(one.item)
                self._shelving.set()
        await self._wait_for_change()
        return 1

    async def _park(self) -> int:
        """Defer some deliveries of parked destinations until the next probe."""
        if not self._to_park:
            self._parking.clear()
            await self._parking.wait()
        parked = [self._to_park.popleft() for _ in range(min(PARKED_AT_ONCE, len(self._to_park)))]
        try:
            await asyncio.gather(*(self._defer(one.item, one.delay_seconds, parked=True) for one in parked))
        except BaseException:
            self._to_park.extend(parked)  # deferring one twice changes nothing
            raise
        self._set_aside.set()
        return 1

    async def _shelve(self) -> int:
        """Put deliveries for which there is no room onto shelves."""
        if not self._to_shelve:
            self._shelving.clear()
            await self._shelving.wait()
        entries = list(self._to_shelve)
        self._to_shelve.clear()
        try:
            await self._outbox.shelve(entries)
        except BaseException:
            self._to_shelve.extendleft(reversed(entries))
            raise
        self._set_aside.set()
        self._refill.set()
        return 1

    async def _wait_for_change(self) -> None:
        changes_at = self._shares.changes_at()
        timeout = None if changes_at is None else max(0.01, changes_at - time.monotonic())
        await wait_for_event(self._wake, timeout)

    async def _attempt(self, turn: Turn[OutboxEntry]) -> None:
        response = NOTHING_SENT
        try:
            response = await self._deliver(turn.item)
        except Exception:
            log.exception("a delivery attempt failed with an internal error", extra=_ids(turn.item))
            await self._defer(turn.item, BROKEN_SECONDS)
        finally:
            hold_seconds = (response.retry_after_seconds or 0.0) if response.status in HOLDING_STATUSES else 0.0
            self._shares.finished(turn, time.monotonic(), response.error_type, hold_seconds=hold_seconds)
            self._wake.set()
            if self._outbox.shelves.tenants:
                self._refill.set()

    async def _deliver(self, entry: OutboxEntry) -> WebhookResponse:
        """Open, send and settle a delivery. Return the response as it was recorded, NOTHING_SENT without an attempt."""
        sent_at_ms = int(time.time() * 1000)
        delivery = await retry_while_unavailable(lambda: self._outbox.open(entry), passing=unavailability, what="open")
        if delivery is None:
            return NOTHING_SENT
        if delivery.unreadable is not None:
            response = WebhookResponse(None, INTERNAL, delivery.unreadable)
        else:
            response = await self._sender.send(_request(delivery, sent_at_ms // 1000, entry.tenant))
        return await self._settle(entry, delivery, response, sent_at_ms)

    async def _settle(
        self, entry: OutboxEntry, delivery: Delivery, response: WebhookResponse, sent_at_ms: int
    ) -> WebhookResponse:
        attempt = delivery.attempts + 1
        recorded = response
        if response.error_type is not None:
            recorded = as_recorded(response, named=_is_named(delivery.url))
        verdict = verdict_on(recorded, self._config.schedule, attempt=attempt, luck=random.random())
        settlement = await retry_while_unavailable(
            lambda: self._outbox.settle(entry, recorded, verdict, at_ms=sent_at_ms),
            passing=unavailability,
            what="settle",
        )
        _count(response, verdict, settlement.latency_seconds if settlement.accepted else None)
        level = logging.INFO if response.error_type is None else logging.WARNING
        if log.isEnabledFor(level):
            facts = {
                "attempt": attempt,
                "status": response.status,
                "fault": response.error_type,
                "verdict": type(verdict).__name__,
                "seconds": round(response.duration_seconds, 4),
                "recorded": settlement.accepted,
            }
            log_soon(log, level, "delivery attempt", {**_ids(entry), **facts})
        return recorded

    # The end

    async def _finish(self) -> None:
        entries = [*self._shares.drain(), *self._to_shelve, *(one.item for one in self._to_park)]
        await retry_while_unavailable(lambda: self._outbox.shelve(entries), passing=unavailability, what="shelve")
        if self._attempts:
            await asyncio.wait(set(self._attempts), timeout=self._config.attempt_seconds + 5)

    async def _defer(self, entry: OutboxEntry, delay_seconds: float, *, parked: bool = False) -> None:
        delay_ms = int(delay_seconds * 1000)
        deferred = await retry_while_unavailable(
            lambda: self._outbox.defer(entry, delay_ms=delay_ms, parked=parked), passing=unavailability, what="defer"
        )
        if not deferred:
            log.warning("a delivery is given up: it has waited too long for its receiver", extra=_ids(entry))
            _given_up.inc()

    # Troubled destinations

    async def note_standings(self) -> int:
        """Note the destinations with which something is wrong, and carry out orders. Return 0, to wait for a while."""
        if self._standings is None:
            return 0
        troubles = self._shares.troubles(MAX_NOTED)
        if not troubles and not self._has_noted:
            return 0
        now = time.monotonic()
        # True before the call, because the note may be written although the reply is lost.
        self._has_noted = True
        orders = await self._standings.write(self._outbox.process_id, [_note_of(one, now) for one in troubles])
        self._has_noted = bool(troubles)
        for tenant, destination in orders:
            await self._outbox.hasten(self._shares.resume(tenant, destination, now))
            self._wake.set()
        return 0

    async def _gauges(self) -> int:
        metrics.deliveries_pending.set(await self._outbox.pending())
        return 0


# Made here, because `labels` costs more than counting. And because they exist with 0 from the beginning: an alert on an
# increase misses the first failure of a counter that did not exist.
_attempts_by_error_type: dict[str | None, Counter] = {
    None: metrics.delivery_attempts.labels("success", "none"),
    **{name: metrics.delivery_attempts.labels("failure", name) for name in ERROR_TYPES},
}
_delivered = metrics.deliveries.labels(status="success")
_given_up = metrics.deliveries.labels(status="max_retries_exceeded")


NOTHING_SENT = WebhookResponse(None, INTERNAL)
"""Stands for the response when no attempt was made. It says nothing about the destination."""


def _note_of(trouble: Trouble, now: float) -> TenantNote:
    note = DestinationNote(
        trouble.destination,
        Standing.PARKED if trouble.kind is Kind.PARKED else Standing.DEGRADED,
        since_ms=_from_now_ms(trouble.since, now),
        waiting=trouble.waiting,
        in_flight=trouble.in_flight,
        errors=trouble.errors,
        next_attempt_at_ms=_from_now_ms(trouble.next_probe_at, now),
        error_type=trouble.error_type,
        failed_at_ms=_from_now_ms(trouble.failed_at, now),
    )
    return TenantNote(trouble.tenant, note)


def _from_now_ms(at: float | None, now: float) -> int | None:
    return None if at is None else int((at - now) * 1000)


def _loop(step: Callable[[], Awaitable[int]], name: str, idle_seconds: float = 0) -> asyncio.Task[None]:
    return asyncio.create_task(run_forever(step, idle_seconds=idle_seconds, name=name, passing=unavailability))


def _is_named(url: str) -> bool:
    """Return True if the host of a webhook is a name, not an address."""
    try:
        return parse_webhook(url).literal is None
    except InvalidWebhook:
        return False


def _ids(entry: OutboxEntry) -> dict[str, str]:
    return {"delivery": entry.delivery_id, "destination": entry.destination, **ids_of_delivery(entry.delivery_id)}


def _request(delivery: Delivery, timestamp_seconds: int, tenant: str) -> OutgoingRequest:
    headers = {"Content-Type": "application/json"}
    if delivery.auth_key is not None:
        headers["X-API-Key"] = delivery.auth_key
    headers |= signature_headers(delivery.signing_secrets, delivery.message_id, timestamp_seconds, delivery.body)
    return OutgoingRequest(delivery.url, headers, delivery.body, tenant)


def _count(response: WebhookResponse, verdict: Verdict, latency_seconds: float | None) -> None:
    _attempts_by_error_type[response.error_type].inc()
    metrics.delivery_attempt_duration.observe(response.duration_seconds)
    if latency_seconds is None:
        return
    if isinstance(verdict, Delivered):
        _delivered.inc()
        metrics.delivery_latency.observe(latency_seconds)
    elif isinstance(verdict, GivenUp):
        _given_up.inc()
