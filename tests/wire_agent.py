"""An agent of the tests that speaks the wire protocol call by call, also against its rules."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from typing import Any, TypeVar

import httpx

from queue_engine.agent_protocol import calls
from queue_engine.agent_protocol import messages as m
from queue_engine.agent_protocol.calls import Call
from queue_engine.agent_protocol.frames import CONTENT_TYPE, Blob
from queue_engine.agent_protocol.refusals import Refusal, refusal_in
from queue_engine.domain.workers import WorkerStatus
from tests.api_server import RunningApi

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

ADDRESS = "127.0.0.1:9000"
LONG_MS = 20_000
TOKEN = "0" * 32
"""A token of an attempt."""


class Refused(Exception):
    """The API has refused a call."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.status = refusal.status
        self.code = refusal.code


class WireAgent:
    """Calls the API at `url` with a token, as one worker."""

    def __init__(self, url: str, token: str, worker: str = "by-hand-1") -> None:
        self.worker = worker
        headers = {"Authorization": f"Bearer {token}", "Content-Type": CONTENT_TYPE}
        limits = httpx.Limits(max_connections=None)
        self.client = httpx.AsyncClient(base_url=url, headers=headers, timeout=60, verify=False, limits=limits)

    async def __aenter__(self) -> WireAgent:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()

    async def call(self, call: Call[Asked, Answer], message: Asked, blobs: Sequence[Blob] = ()) -> Answer:
        """Return the response. Raises Refused."""
        return (await self.call_with_blobs(call, message, blobs))[0]

    async def call_with_blobs(
        self, call: Call[Asked, Answer], message: Asked, blobs: Sequence[Blob] = ()
    ) -> tuple[Answer, list[bytes]]:
        """Return the response and its blobs. Raises Refused."""
        answer = await self.send(call.path, b"".join(call.request.encode(message, blobs)))
        found, parts = call.response.decode(answer.content)
        return found, [bytes(part) for part in parts]

    async def send(self, path: str, body: bytes, **headers: str) -> httpx.Response:
        """Send a body as it is. Raises Refused."""
        answer = await self.client.post(path, content=body, headers=headers)
        if answer.status_code != 200:
            refusal = refusal_in(answer.status_code, answer.content)
            assert refusal is not None, answer.text
            raise Refused(refusal)
        assert answer.headers["content-type"] == CONTENT_TYPE
        return answer

    async def claim(
        self, limit: int = 1, *, claim_id: str = "", wait_ms: int = LONG_MS, **more: Any
    ) -> tuple[str, ...]:
        """Return claimed tasks."""
        message = m.ClaimRequest(self.worker, claim_id or secrets.token_hex(8), limit, wait_ms, **more)
        return (await self.call(calls.CLAIM, message)).claims

    def claim_later(self, limit: int = 1, **more: Any) -> asyncio.Task[tuple[str, ...]]:
        """Return the asyncio task of a claim."""
        return asyncio.create_task(self.claim(limit, **more))

    async def start(self, *claims: str, token: str = TOKEN) -> tuple[m.StartResponse, list[bytes]]:
        """Start attempts of claimed tasks, all with the same token."""
        starts = tuple(m.Start(claim, token, ADDRESS) for claim in claims)
        return await self.call_with_blobs(calls.START, m.StartRequest(self.worker, starts))

    async def settle(self, *ends: m.End, outputs: Sequence[bytes] = ()) -> list[str]:
        """Return the words of the results."""
        response = await self.call(calls.SETTLE, m.SettleRequest(self.worker, ends), outputs)
        return [result.word for result in response.results]

    async def succeed(self, task_id: str, output: bytes = b"1", token: str = TOKEN) -> str:
        """Settle a success, and return the word."""
        (word,) = await self.settle(m.SucceededEnd(task_id, token), outputs=[output])
        return word

    async def renew(self, *task_ids: str, token: str = TOKEN) -> list[str]:
        """Renew leases, and return the words."""
        leases = tuple(m.LeaseName(task_id, token) for task_id in task_ids)
        return [str(word) for word in (await self.call(calls.RENEW, m.RenewRequest(self.worker, leases))).words]

    async def watch(self, after: str = "", wait_ms: int = LONG_MS) -> m.WatchResponse:
        """Wait for cancellations."""
        return await self.call(calls.WATCH, m.WatchRequest(self.worker, wait_ms, after))

    async def report(self, *, address: str = ADDRESS, run: int = 0, **more: Any) -> m.ReportResponse:
        """Report that the worker runs."""
        status = WorkerStatus.RUNNING
        return await self.call(calls.REPORT, m.ReportRequest(self.worker, run, status, 0, address, **more))

    async def append(self, *lines: str, batch_id: str = "1") -> None:
        """Append lines to the worker's log."""
        await self.call(calls.LOG, m.LogRequest(self.worker, batch_id, lines))

    async def about_worker(self, call: Call[m.WorkerRequest, Answer]) -> Answer:
        """Return the response to a call that names only the worker."""
        return await self.call(call, m.WorkerRequest(self.worker))


async def new_token(api: RunningApi, endpoint_id: str) -> dict[str, Any]:
    """Create an agent token with the API; return its `id` and `token`."""
    answer = await api.post(f"/v2/serverless/{endpoint_id}/agent-tokens", {"name": "test"})
    assert answer.status_code == 200, answer.text
    token: dict[str, Any] = answer.json()["data"]
    return token


async def new_agent(api: RunningApi, endpoint_id: str, worker: str = "by-hand-1") -> WireAgent:
    """Return an agent with a token of its own."""
    return WireAgent(api.url, (await new_token(api, endpoint_id))["token"], worker)
