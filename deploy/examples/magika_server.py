"""A worker with a real model: Magika tells the type of a file by deep learning (PyPI `magika`, model included).

`POST /identify` with {"name": "logo.png", "content": "<base64>"} returns {"name", "type", "group", "mime", "score"}.
Listens on $HOST (127.0.0.1) and $PORT (8000) once the model is loaded; the model uses $THREADS threads (1) on the CPU.
"""

from __future__ import annotations

import base64
import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import onnxruntime  # type: ignore[import-untyped]
from magika import Magika

MAX_BODY_BYTES = 8 * 1024 * 1024


class BadInput(ValueError):
    """The input is invalid. The message names the field and the rule."""


class FileTypes:
    """The model. Safe to use from several threads."""

    def __init__(self, threads: int) -> None:
        self._model = _BoundedMagika(threads)

    def identify(self, body: bytes) -> dict[str, Any]:
        """Return the output for the JSON text of a request. Raises BadInput."""
        name, content = _parsed(body)
        result = self._model.identify_bytes(content)
        found = result.output
        return {
            "name": name,
            "type": str(found.label),
            "group": found.group,
            "mime": found.mime_type,
            "score": round(result.score, 4),
        }


class _BoundedMagika(Magika):
    """Magika has no setting for the number of threads: each worker would take all cores."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        super().__init__()

    def _init_onnx_session(self) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        return onnxruntime.InferenceSession(self._model_path, options, providers=["CPUExecutionProvider"])


def _parsed(body: bytes) -> tuple[str, bytes]:
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        raise BadInput("the body must be JSON") from None
    if not isinstance(given, dict):
        raise BadInput("the body must be a JSON object")
    for field in ("name", "content"):
        if not isinstance(given.get(field), str):
            raise BadInput(f"{field}: must be a string")
    try:
        return given["name"], base64.b64decode(given["content"], validate=True)
    except ValueError:
        raise BadInput("content: must be base64") from None


class IdentifyHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept
    disable_nagle_algorithm = True  # headers and body are two writes: the second must not wait for the first one's ack
    timeout = 60  # seconds a connection may be silent
    types: FileTypes

    def do_POST(self) -> None:
        body = self._body()
        if body is None:
            return
        if self.path != "/identify":
            self._answer(404, {"error": "only POST /identify is served here"})
            return
        try:
            self._answer(200, self.types.identify(body))
        except BadInput as error:
            self._answer(400, {"error": str(error)})

    def _body(self) -> bytes | None:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            self._refuse(411, "needs a Content-Length")
            return None
        if int(length) > MAX_BODY_BYTES:
            self._refuse(413, "the body is too large")
            return None
        return self.rfile.read(int(length))

    def _refuse(self, status: int, reason: str) -> None:
        """Respond without reading the body, and close the connection, because the unread body makes it unusable."""
        self.close_connection = True
        self._answer(status, {"error": reason})

    def _answer(self, status: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    request_queue_size = 128


def main() -> None:
    address = (os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", "8000")))
    # Before listening: a worker counts as running as soon as its port accepts connections.
    IdentifyHandler.types = FileTypes(int(os.environ.get("THREADS", "1")))
    with Server(address, IdentifyHandler) as server:
        print(f"file types on {address[0]}:{server.server_port}", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopped", flush=True)


if __name__ == "__main__":
    main()
