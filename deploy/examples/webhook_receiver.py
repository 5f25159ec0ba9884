"""A webhook receiver that accepts only what is signed. Standard library only.

| variable | meaning |
| --- | --- |
| `WEBHOOK_SECRET` | the endpoint's signing secret, `whsec_…`: `GET /v2/serverless/{id}/webhook-secret` |
| `WEBHOOK_AUTH_KEY` | the tasks' `webhookAuthKey`, when they have one |
| `PORT` | where to listen on 127.0.0.1, 9000 by default |

Prints one line for each new event and responds 204, also to types of events that it does not know. Responds 401 to a
request that is not genuine, which changes nothing here, and 500 when an event could not be handled. The engine sends
both again later, so a wrong secret or a defect of `handle` can be corrected without a loss.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import sys
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MAX_BODY_BYTES = 1024 * 1024
MAX_HANDLED = 10_000
TOLERANCE_SECONDS = 300


class NotGenuine(Exception):
    """The request does not come from the engine, was changed, or is too old."""


def verify(headers: Mapping[str, str], body: bytes, *, secret: str, auth_key: str | None, now: float) -> None:
    """Raise NotGenuine unless the request is signed with `secret`, is recent and carries `auth_key`."""
    if auth_key is not None and not _same(headers.get("X-API-Key", ""), auth_key):
        raise NotGenuine("X-API-Key is missing or wrong")
    message_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not timestamp.isdigit() or abs(now - int(timestamp)) > TOLERANCE_SECONDS:
        raise NotGenuine("webhook-timestamp is missing, or differs too much from the current time")
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{message_id}.{timestamp}.".encode() + body  # the bytes as they came, before any parsing
    expected = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    # While a secret is being replaced there may be several signatures.
    if not any(_same(one, expected) for one in headers.get("webhook-signature", "").split()):
        raise NotGenuine("webhook-signature is missing or wrong")


def _same(given: str, expected: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(given.encode(), expected.encode())


class Handled:
    """The latest `webhook-id`s that were handled. A delivery may come twice with the same id, also at the same time."""

    def __init__(self) -> None:
        self._ids: OrderedDict[str, None] = OrderedDict()
        self._under_way: set[str] = set()
        self._changed = threading.Condition()

    def once(self, message_id: str, act: Callable[[], None]) -> None:
        """Call `act` unless it has already returned for this id. After an exception the id is still to be handled."""
        with self._changed:
            self._changed.wait_for(lambda: message_id not in self._under_way)
            if message_id in self._ids:
                return
            self._under_way.add(message_id)
        is_done = False
        try:
            act()
            is_done = True
        finally:
            with self._changed:
                self._under_way.remove(message_id)
                if is_done:
                    self._ids[message_id] = None
                if len(self._ids) > MAX_HANDLED:
                    self._ids.popitem(last=False)
                self._changed.notify_all()


class Receiver(BaseHTTPRequestHandler):
    handled = Handled()

    def do_POST(self) -> None:
        body = self.rfile.read(min(int(self.headers.get("Content-Length", "0")), MAX_BODY_BYTES))
        try:
            verify(
                self.headers,  # type: ignore[arg-type]
                body,
                secret=os.environ["WEBHOOK_SECRET"],
                auth_key=os.environ.get("WEBHOOK_AUTH_KEY"),
                now=time.time(),
            )
        except NotGenuine as error:
            print(f"refused: {error}", flush=True)
            self._respond(401)
            return
        try:
            self.handled.once(self.headers["webhook-id"], lambda: handle(json.loads(body)))
        except Exception:  # noqa: BLE001 - any defect of `handle` gets a response, so that the event comes again
            traceback.print_exc()
            self._respond(500)
            return
        self._respond(204)

    def _respond(self, status: int) -> None:
        self.send_response(status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing: `handle` prints what matters."""


def handle(event: dict[str, Any]) -> None:
    """Do something with the event. Long work belongs into a queue of your own: the engine waits 15 s."""
    match event.get("type"):
        case None:  # the result of a task
            print(f"task {event['user_task_id']}: {event['status']}", event.get("result", ""), flush=True)
        case "worker.status":
            print(f"worker {event['workerId']}: {event['status']}", flush=True)
        case "webhook.test":
            print(f"test: {event['message']}", flush=True)
        case other:  # of a later version of the engine
            print(f"ignored: {other}", flush=True)


def main() -> None:
    if not os.environ.get("WEBHOOK_SECRET"):
        sys.exit("WEBHOOK_SECRET is required: the endpoint's signing secret, whsec_…")
    port = int(os.environ.get("PORT", "9000"))
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), Receiver)
    except OSError as error:
        sys.exit(f"cannot listen on 127.0.0.1:{port}: {error.strerror}")
    server.serve_forever()


if __name__ == "__main__":
    main()
