"""Webhook receivers on loopback, as a user would write them: they believe nothing that is not signed.

Each checks the `X-API-Key` that the task asked for, and the signature with the public package `standardwebhooks`.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

ALWAYS = 2**31
"""For `refusals`: every request is refused."""


class Untrusted(Exception):
    """A request that does not prove that it is the engine's. The message says what is wrong with it."""


@dataclass(frozen=True)
class Received:
    """One delivery attempt that proved genuine."""

    receiver: str
    webhook_id: str
    event: Mapping[str, Any] = field(repr=False)
    """The JSON body."""
    status: int
    """What it was answered with."""
    at: float
    """When, on the monotonic clock."""

    @property
    def task_id(self) -> str:
        return str(self.event["user_task_id"])

    @property
    def accepted(self) -> bool:
        return self.status == 200


class Inbox:
    """What all receivers got, and how to wait for it."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.received: list[Received] = []
        self.accepted_ids: set[str] = set()
        """The tasks whose result a receiver has taken."""
        self.faults: list[str] = []
        self.monotonic = monotonic
        self._news = asyncio.Event()

    def add(self, received: Received) -> None:
        self.received.append(received)
        if received.accepted:
            self.accepted_ids.add(received.task_id)
        self._news.set()

    def complain(self, fault: str) -> None:
        self.faults.append(fault)
        self._news.set()

    async def wait_for_news(self, timeout_seconds: float) -> None:
        """Return when something came, or after that time. Raises Untrusted when a request was not genuine."""
        if self.faults:
            raise Untrusted(self.faults[0])
        try:
            await asyncio.wait_for(self._news.wait(), timeout_seconds)
        except TimeoutError:
            return
        self._news.clear()

    def by_task(self) -> dict[str, list[Received]]:
        """All attempts, by the task whose result they brought."""
        found: dict[str, list[Received]] = {}
        for received in self.received:
            found.setdefault(received.task_id, []).append(received)
        return found


class Receiver:
    """Answers 500 to the first `refusals` genuine requests and 200 to the others; 401 to what is not genuine."""

    def __init__(self, name: str, signing_secret: str, inbox: Inbox, *, refusals: int = 0) -> None:
        self.name = name
        self.auth_key = secrets.token_urlsafe(24)
        """What tasks give as `webhookAuthKey`."""
        self.url = ""
        self._webhook = Webhook(signing_secret)
        self._inbox = inbox
        self._refusals_left = refusals

    async def receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        try:
            event = self._genuine(request, body)
        except Untrusted as fault:
            self._inbox.complain(f"{self.name}: {fault}")
            return web.Response(status=401)
        status = self._next_status()
        self._inbox.add(Received(self.name, request.headers["webhook-id"], event, status, self._inbox.monotonic()))
        return web.Response(status=status)

    def _genuine(self, request: web.Request, body: bytes) -> dict[str, Any]:
        """What was sent. Raises Untrusted."""
        keys = request.headers.getall("X-API-Key", [])
        if len(keys) != 1 or not hmac.compare_digest(keys[0].encode(), self.auth_key.encode()):
            raise Untrusted("a webhook came without the right X-API-Key")
        try:
            event = self._webhook.verify(body, dict(request.headers))
        except (WebhookVerificationError, ValueError) as error:
            raise Untrusted(f"a webhook's signature is wrong: {error}") from None
        if not isinstance(event, dict) or not isinstance(event.get("user_task_id"), str):
            raise Untrusted("a webhook's body is not the result of a task")
        return event

    def _next_status(self) -> int:
        if self._refusals_left > 0:
            self._refusals_left -= 1
            return 500
        return 200


@asynccontextmanager
async def listening(receiver: Receiver) -> AsyncIterator[Receiver]:
    """Serve `receiver` on a free port of loopback and set its URL, until the block ends."""
    app = web.Application()
    app.router.add_post("/results", receiver.receive)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/results"
        yield receiver
    finally:
        await runner.cleanup()
