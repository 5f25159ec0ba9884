"""The queue of one endpoint over the API: see `worker_agent/ports.py`.

Starts and ends are sent in batches: while a call is under way, others are gathered for the next one. A large output is
sent alone, so that no other outcome waits for it. Items of a batch that the API refuses are sent one by one, so that
one bad item does not cost the others.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from queue_engine.agent_protocol import calls, conversions, messages
from queue_engine.agent_protocol.calls import Call
from queue_engine.agent_protocol.frames import BadFrame, Blob
from queue_engine.aio import DEFAULT_BACKOFF
from queue_engine.domain.attempts import Renewal, Settled, StartedAttempt
from queue_engine.domain.errors import EngineError, StoreUnavailable
from queue_engine.domain.tasks import Failed, Lease, Outcome, Succeeded
from queue_engine.gatherer import Gatherer
from worker_agent.server.api import Api, ApiDefect, CallFailed
from worker_agent.server.http import Lane

POLL_MS = 10_000
"""Time for which the API holds a claim or a watch without news. It is short, because a connection that was lost without
a sign is noticed after it."""
POLL_MARGIN_SECONDS = 5.0
"""Time after POLL_MS within which the response must begin."""
MIN_POLL_SECONDS = 0.1
"""Minimum time of a claim without tasks, and between two watches, so that an API that does not wait, or names a task
until it has ended, is not asked in a tight loop."""
MAX_BEAT_SECONDS = 5.0
"""Time limit of a renewal. A shorter lease has a shorter one, so that there is time for a second renewal."""
MIN_BEAT_SECONDS = 1.0
MAX_DEFECT_SECONDS = 300.0
"""Time for which a start, an end or a return is repeated while the API responds with a defect. Longer than an upgrade,
which replaces the processes of the API one after the other. Later the item itself is assumed to be the cause."""
ALONE_BYTES = 64 * 1024
"""Size beyond which an output is sent alone."""
MAX_GATHERED_BYTES = 1024 * 1024
"""Limit of the outputs in one call, so that a batch does not take long on a slow line."""
FRAME_BYTES = 1024
"""Size of a frame with one output, besides the output. It has an id, a token and some lengths."""
MAX_INPUT_BYTES = 256 * 1024 * 1024
"""Limit of a response with inputs, whatever the API says."""


@dataclass(frozen=True)
class ApiLimits:
    """Limits of the API, and the lease of a task."""

    max_request_bytes: int
    max_response_bytes: int
    lease_seconds: float

    @property
    def beat_seconds(self) -> float:
        """Time limit of a renewal."""
        return max(MIN_BEAT_SECONDS, min(MAX_BEAT_SECONDS, self.lease_seconds / 4))


_End = tuple[messages.End, Blob | None]
_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_Send = Callable[[Sequence[_Item]], Awaitable[Sequence[_Result | Exception]]]


class ServerClaim:
    """A task that the API has claimed for this agent."""

    def __init__(self, source: ServerTaskSource, text: str) -> None:
        self._source = source
        self.text = text
        """The claim as the API describes it."""
        self.token = secrets.token_hex(16)
        """Token of the attempt that this claim starts: a repeated start is the same attempt."""

    async def start(self, *, address: str, is_ahead: bool = False) -> StartedAttempt | None:
        return await self._source.start(self, messages.Start(self.text, self.token, address, is_ahead))

    async def put_back(self) -> None:
        await self._source.put_back(self)


class ServerTaskSource:
    """The queue of the token's endpoint, for the agent of one worker."""

    def __init__(self, api: Api, limits: ApiLimits, *, endpoint_id: str, worker_id: str) -> None:
        self._api = api
        self._limits = limits
        self._endpoint_id = endpoint_id
        self._worker_id = worker_id
        self._unstarted: dict[str, ServerClaim] = {}
        """The claims that were returned, and neither started nor put back. The API limits their number."""
        self._open_claim: str | None = None
        """The id of a claim whose response was not received: it may have claimed tasks."""
        self._watched_at = 0.0
        """The time at which the latest watch began."""
        self._watched_after = ""
        """The place at which it ended; empty before the first one."""
        self._starts = Gatherer(partial(_apart_if_refused, self._send_starts), limit=messages.MAX_TOGETHER)
        self._ends = Gatherer(partial(_apart_if_refused, self._send_ends), limit=messages.MAX_TOGETHER)
        self._returns = Gatherer(partial(_apart_if_refused, self._send_returns), limit=messages.MAX_TOGETHER)

    # Claim

    async def claim(self, limit: int) -> Sequence[ServerClaim]:
        return await self._claim(min(limit, messages.MAX_CLAIMS), wait_ms=POLL_MS)

    async def claim_abandoned(
        self,
        limit: int,  # noqa: ARG002 - of the port
        *,
        unstarted_seconds: float,  # noqa: ARG002 - of the port
    ) -> Sequence[ServerClaim]:
        """Return none: the API queues the claims of dead agents again."""
        return ()

    async def unstarted_claims(self) -> Sequence[ServerClaim]:
        """Return the claims that were not started, and first ask for those of a claim without a response."""
        if self._open_claim is not None:
            await self._claim(1, wait_ms=0, is_repeated=True)
        return tuple(self._unstarted.values())

    async def _claim(self, limit: int, *, wait_ms: int, is_repeated: bool = False) -> Sequence[ServerClaim]:
        """Claim tasks. A claim after one without a response has the same id, so that it returns the same tasks."""
        claim_id = self._open_claim = self._open_claim or secrets.token_hex(16)
        request = messages.ClaimRequest(self._worker_id, claim_id, limit, wait_ms, is_repeated)
        began = _now()
        response = await self._poll(calls.CLAIM, request, wait_ms, lane=Lane.CLAIMS)
        self._open_claim = None
        claims = [ServerClaim(self, text) for text in response.claims]
        self._unstarted.update((claim.text, claim) for claim in claims)
        if not claims and wait_ms:
            await _pause_since(began)
        return claims

    # Start and put back

    async def start(self, claim: ServerClaim, start: messages.Start) -> StartedAttempt | None:
        """Start an attempt of a claim. Return None if the claim is no longer valid."""
        try:
            attempt = await _add(self._starts, start)
        except StoreUnavailable:
            raise  # the agent repeats the call
        except Exception:
            self._unstarted.pop(claim.text, None)
            raise
        self._unstarted.pop(claim.text, None)
        return attempt

    async def _send_starts(self, starts: Sequence[messages.Start]) -> list[StartedAttempt | Exception | None]:
        """Start attempts. Return the results of the first ones: their inputs are limited."""
        request = messages.StartRequest(self._worker_id, tuple(starts))
        max_bytes = min(self._limits.max_response_bytes, MAX_INPUT_BYTES)
        response, blobs = await self._api.call(calls.START, request, max_bytes=max_bytes)
        with _understood(calls.START, self._api):
            found = conversions.attempts_in(
                response,
                blobs,
                [start.token for start in starts],
                endpoint_id=self._endpoint_id,
                worker_id=self._worker_id,
            )
            results: list[StartedAttempt | Exception | None] = [
                CallFailed(f"start: {one}") if isinstance(one, str) else one for one in found
            ]
            _check_count(len(results), 1, len(starts))
            return results

    async def put_back(self, claim: ServerClaim) -> None:
        """Return a claim that was not started."""
        await _add(self._returns, claim.text)
        self._unstarted.pop(claim.text, None)

    async def _send_returns(self, claims: Sequence[str]) -> list[Exception | None]:
        await self._api.call(calls.PUT_BACK, messages.PutBackRequest(self._worker_id, tuple(claims)))
        return [None] * len(claims)

    # Leases

    async def renew(self, leases: Sequence[Lease], *, begun: int = 0) -> Sequence[Renewal]:
        names = tuple(messages.LeaseName(lease.task_id, lease.token) for lease in leases)
        request = messages.RenewRequest(self._worker_id, names, begun)
        seconds = self._limits.beat_seconds
        response, _ = await self._api.call(calls.RENEW, request, lane=Lane.BEATS, seconds=seconds)
        with _understood(calls.RENEW, self._api):
            _check_count(len(response.words), len(leases), len(leases))
        return response.words

    async def cancelled(self) -> Collection[str]:
        """Wait until tasks of this worker are cancelled, or for POLL_MS, and return their ids.

        The first call returns at once: it learns the place from which the next one continues, so that no cancellation
        is missed between two calls.
        """
        await _pause_since(self._watched_at)
        self._watched_at = _now()
        wait_ms = POLL_MS if self._watched_after else 0
        request = messages.WatchRequest(self._worker_id, wait_ms, self._watched_after)
        response = await self._poll(calls.WATCH, request, wait_ms, lane=Lane.WATCH)
        self._watched_after = response.after
        return response.tasks

    # Outcomes

    async def settle(self, lease: Lease, outcome: Outcome) -> Settled:
        return conversions.settled_in(await self._end(conversions.end_of(lease, self._sendable(outcome))))

    async def release(self, lease: Lease, *, called: bool) -> str:
        return (await self._end((conversions.released(lease, called=called), None))).word

    def _sendable(self, outcome: Outcome) -> Outcome:
        """Return the outcome, or a failure in place of an output that is longer than the API accepts."""
        limit = self._limits.max_request_bytes - FRAME_BYTES
        if isinstance(outcome, Succeeded) and len(outcome.output) > limit:
            return Failed(f"the output has {len(outcome.output)} bytes, and the API accepts {limit} from an agent")
        return outcome

    async def _end(self, end: _End) -> messages.SettleResult:
        if end[1] is not None and len(end[1]) > ALONE_BYTES:
            return await _add(Gatherer(self._send_ends, limit=1), end)
        return await _add(self._ends, end)

    async def _send_ends(self, ends: Sequence[_End]) -> list[messages.SettleResult | Exception]:
        """Record outcomes. Return the results of the first ones, as many as are sent in one call."""
        sent = ends[: _count_within(ends, min(MAX_GATHERED_BYTES, self._limits.max_request_bytes))]
        request = messages.SettleRequest(self._worker_id, tuple(end for end, _ in sent))
        response, _ = await self._api.call(calls.SETTLE, request, [output for _, output in sent if output is not None])
        with _understood(calls.SETTLE, self._api):
            _check_count(len(response.results), len(sent), len(sent))
        return [_checked(result) for result in response.results]

    async def _poll(self, call: Call[_Request, _Response], request: _Request, wait_ms: int, *, lane: Lane) -> _Response:
        """Make a call to which the API responds after `wait_ms` at the latest."""
        response, _ = await self._api.call(call, request, lane=lane, seconds=wait_ms / 1000 + POLL_MARGIN_SECONDS)
        return response


