"""A container of an ALB endpoint. Listens on $PORT.

The response to `/who` is its process id, to `/drip?pieces=3&pause=0.1` a line at a time, to `/zeros?bytes=9` that
number of bytes, and to any other path an empty body. The response to a POST is the number of bytes in its body.
"""

import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

PIECE = 1024 * 1024


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        target = urlsplit(self.path)
        wanted = {name: float(values[0]) for name, values in parse_qs(target.query).items()}
        if target.path == "/drip":
            self._drip(wanted)
        elif target.path == "/zeros":
            self._zeros(int(wanted["bytes"]))
        else:
            self._answer(str(os.getpid()).encode() if target.path == "/who" else b"")

    def do_POST(self) -> None:
        left = length = int(self.headers["Content-Length"])
        while left:
            left -= len(self.rfile.read(min(left, PIECE)))
        self._answer(str(length).encode())

    def _zeros(self, count: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(count))
        self.end_headers()
        for _ in range(count // PIECE):
            self.wfile.write(bytes(PIECE))

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _drip(self, wanted: dict[str, float]) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(int(wanted["pieces"])):
            piece = b"piece %d\n" % number
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            threading.Event().wait(wanted["pause"])
        self.wfile.write(b"0\r\n\r\n")


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
