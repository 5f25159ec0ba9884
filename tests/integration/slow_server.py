"""A container that takes a while over every task. Listens on $PORT.

Its first argument says how long: that many seconds, or until something is written to the named pipe at that path; 1.5
seconds without one. Its second one is a file to which it appends a line for each task that it has received.
"""

import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HOW_LONG = sys.argv[1] if len(sys.argv) > 1 else "1.5"
RECEIVED = Path(sys.argv[2]) if len(sys.argv) > 2 else None


def note_task() -> None:
    if RECEIVED is not None:
        with RECEIVED.open("a", encoding="utf-8") as received:
            received.write("task\n")


def work() -> None:
    pipe = Path(HOW_LONG)
    if pipe.is_fifo():
        pipe.read_bytes()
    else:
        threading.Event().wait(float(HOW_LONG))


class SlowHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        note_task()
        work()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), SlowHandler).serve_forever()
