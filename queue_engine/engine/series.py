"""Read the series of figures of endpoints and tenants."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace

from queue_engine.domain.endpoints import Endpoint
from queue_engine.domain.principals import Principal, Right
from queue_engine.domain.series import Metric, Period, Record, Series, period_of, series_of, together
from queue_engine.engine.access import check_may, check_sees
from queue_engine.engine.patience import from_store
from queue_engine.store.endpoints import EndpointStore
from queue_engine.store.series import SeriesStore


class FigureSeries:
    """The series of what a principal sees. Every method raises StoreUnavailable.

    `from_ms` and `to_ms` are the period: by default the latest hour.
    """

    def __init__(self, series: SeriesStore, endpoints: EndpointStore, now_ms: Callable[[], Awaitable[int]]) -> None:
        self._series = series
        self._endpoints = endpoints
        self._now_ms = now_ms

    async def of_endpoint(
        self,
        principal: Principal,
        endpoint: Endpoint,
        metrics: Collection[Metric],
        *,
        from_ms: int | None,
        to_ms: int | None,
    ) -> Series:
        """Return the series of an endpoint. Raises NotFound."""
        check_sees(principal, endpoint)
        now_ms = await from_store(self._now_ms())
        period = period_of(from_ms, to_ms, now_ms)
        (records,) = await from_store(self._series.of_endpoints([endpoint.endpoint_id], period.ring))
        return series_of(records, period, metrics, now_ms)

    async def of_all(
        self, principal: Principal, metrics: Collection[Metric], *, from_ms: int | None, to_ms: int | None
    ) -> Series:
        """Return the series of all endpoints of the tenant; of those in its list for a key that is limited to some.

        For such a key, times of tasks are those of the endpoint with the largest ones. Raises Forbidden.
        """
        check_may(principal, Right.VIEW)
        now_ms = await from_store(self._now_ms())
        period = period_of(from_ms, to_ms, now_ms)
        if principal.endpoints is None:
            records = await from_store(self._series.of_tenant(principal.tenant, period.ring))
        else:
            records = await from_store(self._sums(principal, period))
        return series_of(records, period, metrics, now_ms)

    async def _sums(self, principal: Principal, period: Period) -> list[Record]:
        """Return the sums of the endpoints in the key's list."""
        found = await self._endpoints.read(sorted(principal.endpoints or ()))
        own = [one.endpoint_id for one in found.values() if one.tenant == principal.tenant]
        by_begin: dict[int, list[Record]] = {}
        for records in await self._series.of_endpoints(own, period.ring) if own else []:
            for record in records:
                if record.at in period.places:
                    by_begin.setdefault(record.at, []).append(record)
        return [_sum(records, at) for at, records in by_begin.items()]


def _sum(records: list[Record], at: int) -> Record:
    largest = {
        name: max(getattr(one, name) for one in records)
        for name in ("timed", "wait_p50", "wait_p95", "run_p50", "run_p95")
    }
    return replace(together(records, at), **largest)
