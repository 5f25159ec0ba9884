"""The HTTP server of `/metrics` for processes that have no other web server."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import urlsplit

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

log = logging.getLogger(__name__)

Page = Callable[[], bytes]
"""Function that returns metrics in the Prometheus text format. It is called from several threads at the same time."""
MAX_REQUESTS = 32
"""Maximum number of requests that are served at the same time. Further connections are closed."""
POLL_SECONDS = 3600.0
"""Time between two looks for a call of the server's `shutdown`, which nothing makes. By default there are two a second,
which was most of what an idle process did."""
REQUEST_SECONDS = 10.0
"""Timeout for receiving a request, and for sending the response."""


def own_metrics(registry: CollectorRegistry) -> dict[str, Page]:
    """Return the page `/metrics` with the metrics of `registry`."""
    return {"/metrics": lambda: generate_latest(registry)}


class PageServer(Protocol):
    """A server of pages."""

    def wait_until_idle(self, seconds: float) -> bool:
        """Wait until no request is in progress. Return False if one still is after this time. Blocks the thread."""
        ...


def serve_pages(listener: socket.socket, pages: Mapping[str, Page]) -> PageServer:
    """Serve these pages on a listening TCP or Unix socket, from threads that end with the process."""
    server = _Server(listener, pages)
    threading.Thread(target=server.serve_forever, args=(POLL_SECONDS,), name="metrics", daemon=True).start()
    return server


def port_of(listener: socket.socket) -> int | None:
    """Return the TCP port of a listening socket; None for a Unix socket."""
    if listener.family == socket.AF_UNIX:
        return None
    port: int = listener.getsockname()[1]
    return port


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, listener: socket.socket, pages: Mapping[str, Page]) -> None:
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.pages = pages
        self._in_progress = 0
        self._changed = threading.Condition()

    def wait_until_idle(self, seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._in_progress == 0, seconds)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._begin():
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._changed:
                self._in_progress -= 1
                self._changed.notify_all()

    def _begin(self) -> bool:
        """Count a request; return False if as many as allowed are in progress."""
        with self._changed:
            if self._in_progress == MAX_REQUESTS:
                return False
            self._in_progress += 1
            return True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Do not log clients that disconnect or send data that is not HTTP."""


class _Handler(BaseHTTPRequestHandler):
    timeout = REQUEST_SECONDS
    server: _Server

    def setup(self) -> None:
        super().setup()
        # Needed because `timeout` limits only a single read, so a slow client could keep its connection for hours.
        self._deadline = threading.Timer(REQUEST_SECONDS, self._give_up)
        self._deadline.daemon = True
        self._deadline.start()

    def finish(self) -> None:
        self._deadline.cancel()
        super().finish()

    def parse_request(self) -> bool:
        is_valid = super().parse_request()
        self._deadline.cancel()
        return is_valid

    def _give_up(self) -> None:
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        page = self.server.pages.get(urlsplit(self.path).path)
        if page is None:
            self.send_error(404)
            return
        try:
            body = page()
        except Exception:
            log.exception("a metrics page cannot be generated")
            self.send_error(500)
            return
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE_LATEST)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Do not log requests."""
