"""The files of the console, read once: a request finds a file in a table, and never by a path on the disk."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from starlette.types import Scope, Send

from queue_engine.api.http.headers import named
from queue_engine.api.http.responses import Headers

STATIC = Path(__file__).parent / "static"
PAGE = "index.html"
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""Content-Security-Policy of the console. It allows no inline script, no inline style and no other host."""
_FEATURES = ("accelerometer", "camera", "display-capture", "geolocation", "gyroscope", "magnetometer", "microphone")
_OTHER_FEATURES = ("midi", "payment", "publickey-credentials-get", "screen-wake-lock", "usb", "xr-spatial-tracking")
SECURITY: Headers = (
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
    (b"permissions-policy", ", ".join(f"{name}=()" for name in (*_FEATURES, *_OTHER_FEATURES)).encode()),
)
_PREFIX = b"{{prefix}}"
"""In the page: the path before `/console`, behind a proxy that removes it."""
_PAYLOADS = b"{{payloads}}"
_TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".svg": b"image/svg+xml",
}


@dataclass(frozen=True)
class File:
    """A file as it is sent. Its name contains a hash of its text, except that of the page."""

    text: bytes
    packed: bytes | None
    """The text compressed with gzip; None if the file is sent uncompressed only."""
    media_type: bytes
    cache_control: bytes

    async def send(self, scope: Scope, send: Send) -> None:
        """Send the file, compressed if the client accepts that."""
        packed = self.packed if _accepts_gzip(scope) else None
        body = self.text if packed is None else packed
        encoding: Headers = () if packed is None else ((b"content-encoding", b"gzip"),)
        headers = [
            (b"content-type", self.media_type),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", self.cache_control),
            (b"vary", b"Accept-Encoding"),
            (b"x-content-type-options", b"nosniff"),
            *encoding,
            *SECURITY,
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@dataclass(frozen=True)
class Files:
    """The page, and the files that it loads, by their names."""

    page: File
    by_name: dict[str, File]

    @classmethod
    def read(cls, prefix: str, payloads: str = "show", directory: Path = STATIC) -> Files:
        """Read the files. `prefix` is the path before `/console` in URLs, `payloads` the setting `console_payloads`."""
        found = {
            path.name: File(
                path.read_bytes(), _packed(path), _TYPES[path.suffix], b"public, max-age=31536000, immutable"
            )
            for path in sorted(directory.iterdir())
            if path.suffix in _TYPES
        }
        page = found.pop(PAGE)
        text = page.text.replace(_PREFIX, prefix.encode()).replace(_PAYLOADS, payloads.encode())
        return cls(replace(page, text=text, packed=None, cache_control=b"no-cache"), found)


def _packed(path: Path) -> bytes | None:
    packed = path.with_name(f"{path.name}.gz")
    return packed.read_bytes() if packed.exists() else None


def _accepts_gzip(scope: Scope) -> bool:
    accepted = named(scope).get(b"accept-encoding", b"").decode("latin-1").lower()
    words = [word.strip() for word in accepted.split(",")]
    return any(word == "gzip" or (word.startswith("gzip;") and not _is_zero(word)) for word in words)


def _is_zero(word: str) -> bool:
    _, _, quality = word.replace(" ", "").partition(";q=")
    return quality.rstrip("0") in ("", "0.", "0") and quality != ""
