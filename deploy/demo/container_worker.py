"""The demo's server in a container, where no model is installed: it names the type of a file by the file's name."""

import json
import mimetypes
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes: the second must not wait for the first one's ack

    def do_POST(self) -> None:  # the name that http.server looks for
        name = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["name"]
        output = json.dumps({"name": name, "type": mimetypes.guess_type(name)[0] or "unknown"}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(output)))
        self.end_headers()
        self.wfile.write(output)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
