"""Destinations with which something is wrong, as delivery processes have noted them, and orders to end a pause."""

from __future__ import annotations

from queue_engine.domain.audit import Action, destination_target
from queue_engine.domain.destinations import DestinationNote, Standing, merged
from queue_engine.domain.principals import Principal, Right
from queue_engine.engine.access import check_may
from queue_engine.engine.audit import Audit
from queue_engine.engine.patience import from_store
from queue_engine.store.standings import StandingStore


class DestinationNotes:
    """The destinations of each tenant. Every method raises StoreUnavailable."""

    def __init__(self, standings: StandingStore, audit: Audit) -> None:
        self._standings = standings
        self._audit = audit

    async def all(self, principal: Principal) -> list[DestinationNote]:
        """Return the tenant's destinations with which something is wrong, the worst first."""
        return merged(await from_store(self._standings.of_tenant(principal.tenant)))

    async def get(self, principal: Principal, destination: str) -> DestinationNote:
        """Return the standing of a destination. It is good if no delivery process has noted anything else."""
        found = (one for one in await self.all(principal) if one.destination == destination)
        return next(found, DestinationNote(destination, Standing.GOOD))

    async def resume(self, principal: Principal, destination: str) -> int:
        """End the pause of a destination within a few seconds. Return the number of processes that get the order.

        The next attempt is a probe. A repeated order has no further effect. Raises Forbidden for a key that is limited
        to some endpoints, because a destination belongs to no endpoint.
        """
        check_may(principal, Right.VIEW_TENANT)
        target, call = destination_target(destination), self._standings.resume(principal.tenant, destination)
        asked = await self._audit.change(principal, Action.RESUME_DESTINATION, target, call)
        if asked:
            await self._audit.note(principal, Action.RESUME_DESTINATION, target)
        return asked
