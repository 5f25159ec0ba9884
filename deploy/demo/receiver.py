"""Webhook receivers on this machine, as a user would write them: they trust only what is signed.

Each checks the `X-API-Key` that the task asked for, and the signature with the public package `standardwebhooks`.
"""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from standardwebhooks import Webhook, WebhookVerificationError

from queue_engine.net.ports import LOOPBACK

ALWAYS = 2**31
"""For `refusals`: every request is refused."""
MAX_BODY_BYTES = 1024 * 1024


class Untrusted(Exception):
    """A request that does not prove that it is the engine's. The message says what is wrong with it."""


class Received(NamedTuple):
    """A genuine delivery attempt, the status of its response, and its time of arrival (monotonic)."""

    receiver: str
    webhook_id: str
    event: dict[str, Any]
    status: int
    at: float


class Inbox:
    """Everything that all receivers got."""

    def __init__(self) -> None:
        self.received: defaultdict[str, list[Received]] = defaultdict(list)
        """By the task whose result it is."""
        self.accepted_ids: set[str] = set()
        """The tasks whose result a receiver has taken."""
        self.faults: list[str] = []
        """Why requests were not trusted."""


class Receiver:
    """Responds 500 to the first `refusals` genuine requests and 200 to the others; 401 to what is not genuine."""

    def __init__(self, name: str, signing_secret: str, inbox: Inbox, *, refusals: int = 0) -> None:
        self.name = name
        self.auth_key = secrets.token_urlsafe(24)
        """The `webhookAuthKey` of the tasks."""
        self.url = ""
        self._webhook = Webhook(signing_secret)
        self._inbox = inbox
        self._refusals_left = refusals
        self._lock = threading.Lock()

    def receive(self, headers: Message, body: bytes) -> int:
        """Take one request, and return the status of its response."""
        try:
            event = self._genuine(headers, body)
        except Untrusted as fault:
            self._inbox.faults.append(f"{self.name}: {fault}")
            return 401
        with self._lock:
            self._refusals_left -= 1
            status = 500 if self._refusals_left >= 0 else 200
            task_id = event["user_task_id"]
            received = Received(self.name, headers["webhook-id"], event, status, time.monotonic())
            self._inbox.received[task_id].append(received)
            if status == 200:
                self._inbox.accepted_ids.add(task_id)
        return status

    def _genuine(self, headers: Message, body: bytes) -> dict[str, Any]:
        """Return what was sent. Raises Untrusted."""
        keys = headers.get_all("X-API-Key", [])
        if len(keys) != 1 or not hmac.compare_digest(keys[0].encode(), self.auth_key.encode()):
            raise Untrusted("a webhook came without the right X-API-Key")
        try:
            event = self._webhook.verify(body, dict(headers))
        except (WebhookVerificationError, ValueError) as error:
            raise Untrusted(f"a webhook's signature is wrong: {error}") from None
        if not isinstance(event, dict) or not isinstance(event.get("user_task_id"), str):
            raise Untrusted("a webhook's body is not the result of a task")
        return event


@contextmanager
def listening(receiver: Receiver, host: str = LOOPBACK) -> Iterator[Receiver]:
    """Serve `receiver` on a free port of this address and set its URL, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # the name that http.server looks for
            length = min(int(self.headers.get("Content-Length", 0)), MAX_BODY_BYTES)
            self.send_response(receiver.receive(self.headers, self.rfile.read(length)))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with _Server((host, 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        receiver.url = f"http://{host}:{server.server_port}/results"
        try:
            yield receiver
        finally:
            server.shutdown()


class _Server(ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of connections that break: the engine sends again."""
