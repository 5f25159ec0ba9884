"""A worker in plain Python: a ready path, cancellation, and no second computation for a repeated task.

| request | response |
| --- | --- |
| `GET /ready` | 503 while the model is loaded, then 200: the endpoint's `readyPath` |
| `POST /run` | `{"text": "hi", "seconds": 2}` becomes `{"text": "HI"}` after that time |
| `POST /cancel` | `{"taskId": …}` stops that task: the endpoint's `cancelUri` |

Standard library only. Listens on 127.0.0.1:$PORT (8000).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MAX_BODY_BYTES = 1024 * 1024
MAX_RUNS = 1000
"""Results that are kept for repeats. A service of several workers keeps them in a database."""


class Run:
    """A task: runs until `ended` is set. `output` stays None when it was cancelled."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.ended = threading.Event()
        self.output: dict[str, Any] | None = None


class Runs:
    """Runs by task id. A task that comes again gets the result of its first run, also while that still runs."""

    def __init__(self) -> None:
        self._runs: OrderedDict[str, Run] = OrderedDict()
        self._lock = threading.Lock()

    def run(self, task_id: str, text: str, seconds: float) -> dict[str, Any] | None:
        """Return the output of the task; None when it was cancelled."""
        with self._lock:
            run = self._runs.get(task_id)
            is_first = run is None
            if run is None:
                run = self._runs[task_id] = Run()
                while len(self._runs) > MAX_RUNS:
                    self._runs.popitem(last=False)
        if is_first:
            self._execute(task_id, run, text, seconds)
        run.ended.wait()
        return run.output

    def cancel(self, task_id: str) -> None:
        """Stop the task if it runs here."""
        with self._lock:
            run = self._runs.get(task_id)
        if run is not None:
            run.cancelled.set()

    def _execute(self, task_id: str, run: Run, text: str, seconds: float) -> None:
        try:
            # In place of a real computation, which would look at `cancelled` between its steps.
            if not run.cancelled.wait(seconds):
                run.output = {"text": text.upper()}
        finally:
            if run.output is None:
                with self._lock:
                    self._runs.pop(task_id, None)  # so that a later attempt computes it
            run.ended.set()


class Worker(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes: the second must not wait for the first one's ack
    timeout = 60
    runs = Runs()
    loaded = threading.Event()

    def do_GET(self) -> None:
        if self.path == "/ready":
            self._respond(200 if self.loaded.is_set() else 503, {"loaded": self.loaded.is_set()})
        else:
            self._respond(404, {"error": "no such path"})

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        if length > MAX_BODY_BYTES:
            self.close_connection = True
            self._respond(413, {"error": f"the body must be at most {MAX_BODY_BYTES} bytes"})
            return
        body = self.rfile.read(length)
        if self.path == "/run":
            self._run(body)
        elif self.path == "/cancel":
            self.runs.cancel(json.loads(body)["taskId"])
            self._respond(200, {})
        else:
            self._respond(404, {"error": "no such path"})

    def _run(self, body: bytes) -> None:
        try:
            given = json.loads(body)
            text, seconds = str(given["text"]), float(given.get("seconds", 0))
        except (ValueError, KeyError, TypeError, AttributeError):
            self._respond(400, {"error": "input: must be an object with text, and seconds if any"})
            return
        output = self.runs.run(self.headers["X-Task-Id"], text, seconds)
        if output is None:
            self._respond(409, {"error": "cancelled"})
        else:
            self._respond(200, output)

    def _respond(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def load_model() -> None:
    """Stand for the minutes in which a real model is read into memory."""
    Worker.loaded.set()


def main() -> None:
    # The first process of a container ignores SIGTERM unless it handles it, so that only SIGKILL would end it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    threading.Thread(target=load_model, daemon=True).start()
    ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "8000"))), Worker).serve_forever()


if __name__ == "__main__":
    main()
