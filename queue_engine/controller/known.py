"""The leading controller's memory of the endpoints with workers, as of its last look at each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from queue_engine.controller.plan import Start
from queue_engine.domain.ids import is_endpoint_id
from queue_engine.domain.workers import endpoint_of_worker

WAITING_LOOKS_PER_SECOND = 200
"""Maximum number of endpoints of a tenant that are looked at in a second because they wait for a start. Thousands of
them would make the endpoints of other tenants wait for their look."""


OVERDUE_SECONDS = 90.0
"""Time since the last look at an endpoint with workers after which the store must have lost the time of the next one.
Otherwise two looks are at most a minute apart."""


class Known:
    """Workers, starts in progress and waiting starts by endpoint."""

    def __init__(self) -> None:
        self._workers: dict[str, set[str]] = {}
        self._endpoints_of: Counter[str] = Counter()
        """Number of endpoints that have a worker with this id."""
        self._looked_at: dict[str, float] = {}
        """Monotonic time of the last look by endpoint with workers."""
        self._starts: dict[str, set[Start]] = {}
        self._waiting: dict[str, str] = {}
        """Tenant by endpoint with workers that wait for a start."""
        self._waiting_of: Counter[str] = Counter()

    def has(self, worker_id: str) -> bool:
        """Return True if a managed worker is known.

        An id that names its endpoint counts in that endpoint only, because agents started by hand choose ids.
        """
        endpoint_id = endpoint_of_worker(worker_id)
        if is_endpoint_id(endpoint_id):
            return worker_id in self._workers.get(endpoint_id, ())
        return self._endpoints_of[worker_id] > 0

    def starts(self) -> list[Start]:
        """Return all starts in progress."""
        return [start for starts in self._starts.values() for start in starts]

    def overdue(self, now: float) -> set[str]:
        """Return the endpoints with workers that have not been looked at for OVERDUE_SECONDS."""
        return {endpoint_id for endpoint_id, at in self._looked_at.items() if now - at > OVERDUE_SECONDS}

    def replace(self, endpoint_id: str, worker_ids: Collection[str], starts: Sequence[Start], now: float) -> set[str]:
        """Remember these workers and starts of an endpoint in place of the former ones. Return the former workers."""
        self._looked_at.pop(endpoint_id, None)
        if worker_ids:
            self._looked_at[endpoint_id] = now
        self._starts.pop(endpoint_id, None)
        tenant = self._waiting.pop(endpoint_id, None)
        if tenant is not None:
            self._waiting_of[tenant] -= 1
        former = self._workers.pop(endpoint_id, set())
        for worker_id in former:
            self._endpoints_of[worker_id] -= 1
            if not self._endpoints_of[worker_id]:
                del self._endpoints_of[worker_id]
        gone = former - set(worker_ids)
        for worker_id in worker_ids:
            self.add(endpoint_id, worker_id)
        for start in starts:
            self.note_start(start)
        return gone

    def add(self, endpoint_id: str, worker_id: str) -> None:
        """Remember a worker that was created."""
        of_endpoint = self._workers.setdefault(endpoint_id, set())
        if worker_id not in of_endpoint:
            of_endpoint.add(worker_id)
            self._endpoints_of[worker_id] += 1

    def note_start(self, start: Start) -> None:
        """Remember a start that has begun."""
        self._starts.setdefault(start.endpoint_id, set()).add(start)

    def note_waiting(self, start: Start) -> None:
        """Remember that the endpoint has a start that is due and has no place."""
        if start.endpoint_id not in self._waiting:
            self._waiting[start.endpoint_id] = start.tenant
            self._waiting_of[start.tenant] += 1

    def wait_for_start(self, endpoint_id: str) -> float:
        """Return the seconds after which an endpoint is looked at to start its waiting workers; 0 if none waits.

        They grow with the waiting endpoints of its tenant.
        """
        tenant = self._waiting.get(endpoint_id)
        return 0.0 if tenant is None else self._waiting_of[tenant] / WAITING_LOOKS_PER_SECOND
