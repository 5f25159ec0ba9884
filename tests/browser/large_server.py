"""A container that responds with a picture of 3 MiB, or to the path /text with a text of 2 MiB."""

import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 12 * 1024
TEXT = "<b>é</b>\n" * 200_000


class LargeHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        is_text = self.path == "/text"
        body = TEXT.encode() if is_text else PICTURE
        self.send_response(200)
        self.send_header("Content-Type", "text/html" if is_text else "image/png")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), LargeHandler).serve_forever()
