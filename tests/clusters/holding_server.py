"""A container that responds to tasks once the file /tmp/go exists, so that a test decides how long they run.

python -m tests.clusters.holding_server
"""

import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

GO = "/tmp/go"
PAUSE_SECONDS = 0.1


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        while not os.path.exists(GO):
            threading.Event().wait(PAUSE_SECONDS)
        body = b'{"text": "its own"}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Write nothing."""


if __name__ == "__main__":
    ThreadingHTTPServer(("0.0.0.0", 8000), Handler).serve_forever()
