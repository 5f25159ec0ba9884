"""`/v2/events`: a stream of the states of endpoints, tasks, logs and operations."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
from starlette.requests import Request

from queue_engine.api.http.headers import named
from queue_engine.api.http.line_streams import LineStream
from queue_engine.api.http.operations import Operation, in_query
from queue_engine.api.http.queries import Query
from queue_engine.api.http.responses import Headers
from queue_engine.api.http.services import CONSOLE, RequestKey, Services
from queue_engine.api.v2.delivery_views import ledger_view
from queue_engine.api.v2.endpoint_views import endpoint_detail_view, endpoint_view, worker_view
from queue_engine.api.v2.log_views import endpoint_log_page_view, log_cursor, log_page_view
from queue_engine.api.v2.task_operations import operation_view
from queue_engine.api.v2.task_views import attempts_view, task_counts_view, task_detail_view
from queue_engine.domain.catalogue import Catalogue
from queue_engine.domain.endpoints import Endpoint
from queue_engine.domain.errors import Forbidden, InvalidRequest, StoreUnavailable, Unauthorized
from queue_engine.domain.ids import is_endpoint_id, is_task_id, is_worker_id
from queue_engine.domain.logs import EndpointLogPage, EndpointPlace, LogPage, LogQuery, Place
from queue_engine.domain.principals import Principal, Right
from queue_engine.domain.task_operations import is_operation_id
from queue_engine.domain.tasks import DeliveryStatus, Payload, Task
from queue_engine.engine.access import check_has_access, check_may
from queue_engine.engine.engine import Engine
from queue_engine.engine.principals import REVOCATION_SECONDS
from queue_engine.engine.topics import Follower, Rounds, Source, State, TaskRounds, Wanted

TAG = "events"
EVENT_STREAM = b"text/event-stream"
MAX_TOPICS = 16
"""Limit of the topics of a stream."""
QUIET_SECONDS = 15.0
"""Time without an event after which a comment is sent, because proxies close connections without data."""
OVERVIEW_SECONDS = 2.0
ROUND_SECONDS = 1.0
LOG_LINES = 500
"""Limit of the lines in an event of a log."""
STOPS = "the server is shutting down"
_NOT_KEPT: Headers = ((b"x-accel-buffering", b"no"),)
"""nginx passes on what it gets."""
_RULE = (
    "must be one or more of overview, endpoint:ID, task:ID:TASK, log:ID:WORKER, logs:ID, bulk:ID:OPERATION, separated "
    "by commas"
)
_TOPIC = (
    "(?:overview|(?:endpoint|logs):[0-9]+|task:[0-9]+:[A-Za-z0-9_]+|log:[0-9]+:[A-Za-z0-9_-]+|"
    "bulk:[0-9]+:[A-Za-z0-9_]+)"
)
_COMMENT = b":\n\n"


@dataclass(frozen=True)
class Topic:
    """A topic as a client has named it."""

    name: str
    kind: str
    endpoint_id: str = ""
    part: str = ""
    """Id of a task, a worker or an operation."""


class EventRoutes:
    """Follow topics."""

    def __init__(self, services: Services, catalogue: Catalogue) -> None:
        self._services = services
        self._engine = services.engine
        self._topics = services.engine.topics
        self._catalogue = catalogue

    def operations(self) -> list[Operation]:
        topics = {"type": "string", "pattern": f"^{_TOPIC}(?:,{_TOPIC})*$"}
        return [
            Operation(
                "GET", "/v2/events", self.follow_events, right=Right.VIEW_TASK,
                summary="Follow the states of endpoints, tasks, logs and operations", tag=TAG,
                media_type=EVENT_STREAM.decode(), waits=True, failures=(400, 404),
                parameters=[
                    in_query("topics", f"Topics to follow, at most {MAX_TOPICS}: {_RULE}", topics, required=True)
                ],
            ),
        ]  # fmt: skip

    async def follow_events(self, request: Request) -> LineStream:
        """The response is `text/event-stream`. Its first event is `hello`, with the store's time. Each topic then sends
        its state, and again when it has changed, at most twice a second. An event has the name of its topic's kind, and
        `data` with `topic` and `data`; null if the object does not exist. The stream can be repeated at any time,
        because an event is a state and not a change.

        `overview` has the endpoints of the tenant, `endpoint` an endpoint with its counts and workers, `task` a task
        without input and output, with its attempts and deliveries, and `bulk` an operation. `log` has the lines that
        are added: those after the place `after`, up to the place `next`; a client that is at another place reads the
        lines in between from the log. `logs` is the same for all workers of an endpoint, with cursors as places. The
        last event is `bye`, with the reason. A comment is sent in quiet times.
        """
        principal = await self._services.admit(request)
        topics = topics_in(Query(request).one("topics"))
        wanted = self._wanted(request, principal, topics)
        hello = _event("hello", {"time": await self._engine.now_ms(), "topics": [one.name for one in topics]})
        with ExitStack() as stack:
            following = self._topics.following(principal.tenant, _holder(request, principal), wanted)
            follower = stack.enter_context(following)
            lines = partial(self._lines, request, follower, hello)
            return LineStream.to(request, EVENT_STREAM, lines, headers=_NOT_KEPT, at_end=stack.pop_all().close)

    async def _lines(self, request: Request, follower: Follower, hello: bytes) -> AsyncGenerator[bytes, None]:
        key, monotonic = self._services.key_of(request), self._services.monotonic
        sent = monotonic()
        yield hello
        while True:
            events = await follower.next(REVOCATION_SECONDS)
            reason = await self._reason_to_end(key)
            if reason is not None:
                yield _event("bye", {"reason": reason})
                return
            if events or monotonic() - sent >= QUIET_SECONDS:
                sent = monotonic()
                yield b"".join(events) or _COMMENT

    async def _reason_to_end(self, key: RequestKey) -> str | None:
        """Return the reason for which a stream ends now; None if it goes on, as it does while the store is away."""
        if self._topics.is_draining:
            return STOPS
        try:
            await key.check_if_due()
        except (Unauthorized, Forbidden) as error:
            return str(error)
        except StoreUnavailable:
            pass
        return None

    def _wanted(self, request: Request, principal: Principal, topics: Sequence[Topic]) -> Wanted:
        """Return the topics by their keys, with the functions that begin to read them. Raises Forbidden, NotFound."""
        hidden = self._services.hides_payloads(request.scope)
        if any(one.kind in ("log", "logs") for one in topics):
            self._services.check_shows_payloads(request.scope)
        return {self._key(principal, one, hidden): self._source(principal, one, hidden) for one in topics}

    def _key(self, principal: Principal, topic: Topic, hidden: bool) -> Hashable:
        """Return what a state depends on besides the store: clients with the same rights share a topic."""
        own = principal.submitter if principal.sees_only_own_tasks else ""
        return principal.tenant, principal.rights, principal.endpoints, own, hidden, topic.name

    def _source(self, principal: Principal, topic: Topic, hidden: bool) -> Callable[[], Source]:
        """Return the function that begins to read a topic. Raises Forbidden, and NotFound for an endpoint of others."""
        if topic.kind != "task":
            check_may(principal, Right.VIEW)
        if topic.endpoint_id:
            check_has_access(principal, topic.endpoint_id)
        kind = _KINDS[topic.kind]
        return lambda: kind(self._engine, self._catalogue, principal, topic, hidden)


class _Source(Rounds):
    """A topic whose state is compared with the one before."""

    def __init__(self, engine: Engine, catalogue: Catalogue, principal: Principal, topic: Topic, hidden: bool) -> None:
        super().__init__(OVERVIEW_SECONDS if topic.kind == "overview" else ROUND_SECONDS)
        self._engine = engine
        self._catalogue = catalogue
        self._principal = principal
        self._topic = topic
        self._hidden = hidden
        self._latest = b""
        self.gone = self._event(None)

    async def read(self) -> State | None:
        event = self._event(await self._state())
        if event == self._latest:
            return None
        self._latest = event
        return State(event, event)

    async def _state(self) -> Mapping[str, Any]:
        raise NotImplementedError

    async def _endpoint(self) -> Endpoint:
        return await self._engine.endpoints.get(self._principal, self._topic.endpoint_id)

    def _event(self, data: Mapping[str, Any] | None) -> bytes:
        return _event(self._topic.kind, {"topic": self._topic.name, "data": data})


class _Overview(_Source):
    async def _state(self) -> Mapping[str, Any]:
        endpoints = await self._engine.endpoints.all(self._principal, frozenset())
        return {"endpoints": [_brief(endpoint_view(one, self._catalogue), one) for one in endpoints]}


class _Endpoint(_Source):
    async def _state(self) -> Mapping[str, Any]:
        endpoint = await self._endpoint()
        error = await self._engine.waiting.of_endpoint(self._principal, endpoint)
        workers = await self._engine.queries.workers(self._principal, endpoint, frozenset())
        return {
            "endpoint": endpoint_detail_view(endpoint, self._catalogue, error),
            "counts": task_counts_view(endpoint.counts),
            "workers": [worker_view(one, endpoint) for one in workers],
        }


class _Operation(_Source):
    async def _state(self) -> Mapping[str, Any]:
        found = await self._engine.operations.get(self._principal, await self._endpoint(), self._topic.part)
        return operation_view(found)


class _Task(_Source):
    def __init__(self, engine: Engine, catalogue: Catalogue, principal: Principal, topic: Topic, hidden: bool) -> None:
        super().__init__(engine, catalogue, principal, topic, hidden)
        self._rounds = TaskRounds(engine.task_watch, topic.endpoint_id, topic.part, ROUND_SECONDS)

    async def _state(self) -> Mapping[str, Any]:
        endpoint, principal, task_id = await self._endpoint(), self._principal, self._topic.part
        task = await self._engine.queries.task(principal, endpoint, task_id, payload=Payload.NONE)
        waiting = await self._engine.waiting.of(principal, endpoint, task)
        attempts = await self._engine.queries.attempts(principal, endpoint, task_id)
        deliveries = await self._engine.deliveries.ledger(principal, endpoint, task_id)
        self._rounds.is_settled = _is_settled(task)
        return {
            "task": task_detail_view(task, endpoint, waiting, hidden=self._hidden),
            "attempts": attempts_view(attempts),
            "deliveries": ledger_view(deliveries),
        }

    async def pause(self) -> None:
        await self._rounds.pause()

    def close(self) -> None:
        self._rounds.close()


class _Log(_Source):
    """The lines that are added to a log. Its first event has the place of the newest line."""

    _place: Place | None = None
    _is_found = False

    async def read(self) -> State | None:
        endpoint = await self._endpoint()
        if not self._is_found:
            newest = await self._read(endpoint, LogQuery(1, backward=True))
            self._is_found, self._place = True, newest.lines[0].place if newest.lines else None
            first = self._lines_event(self._place, None)
            return State(first, first)
        page = await self._read(endpoint, LogQuery(LOG_LINES, after=self._place))
        if not page.lines:
            return None
        before, self._place = self._place, page.lines[-1].place
        return State(self._lines_event(before, page), self._lines_event(self._place, None))

    async def _read(self, endpoint: Endpoint, query: LogQuery) -> LogPage:
        return await self._engine.queries.log(self._principal, endpoint, self._topic.part, query)

    def _lines_event(self, after: Place | None, page: LogPage | None) -> bytes:
        lines = [] if page is None else log_page_view(page)["logs"]
        return self._event({"after": _place_view(after), "lines": lines, "next": _place_view(self._place)})


class _EndpointLog(_Source):
    """The lines that are added to the logs of an endpoint. Its first event has the place of the newest line."""

    _place: EndpointPlace | None = None
    _is_found = False

    async def read(self) -> State | None:
        endpoint = await self._endpoint()
        if not self._is_found:
            newest = await self._read(endpoint, LogQuery(1, backward=True), None)
            self._is_found, self._place = True, newest.next
            first = self._lines_event(self._place, None)
            return State(first, first)
        page = await self._read(endpoint, LogQuery(LOG_LINES), self._place)
        if not page.lines:
            return None
        before, self._place = self._place, page.lines[-1].place
        return State(self._lines_event(before, page), self._lines_event(self._place, None))

    async def _read(self, endpoint: Endpoint, query: LogQuery, after: EndpointPlace | None) -> EndpointLogPage:
        return await self._engine.queries.endpoint_log(self._principal, endpoint, query, after)

    def _lines_event(self, after: EndpointPlace | None, page: EndpointLogPage | None) -> bytes:
        lines = [] if page is None else endpoint_log_page_view(page)["logs"]
        return self._event({"after": log_cursor(after), "lines": lines, "next": log_cursor(self._place)})


_KINDS: Mapping[str, type[_Source]] = {
    "overview": _Overview, "endpoint": _Endpoint, "task": _Task, "log": _Log, "logs": _EndpointLog, "bulk": _Operation,
}  # fmt: skip
_PARTS: Mapping[str, Callable[[str], bool]] = {
    "task": is_task_id, "log": is_worker_id, "bulk": is_operation_id,
}  # fmt: skip
_BRIEF = (
    "id", "name", "status", "serviceMode", "totalWorkers", "runningWorkers", "queuedTasks", "runningTasks", "paused",
)  # fmt: skip


def topics_in(text: str | None) -> list[Topic]:
    """Return the topics that a query names, each once. Raises InvalidRequest."""
    names = list(dict.fromkeys((text or "").split(",")))
    if len(names) > MAX_TOPICS:
        raise InvalidRequest("topics", f"must have at most {MAX_TOPICS} topics")
    return [_topic(name) for name in names]


def _topic(name: str) -> Topic:
    kind, *ids = name.split(":")
    if kind == "overview" and not ids:
        return Topic(name, kind)
    if kind in ("endpoint", "logs") and len(ids) == 1 and is_endpoint_id(ids[0]):
        return Topic(name, kind, ids[0])
    if kind in _PARTS and len(ids) == 2 and is_endpoint_id(ids[0]) and _PARTS[kind](ids[1]):
        return Topic(name, kind, ids[0], ids[1])
    raise InvalidRequest("topics", _RULE)


def _holder(request: Request, principal: Principal) -> str:
    """Return what streams are counted for: the session of the console, or the API key."""
    if CONSOLE in request.scope:
        return named(request.scope).get(b"x-console-session", b"").decode("latin-1")
    return principal.key_id


def _is_settled(task: Task) -> bool:
    """Return True if nothing happens to the task any more without an order."""
    is_told = task.spec.webhook is None or task.delivery_status in (
        DeliveryStatus.SUCCESS, DeliveryStatus.MAX_RETRIES_EXCEEDED,
    )  # fmt: skip
    return task.finished_at_ms is not None and is_told


def _brief(view: Mapping[str, Any], endpoint: Endpoint) -> dict[str, Any]:
    """Return the members of an endpoint that a list shows."""
    return {**{name: view[name] for name in _BRIEF}, "counts": task_counts_view(endpoint.counts)}


def _place_view(place: Place | None) -> dict[str, str] | None:
    return None if place is None else {"time": str(place.time_ms), "offset": str(place.offset)}


def _event(name: str, data: Mapping[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps(data))
