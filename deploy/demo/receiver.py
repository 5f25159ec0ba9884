"""A webhook receiver as a user would write it, with the public package `standardwebhooks`: it trusts what is signed."""

from __future__ import annotations

import hmac
import secrets
import threading
from collections import defaultdict
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self

from standardwebhooks import Webhook, WebhookVerificationError

from queue_engine.client.fields import SubmitFields

MAX_BODY_BYTES = 1024 * 1024


class Received(NamedTuple):
    """A genuine delivery attempt, and the status of its response."""

    webhook_id: str
    event: dict[str, Any]
    status: int


class Receiver(ThreadingHTTPServer):
    """Responds 500 to the first `refusals` attempts for each task, then 200; 401 to what is not genuine."""

    request_queue_size = 128

    def __init__(self, signing_secret: str, *, refusals: int = 0, host: str = "127.0.0.1") -> None:
        super().__init__((host, 0), _Handler)
        self.url = f"http://{host}:{self.server_port}/results"
        self.auth_key = secrets.token_urlsafe(24)
        self.refusals = refusals
        self.received: defaultdict[str, list[Received]] = defaultdict(list)  # by task
        self.problems: list[str] = []
        self._webhook = Webhook(signing_secret)

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()

    def fields(self) -> SubmitFields:
        """Return the fields of tasks whose results it receives."""
        return {"webhook": self.url, "webhook_auth_key": self.auth_key}

    def receive(self, headers: Message, body: bytes) -> int:
        """Take one request, and return the status of its response."""
        try:
            keys = ", ".join(headers.get_all("X-API-Key", []))
            if not hmac.compare_digest(keys.encode(), self.auth_key.encode()):
                raise ValueError("not the right X-API-Key")
            event = self._webhook.verify(body, dict(headers))
            received = self.received[event["user_task_id"]]
        except (WebhookVerificationError, ValueError, KeyError, TypeError) as error:
            self.problems.append(f"a webhook is not genuine: {error!r}")
            return 401
        status = 500 if len(received) < self.refusals else 200
        received.append(Received(headers["webhook-id"], event, status))
        return status

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of connections that break: the engine sends again."""


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:  # the name that http.server looks for
        length = min(int(self.headers.get("Content-Length", 0)), MAX_BODY_BYTES)
        self.send_response(self.server.receive(self.headers, self.rfile.read(length)))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing."""
