"""`/v2/series` and `/v2/serverless/{id}/series`: figures over time, for charts."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from starlette.requests import Request

from queue_engine.api.http.envelope import Success, View
from queue_engine.api.http.operations import Operation, in_query
from queue_engine.api.http.queries import Query
from queue_engine.api.http.responses import Response, success
from queue_engine.api.http.services import Services
from queue_engine.api.v2.endpoints import ENDPOINT_ID
from queue_engine.api.v2.times import epoch_ms
from queue_engine.domain.errors import InvalidRequest
from queue_engine.domain.principals import Right
from queue_engine.domain.series import MAX_TIMED, RINGS, Metric, Series

_KEPT = ", ".join(f"{ring.step_seconds} s for {ring.span_seconds // 3600} h" for ring in RINGS)


class SeriesView(View):
    """Figures in equal intervals, the oldest first. null is a gap: no controller has sampled then, or the figure is
    not known.
    """

    from_: int = Field(alias="from", description="Begin of the first interval")
    to: int = Field(description="End of the last interval")
    step_seconds: int = Field(description=f"Length of an interval. Kept are intervals of {_KEPT}")
    metrics: dict[Metric, list[float | None]] = Field(
        description="The figures by name. `queued`, `running`, `scheduled`: tasks; `undelivered`: results whose "
        "delivery has not ended; `workers`: those that run; `slots`: tasks that they can run at once; all of these are "
        "means. `oldest`: the largest age of a queued task, in milliseconds. `submitted`, `succeeded`, `failed`, "
        "`delivered`: tasks counted since the sample before; `covered`: the time in which they were counted, in "
        "seconds, which is longer after a gap. `waitP50`, `waitP95`, `runP50`, `runP95`: for how long tasks waited, "
        f"and their latest attempts ran, in milliseconds, from at most {MAX_TIMED} ended tasks of an endpoint in each "
        "30 seconds"
    )
    as_of: int = Field(description="Time of the response")


class SeriesRoutes:
    """Read figures over time."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._series = services.engine.series

    def operations(self) -> list[Operation]:
        time: dict[str, Any] = {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "format": "date-time"}]}
        query = [
            in_query(
                "metric", "Names of figures, repeated or separated by commas; by default all",
                {"type": "array", "items": {"type": "string", "enum": list(Metric)}},
            ),
            in_query("from", "Begin of the period; by default an hour before its end", time),
            in_query("to", "End of the period; by default now", time),
        ]  # fmt: skip
        return [
            Operation(
                "GET", "/v2/serverless/{id}/series", self.get_series, right=Right.VIEW,
                summary="Read figures of an endpoint over time", tag="endpoints", response=Success[SeriesView],
                parameters=[ENDPOINT_ID, *query], failures=(400, 401, 404, 429, 503),
            ),
            Operation(
                "GET", "/v2/series", self.get_series_of_all, right=Right.VIEW,
                summary="Read figures of all endpoints over time", tag="endpoints", response=Success[SeriesView],
                parameters=query, failures=(400, 401, 429, 503),
            ),
        ]  # fmt: skip

    async def get_series(self, request: Request) -> Response:
        """The leading controller samples each endpoint every 30 seconds while it has tasks, and for 48 hours after its
        latest task. Then its samples are dropped. The step is the shortest one that is kept for the whole period.
        """
        principal = await self._services.admit(request)
        endpoint = await self._services.endpoint(request, principal)
        metrics, from_ms, to_ms = _asked(Query(request))
        return success(
            _view(await self._series.of_endpoint(principal, endpoint, metrics, from_ms=from_ms, to_ms=to_ms))
        )

    async def get_series_of_all(self, request: Request) -> Response:
        """The sums of the tenant's endpoints; of those in its list for a key that is limited to some. `oldest` is the
        largest one. An interval in which a part of the store was away is a gap.
        """
        principal = await self._services.admit(request)
        metrics, from_ms, to_ms = _asked(Query(request))
        return success(_view(await self._series.of_all(principal, metrics, from_ms=from_ms, to_ms=to_ms)))


def _asked(query: Query) -> tuple[list[Metric], int | None, int | None]:
    """Return the metrics and the period of a request."""
    chosen = query.choices("metric", Metric)
    from_ms, to_ms = _time(query, "from"), _time(query, "to")
    if from_ms is not None and to_ms is not None and from_ms >= to_ms:
        raise InvalidRequest("from", "must be before to")
    return [one for one in Metric if not chosen or one in chosen], from_ms, to_ms


def _time(query: Query, name: str) -> int | None:
    text = query.one(name)
    return None if text is None else epoch_ms(name, text)


def _view(found: Series) -> dict[str, Any]:
    return {
        "from": found.from_ms,
        "to": found.to_ms,
        "stepSeconds": found.step_seconds,
        "metrics": {name.value: [_plain(one) for one in values] for name, values in found.values.items()},
        "asOf": found.as_of_ms,
    }


def _plain(value: float | None) -> float | None:
    """Return a value with three decimals at most, and a whole number without any."""
    if value is None:
        return None
    rounded = round(value, 3)
    return int(rounded) if rounded == int(rounded) else rounded
