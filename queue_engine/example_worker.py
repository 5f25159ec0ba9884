"""A worker to try the engine with: `python -m queue_engine.example_worker`. The web console offers it for a first task.

| input | response |
| --- | --- |
| `{"prompt": "hello"}` | `{"echo": {"prompt": "hello"}, "seconds": 0.0}` |
| `{"seconds": 3}` | the same after three seconds, with a log line each second |
| `{"fail": "no model"}` | 500 with this text |
| `{"status": 503}` | this HTTP status |
| `{"exit": true}` | none: the worker ends, as if it had crashed |

Standard library only. Listens on 127.0.0.1:$PORT (8000).
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_SECONDS = 3600.0
EXIT_STATUS = 70
_NEVER = threading.Event()


def main() -> None:
    """Serve until the process is ended."""
    port = int(os.environ.get("PORT", "8000"))
    with ThreadingHTTPServer(("127.0.0.1", port), Worker) as server:
        server.daemon_threads = True
        say(f"example worker listens on port {port}")
        server.serve_forever()


class Worker(BaseHTTPRequestHandler):
    """Responds to each POST with what its input asks for."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 60

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            self.close_connection = True
            self._respond(413, b'"the body is too large, or has no length"')
            return
        body = self.rfile.read(int(length))
        task = self.headers.get("X-Task-Id", "?")
        try:
            # Numbers stay text, because the input goes back as it came.
            asked = json.loads(body, parse_int=str, parse_float=str)
        except (ValueError, RecursionError):
            self._respond(400, b'"the input is not JSON"')
            return
        self._run(task, asked if isinstance(asked, dict) else {}, body)

    def _run(self, task: str, asked: dict[str, Any], body: bytes) -> None:
        say(f"task {task} begins")
        began = time.monotonic()
        _wait(task, _seconds_in(asked))
        if asked.get("exit") is True:
            say(f"task {task} asks this worker to exit")
            sys.stdout.flush()
            os._exit(EXIT_STATUS)
        status, text = _status_in(asked), asked.get("fail")
        if text is not None or status != 200:
            say(f"task {task} fails as asked")
            self._respond(status if status != 200 else 500, json.dumps({"error": text or "as asked"}).encode())
            return
        self._respond(200, b'{"echo": ' + body + b', "seconds": %.3f}' % (time.monotonic() - began))
        say(f"task {task} done after {time.monotonic() - began:.3f} s")

    def _respond(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in the base class
        """Log no request: each task has its own lines."""


def say(text: str) -> None:
    """Write a line to the log."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _wait(task: str, seconds: float) -> None:
    """Wait, and write a line each second."""
    ends = time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0:
        say(f"task {task}: {left:.0f} s left")
        _NEVER.wait(min(1.0, left))


def _seconds_in(asked: dict[str, Any]) -> float:
    try:
        return min(MAX_SECONDS, max(0.0, float(asked.get("seconds", 0))))
    except (TypeError, ValueError):
        return 0.0


def _status_in(asked: dict[str, Any]) -> int:
    try:
        status = int(asked.get("status", 200))
    except (TypeError, ValueError):
        return 200
    return status if 200 <= status <= 599 else 200


if __name__ == "__main__":
    main()
