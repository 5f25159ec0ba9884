"""A registry of one image for tests, over plain HTTP with a password."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

USERNAME, PASSWORD = "reader", "canary-42af"
REPOSITORY, TAG = "team/shell", "1"
_MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"


class ImageRegistry:
    """Serves the files of a tar archive as the image `127.0.0.1:<port>/team/shell:1`.

    While `layer_may_go` is not set, the response with the layer has a beginning and no end.
    """

    def __init__(self, port: int, archive: Path) -> None:
        files = archive.read_bytes()
        self._layer = gzip.compress(files, compresslevel=1)
        config = {
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [_digest(files)]},
        }  # fmt: skip
        self._config = json.dumps(config).encode()
        blobs = [("config", "application/vnd.docker.container.image.v1+json", self._config)]
        blobs.append(("layer", "application/vnd.docker.image.rootfs.diff.tar.gzip", self._layer))
        described = [{"mediaType": kind, "size": len(data), "digest": _digest(data)} for _, kind, data in blobs]
        manifest = {"schemaVersion": 2, "mediaType": _MANIFEST_TYPE, "config": described[0], "layers": described[1:]}
        self._manifest = json.dumps(manifest).encode()
        self.blobs = {_digest(data): data for _, _, data in blobs}
        self.layer_may_go = threading.Event()
        self.layer_may_go.set()
        self.layer_was_asked = threading.Event()
        self.name = f"127.0.0.1:{port}/{REPOSITORY}:{TAG}"
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._server.daemon_threads = True

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.layer_may_go.set()
        self._server.shutdown()
        self._server.server_close()

    def response(self, path: str) -> tuple[str, bytes] | None:
        """Return the type and the body for a path; None if there is nothing."""
        if path in ("/v2/", "/v2"):
            return "application/json", b"{}"
        place, _, version = path.removeprefix(f"/v2/{REPOSITORY}/").partition("/")
        if place == "manifests" and version in (TAG, _digest(self._manifest)):
            return _MANIFEST_TYPE, self._manifest
        if place == "blobs" and version in self.blobs:
            return "application/octet-stream", self.blobs[version]
        return None

    def is_layer(self, body: bytes) -> bool:
        """Return True for the body that has the files."""
        return body is self._layer

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        registry = self
        expected = "Basic " + base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if self.headers.get("Authorization") != expected:
                    self._send(401, "application/json", b'{"errors": [{"code": "UNAUTHORIZED"}]}')
                    return
                found = registry.response(self.path.partition("?")[0])
                if found is None:
                    self._send(404, "application/json", b'{"errors": [{"code": "MANIFEST_UNKNOWN"}]}')
                else:
                    self._send(200, *found)

            do_HEAD = do_GET  # noqa: N815 - the name that the server calls

            def _send(self, status: int, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                if kind == _MANIFEST_TYPE:
                    self.send_header("Docker-Content-Digest", _digest(body))
                if status == 401:
                    self.send_header("WWW-Authenticate", 'Basic realm="test"')
                self.end_headers()
                if self.command == "HEAD":
                    return
                if registry.is_layer(body):
                    registry.layer_was_asked.set()
                    self.wfile.write(body[:1000])
                    self.wfile.flush()
                    registry.layer_may_go.wait()
                    body = body[1000:]
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Write nothing."""

        return Handler


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
