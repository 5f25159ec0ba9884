"""Send a request to one of the workers of its endpoint, within the limits of its tenant."""

from __future__ import annotations

import logging
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import TYPE_CHECKING

from queue_engine.api.http.errors import ResponseCutOff, WorkerUnavailable
from queue_engine.api.http.slots import TenantSlots
from queue_engine.api.proxy.access import Limits
from queue_engine.api.proxy.handshake import SWITCHING_PROTOCOLS
from queue_engine.api.proxy.websocket import Visit
from queue_engine.api.proxy.workers import MAX_REMEMBERED, Balancer
from queue_engine.domain.endpoints import DesiredState
from queue_engine.domain.principals import Principal
from queue_engine.engine.key_watch import KeyWatch
from queue_engine.engine.upstreams import Listing, Upstream

if TYPE_CHECKING:
    from queue_engine.api.proxy.exchange import AddressRefused, Exchange, Outgoing, WorkerClient

log = logging.getLogger(__name__)


class Forwarding:
    """Sends each request to the least busy worker that accepts it, and its response to the client."""

    def __init__(self, limits: Limits, slots: TenantSlots, websocket_slots: TenantSlots, key_watch: KeyWatch) -> None:
        self._limits = limits
        self._slots = slots
        self._websocket_slots = websocket_slots
        self._key_watch = key_watch
        self._balancer = Balancer()
        self._refused: set[tuple[str, str]] = set()

    async def run(
        self,
        principal: Principal,
        listing: Listing,
        client: WorkerClient,
        outgoing: Outgoing,
        exchange: Exchange,
        visit: Visit | None,
    ) -> None:
        """Return when the response, or the WebSocket of `visit`, has ended.

        Raises TooManyRequests at a limit of the tenant, WorkerUnavailable, ResponseCutOff and ClientGone.
        """
        try:
            with ExitStack() as taken:
                taken.enter_context(self._slots.taken(principal.tenant))
                if visit is not None:
                    taken.enter_context(self._websocket_slots.taken(principal.tenant))
                    visit = replace(visit, key_ended=taken.enter_context(self._key_watch.watched(principal)))
                async with exchange:
                    await self._send_to_one(client, listing, outgoing, exchange, visit)
        except (WorkerUnavailable, ResponseCutOff) as error:
            _log(error, listing, outgoing)
            raise

    async def _send_to_one(
        self, client: WorkerClient, listing: Listing, outgoing: Outgoing, exchange: Exchange, visit: Visit | None
    ) -> None:
        """Try the workers in turn until one accepts the request. Raises WorkerUnavailable when none does."""
        from queue_engine.api.proxy.exchange import AddressRefused, NotConnected

        for upstream in self._balancer.candidates(listing):
            with self._balancer.using(upstream):
                try:
                    response = await client.send(upstream, outgoing, exchange.body())
                except AddressRefused as error:
                    self._note_refused(upstream, error)
                    continue
                except NotConnected as error:
                    log.warning("a worker cannot be reached: %s", error, extra={"worker": upstream.worker_id})
                    self._balancer.leave_out(upstream)
                    continue
                with closing(response):
                    if visit is None or response.status != SWITCHING_PROTOCOLS:
                        await exchange.relay(response, outgoing.request_id)
                    else:
                        await visit.run(response, exchange, outgoing.request_id, self._limits)
                return
        raise WorkerUnavailable(_why_none(listing, self._refused))

    def _note_refused(self, upstream: Upstream, error: AddressRefused) -> None:
        """Log a refused address once. The client gets the same response as without this worker."""
        self._balancer.leave_out(upstream)
        place = (upstream.worker_id, upstream.origin)
        if place in self._refused:
            return
        if len(self._refused) >= MAX_REMEMBERED:
            self._refused.clear()
        self._refused.add(place)
        log.warning("a worker's address is refused: %s", error, extra={"worker": upstream.worker_id})


def _log(error: WorkerUnavailable | ResponseCutOff, listing: Listing, outgoing: Outgoing) -> None:
    """Log a failed request, unless the endpoint has no worker: the endpoint's status says that."""
    if listing.upstreams:
        ids = {"endpoint": listing.endpoint.endpoint_id, "request": outgoing.request_id}
        log.warning("a request failed: %s", error, extra={**ids, "cause": repr(error.__cause__)})


def _why_none(listing: Listing, refused: AbstractSet[tuple[str, str]]) -> str:
    if listing.endpoint.desired is not DesiredState.RUNNING:
        return "the endpoint is stopped"
    reachable = any((one.worker_id, one.origin) not in refused for one in listing.upstreams)
    return "no worker can be reached" if reachable else "no worker runs"
