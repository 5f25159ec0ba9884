"""A worker that responds to every POST with the request: its JSON body, its path and the headers about the task.

Standard library only. Listens on $HOST (127.0.0.1) and $PORT (8000).
"""

from __future__ import annotations

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MAX_BODY_BYTES = 8 * 1024 * 1024
SECRET_WORDS = ("auth", "key", "secret", "token")


class EchoHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept
    disable_nagle_algorithm = True  # headers and body are two writes: the second must not wait for the first one's ack
    timeout = 60  # seconds a connection may be silent

    def do_POST(self) -> None:
        body = self._body()
        if body is None:
            return
        if not _is_json(body):
            self._answer(400, b'{"error": "the body must be JSON"}')
            return
        told = {name: value for name, value in self.headers.items() if _is_of_interest(name.lower())}
        about = json.dumps({"path": self.path, "headers": told})
        # The body goes back as the bytes that came: parsing and printing would cost big numbers their digits.
        self._answer(200, about[:-1].encode() + b', "input": ' + body + b"}")

    def _body(self) -> bytes | None:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            self._refuse(411, b'{"error": "needs a Content-Length"}')
            return None
        if int(length) > MAX_BODY_BYTES:
            self._refuse(413, b'{"error": "the body is too large"}')
            return None
        return self.rfile.read(int(length))

    def _refuse(self, status: int, body: bytes) -> None:
        """Respond without reading the body, and close the connection, because the unread body makes it unusable."""
        self.close_connection = True
        self._answer(status, body)

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)


def _is_json(body: bytes) -> bool:
    try:
        # Numbers stay text: Python refuses to read integers of more than 4300 digits.
        json.loads(body.decode(), parse_int=str, parse_float=str, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _is_of_interest(name: str) -> bool:
    """Return True for a header to show. Responses are stored, so headers that may hold a secret are left out."""
    if name in ("content-type", "traceparent"):
        return True
    return name.startswith("x-") and not any(word in name for word in SECRET_WORDS)


class Server(ThreadingHTTPServer):
    request_queue_size = 128


def main() -> None:
    address = (os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", "8000")))
    with Server(address, EchoHandler) as server:
        print(f"echo server on {address[0]}:{server.server_port}", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopped", flush=True)


if __name__ == "__main__":
    main()