async def _add(gatherer: Gatherer[_Item, _Result], item: _Item) -> _Result:
    """Send an item. It is sent again for MAX_DEFECT_SECONDS while the API responds with a defect."""
    gives_up_at = _now() + MAX_DEFECT_SECONDS
    failures = 0
    while True:
        try:
            return await gatherer.add(item)
        except ApiDefect as error:
            if _now() >= gives_up_at:
                raise CallFailed(error.reason) from None
        failures += 1
        await asyncio.sleep(DEFAULT_BACKOFF.delay_after(failures, luck=random.random()))


async def _apart_if_refused(send: _Send[_Item, _Result], items: Sequence[_Item]) -> Sequence[_Result | Exception]:
    """Send items together. If the API cannot execute the call, send them one by one, until the API is away."""
    try:
        return await send(items)
    except (CallFailed, ApiDefect):
        if len(items) == 1:
            raise
    results: list[_Result | Exception] = []
    for item in items:
        try:
            results += await send([item])
        except (CallFailed, ApiDefect) as error:
            results.append(error)
        except EngineError as error:
            return [*results, error]
    return results


def _count_within(ends: Sequence[_End], max_bytes: int) -> int:
    """Return the number of the first ends, at least one, whose frame has about `max_bytes` at most."""
    size = 0
    for count, end in enumerate(ends):
        size += _size_of(*end)
        if count and size > max_bytes:
            return count
    return len(ends)


