"""The calls of agents. Each parses a frame, calls the use case in the name of the token, and returns a frame."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from queue_engine.agent_protocol import calls
from queue_engine.agent_protocol import messages as m
from queue_engine.agent_protocol.calls import Call
from queue_engine.agent_protocol.conversions import encodable, head_of, outcomes_in, result_of
from queue_engine.agent_protocol.frames import CONTENT_TYPE, MAX_HEAD_BYTES, BadFrame, Blob
from queue_engine.api.agent.output_check import OutputCheck
from queue_engine.api.http.auth import AgentAuthenticator
from queue_engine.api.http.bodies import BodyReader, release
from queue_engine.api.http.connections import CONNECTION, Connection
from queue_engine.api.http.errors import CLOSE, ClientGone, NotJson
from queue_engine.api.http.long_poll import LongPoll
from queue_engine.api.http.operations import DescribedRoute, Serve
from queue_engine.api.http.rate_limit import RateLimiter
from queue_engine.api.http.responses import Response
from queue_engine.domain.agent_tokens import AgentPrincipal
from queue_engine.domain.attempts import Settled, StartedAttempt, Unreadable
from queue_engine.domain.endpoints import Endpoint
from queue_engine.domain.errors import InvalidRequest, StoreUnavailable
from queue_engine.domain.retry import TaskRetryPolicy
from queue_engine.domain.workers import Pace
from queue_engine.engine.agents.work import AgentWork, Ending, WantedStart, WorkerReport
from queue_engine.engine.principals import REVOCATION_SECONDS

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

TAG = "agents"
MIN_RESPONSE_LIMIT = 64 * 1024 * 1024
"""Minimum of the response size that agents must accept, because inputs may be from before a lower limit of bodies."""
_CONTENT_TYPE = CONTENT_TYPE.encode()
_FORWARDED = frozenset(
    {b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip"}
)
"""Headers that only proxies set."""


@dataclass(frozen=True)
class Caller:
    """The agent that has sent a request."""

    principal: AgentPrincipal
    scope: Scope
    receive: Receive

    @property
    def address(self) -> str:
        """The network address of the agent."""
        return _address_of(self.scope)

    @property
    def own_address(self) -> str | None:
        """The network address of the agent; None if a proxy that is not trusted has forwarded the request."""
        connection: Connection | None = self.scope.get(CONNECTION)
        is_trusted = connection is not None and connection.is_trusted
        is_forwarded = any(name in _FORWARDED for name, _ in self.scope["headers"])
        return None if is_forwarded and not is_trusted else self.address


class AgentRoutes:
    """The routes of agents. `bodies` reads their requests, which are as large as the outputs of tasks."""

    def __init__(
        self,
        work: AgentWork,
        authenticator: AgentAuthenticator,
        bodies: BodyReader,
        *,
        max_input_bytes: int,
        limiter: RateLimiter,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._work = work
        self._limiter = limiter
        self._authenticator = authenticator
        self._bodies = bodies
        self._max_response_bytes = max(MIN_RESPONSE_LIMIT, 2 * (max_input_bytes + MAX_HEAD_BYTES))
        self._monotonic = monotonic
        self._outputs = OutputCheck(bodies.turns)

    def routes(self) -> list[DescribedRoute]:
        """Return the routes, the most frequent ones first."""
        return [
            self._route(calls.SETTLE, self._settle),
            self._route(calls.START, self._start),
            self._route(calls.CLAIM, self._claim, waits=True),
            self._route(calls.RENEW, self._renew),
            self._route(calls.WATCH, self._watch, waits=True),
            self._route(calls.REPORT, self._report),
            self._route(calls.LOG, self._log),
            self._route(calls.PUT_BACK, self._put_back),
            self._route(calls.HELLO, self._hello),
            self._route(calls.REGISTER, self._register, is_limited=True),
            self._route(calls.REMOVE, self._remove, is_limited=True),
        ]

    # Tasks

    async def _claim(self, caller: Caller, asked: m.ClaimRequest, _: Sequence[memoryview]) -> Response:
        principal, worker = caller.principal, asked.worker
        if asked.is_repeated:
            claims = self._work.repeated_claim(principal, worker, asked.claim_id)
            return self._response(calls.CLAIM, m.ClaimResponse(tuple(claims)))
        poll = LongPoll(caller.receive, asked.wait_ms / 1000)
        async with poll as ended:
            claims = await self._work.claim(principal, worker, asked.claim_id, asked.limit, ended)
            if claims:
                await self._check_claimer(caller, worker, claims, poll)
        return self._response(calls.CLAIM, m.ClaimResponse(tuple(claims)))

    async def _check_claimer(self, caller: Caller, worker: str, claims: Sequence[str], poll: LongPoll) -> None:
        """Put the claims back and raise an error if the agent has disconnected or its token was revoked."""
        try:
            await self._principal_of(caller.scope)
            if poll.is_gone:
                raise ClientGone
        except BaseException:
            self._work.abandon(caller.principal, worker, claims)
            raise

    async def _start(self, caller: Caller, asked: m.StartRequest, _: Sequence[memoryview]) -> Response:
        starts = [WantedStart(one.claim, one.token, one.address, one.is_ahead) for one in asked.starts]
        found = await self._work.start(caller.principal, asked.worker, starts)
        started = [one for one in found if isinstance(one, StartedAttempt)]
        policy = started[0].retry_policy if started else TaskRetryPolicy()
        response = m.StartResponse(
            results=tuple(map(_start_result, found)),
            retry_on=tuple(sorted(policy.on)),
            retry_delays_seconds=policy.delays_seconds,
            cancel_uri=started[0].cancel_uri if started else None,
        )
        inputs = [one.task.input for one in started if not isinstance(one.task, Unreadable)]
        return self._response(calls.START, response, inputs)

    async def _put_back(self, caller: Caller, asked: m.PutBackRequest, _: Sequence[memoryview]) -> Response:
        await self._work.put_back(caller.principal, asked.worker, asked.claims)
        return self._response(calls.PUT_BACK, m.Done())

    async def _renew(self, caller: Caller, asked: m.RenewRequest, _: Sequence[memoryview]) -> Response:
        leases = [(one.task, one.token) for one in asked.leases]
        words = await self._work.renew(caller.principal, asked.worker, leases, begun=asked.begun)
        return self._response(calls.RENEW, m.RenewResponse(tuple(words)))

    async def _watch(self, caller: Caller, asked: m.WatchRequest, _: Sequence[memoryview]) -> Response:
        poll = LongPoll(caller.receive, asked.wait_ms / 1000)
        async with poll as ended:
            after, tasks = await self._work.watch(caller.principal, asked.worker, asked.after, ended)
            if poll.is_gone:
                raise ClientGone
        return self._response(calls.WATCH, m.WatchResponse(after, tuple(tasks)))

    async def _settle(self, caller: Caller, asked: m.SettleRequest, blobs: Sequence[memoryview]) -> Response:
        async def hold(places: Sequence[int]) -> Sequence[bool]:
            leases = [(asked.ends[place].task, asked.ends[place].token) for place in places]
            return await self._work.hold(caller.principal, asked.worker, leases)

        outcomes = await self._outputs.checked(outcomes_in(asked.ends, blobs), hold)
        endings = [
            Ending(end.task, end.token, outcome, called=isinstance(end, m.ReleasedEnd) and end.called)
            for end, outcome in zip(asked.ends, outcomes, strict=True)
        ]
        results = await self._work.settle(caller.principal, asked.worker, endings)
        return self._response(calls.SETTLE, m.SettleResponse(tuple(map(_settle_result, results))))

    # The worker

    async def _hello(self, caller: Caller, asked: m.WorkerRequest, _: Sequence[memoryview]) -> Response:
        endpoint = await self._work.endpoint(caller.principal, asked.worker, caller.address)
        return self._response(calls.HELLO, self._greeting(endpoint))

    def _greeting(self, endpoint: Endpoint) -> m.HelloResponse:
        config, times = endpoint.config, self._work.times
        return m.HelloResponse(
            endpoint=endpoint.endpoint_id,
            service_mode=config.service_mode,
            concurrency=config.concurrency,
            start_timeout_seconds=config.start_timeout_seconds,
            lease_seconds=times.lease.total_seconds(),
            log_retention_seconds=times.log_retention.total_seconds(),
            max_request_bytes=self._bodies.max_bytes,
            max_response_bytes=self._max_response_bytes,
            exposed_port=config.expose.port if config.expose else None,
            ready_path=config.ready_path,
        )

    async def _register(self, caller: Caller, asked: m.WorkerRequest, _: Sequence[memoryview]) -> Response:
        await self._work.register(caller.principal, asked.worker)
        return self._response(calls.REGISTER, m.Done())

    async def _report(self, caller: Caller, asked: m.ReportRequest, _: Sequence[memoryview]) -> Response:
        pace = None if asked.slots is None else Pace(asked.slots, asked.mean_run_ms)
        report = WorkerReport(
            asked.run, asked.status, asked.running_tasks, asked.address, asked.reason, asked.error, pace
        )
        desired = await self._work.report(caller.principal, asked.worker, report, caller.own_address)
        return self._response(calls.REPORT, m.ReportResponse(desired))

    async def _remove(self, caller: Caller, asked: m.WorkerRequest, _: Sequence[memoryview]) -> Response:
        await self._work.remove(caller.principal, asked.worker)
        return self._response(calls.REMOVE, m.Done())

    async def _log(self, caller: Caller, asked: m.LogRequest, _: Sequence[memoryview]) -> Response:
        await self._work.append_log(caller.principal, asked.worker, asked.batch_id, asked.lines)
        return self._response(calls.LOG, m.Done())

    # Requests and responses

    def _route(
        self,
        call: Call[Asked, Answer],
        handle: Callable[[Caller, Asked, Sequence[memoryview]], Awaitable[Response]],
        *,
        waits: bool = False,
        is_limited: bool = False,
    ) -> DescribedRoute:
        """Return the route of a call. `is_limited` applies the limit of requests per second, for calls that make
        events. The others do not count, because an agent whose renewals or reports are refused loses its tasks."""

        async def serve(scope: Scope, receive: Receive, _send: Send) -> Response:
            principal = await self._admit(scope, is_limited=is_limited)
            try:
                request, blobs = await self._read(call, Request(scope, receive), principal)
                return await handle(Caller(principal, scope, receive), request, blobs)
            except BadFrame as error:
                raise InvalidRequest("body", str(error)) from None
            finally:
                release(scope)

        return AgentRoute(call, serve, waits=waits)

    async def _admit(self, scope: Scope, *, is_limited: bool) -> AgentPrincipal:
        principal = await self._principal_of(scope)
        connection: Connection | None = scope.get(CONNECTION)
        if connection is not None:
            connection.admit(principal.tenant, is_agent=True)
        if is_limited:
            self._limiter.take(principal.tenant)
        return principal

    async def _principal_of(self, scope: Scope) -> AgentPrincipal:
        return await self._authenticator.principal_of(scope["headers"], _address_of(scope))

    async def _read(
        self, call: Call[Asked, Answer], request: Request, principal: AgentPrincipal
    ) -> tuple[Asked, Sequence[memoryview]]:
        """Return the message and the blobs of a request. Raises BadFrame, and what `BodyReader.read` raises."""
        types = [value for name, value in request.scope["headers"] if name == b"content-type"]
        if types != [_CONTENT_TYPE]:
            raise NotJson(f"must be {CONTENT_TYPE} (Content-Type)")
        started = self._monotonic()
        body = await self._bodies.read(request, principal.tenant)
        if self._monotonic() - started > REVOCATION_SECONDS:
            await self._principal_of(request.scope)  # the token may have been revoked long before
        return call.request.decode(body)

    def _response(self, call: Call[Asked, Answer], message: Answer, blobs: Sequence[Blob] = ()) -> Response:
        head, *more = call.response.encode(message, blobs)
        headers = CLOSE if self._work.is_draining else ()
        return Response(200, bytes(head), _CONTENT_TYPE, headers, tuple(memoryview(blob) for blob in more))


class AgentRoute(DescribedRoute):
    """A call of agents. It is not part of the OpenAPI document, because its messages are not JSON alone."""

    is_exact = True

    def __init__(self, call: Call[Asked, Answer], serve: Serve, *, waits: bool) -> None:
        super().__init__(
            "POST",
            call.path,
            serve,
            right=None,
            name=f"agent_{call.name}",
            summary=f"The call `{call.name}` of agents",
            text=None,
            tag=TAG,
            responses={},
            described={},
        )
        self.waits = waits


def _address_of(scope: Scope) -> str:
    client: tuple[str, int] | None = scope["client"]
    return client[0] if client else ""


def _start_result(found: StartedAttempt | str | None) -> m.StartResult:
    if isinstance(found, StartedAttempt):
        return m.StartResult("OK", head_of(found))
    return m.StartResult("STALE") if found is None else m.StartResult("ERROR", error=found)


def _settle_result(result: Settled | StoreUnavailable | None) -> m.SettleResult:
    if isinstance(result, Settled):
        return result_of(result)
    if isinstance(result, StoreUnavailable):
        return m.SettleResult("UNAVAILABLE", error=encodable(result.reason))
    return m.SettleResult("ERROR", error="the end of the attempt cannot be recorded")