def _size_of(end: messages.End, output: Blob | None) -> int:
    """Return the size of an end in a frame, or more. JSON writes a control character in six bytes."""
    match end:
        case messages.SucceededEnd():
            return FRAME_BYTES + len(output or b"")
        case messages.FailedEnd():
            return FRAME_BYTES + 6 * len(end.error)
        case messages.RetriedEnd():
            return FRAME_BYTES + 6 * (len(end.error) + len(end.last_error))
        case _:
            return FRAME_BYTES


def _checked(result: messages.SettleResult) -> messages.SettleResult | Exception:
    """Return the result of an end, or its error. The end is sent again after both errors."""
    if result.word == "UNAVAILABLE":
        return StoreUnavailable(result.error or "the store cannot record the outcome now")
    return ApiDefect(f"settle: {result.error}") if result.word == "ERROR" else result


@contextmanager
def _understood(call: Call[_Request, _Response], api: Api) -> Iterator[None]:
    """Raise StoreUnavailable in place of BadFrame: the response is repeated as one of a server that is away."""
    try:
        yield
    except BadFrame as error:
        raise api.bad_response(call, error) from None


def _check_count(count: int, low: int, high: int) -> None:
    if not low <= count <= high:
        raise BadFrame(f"it has {count} results of {high}")


async def _pause_since(began: float) -> None:
    """Wait until MIN_POLL_SECONDS after `began`."""
    if (left := began + MIN_POLL_SECONDS - _now()) > 0:
        await asyncio.sleep(left)


def _now() -> float:
    return asyncio.get_running_loop().time()
