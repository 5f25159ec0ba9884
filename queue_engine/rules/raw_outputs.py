"""The bytes of a container's response, from the JSON text that `outputs` made of them, in pieces.

| output | bytes | media type |
| --- | --- | --- |
| `{"contentType", "base64"}`, as `outputs` writes it | the decoded ones | its own, unless a browser may run it |
| a string | the text in UTF-8 | `text/plain` |
| any other | the JSON text | `application/json` |
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

import orjson

from queue_engine.rules.outputs import MAX_CONTENT_TYPE_LENGTH

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
BINARY = "application/octet-stream"

_SLICE = 64 * 1024
"""Number of bytes that are decoded at once, which takes at most some 2 ms."""
# No text matches two of the alternatives: else a hostile output would take time that doubles with each of its escapes.
_BEGIN = re.compile(
    rb'\{"contentType": ("(?:[^"\\]|\\u[0-9a-f]{4}|\\[^u]){1,%d}"), "base64": "' % MAX_CONTENT_TYPE_LENGTH
)
_END = b'"}'
_BASE64 = re.compile(rb"[A-Za-z0-9+/]*={0,2}")
_SURROGATE = re.compile("[\ud800-\udfff]")
_SPACE = b" \t\n\r"
"""White space of JSON."""
HEAD_BYTES = len(b'{"contentType": "", "base64": ""}') + 6 * MAX_CONTENT_TYPE_LENGTH
"""Number of bytes at the beginning of an output that show its form. A character may be an escape of six bytes."""
TAIL_BYTES = 16
"""Number of bytes at its end that do. A string with more white space behind it stays JSON."""

# Whole characters and escapes. The escape of a high surrogate is whole when the next character or escape is there too.
_WHOLE = re.compile(
    rb"(?:[^\\]+|\\[^u]|\\u(?![dD][89abAB])[0-9a-fA-F]{4}"
    rb"|\\u[dD][89abAB][0-9a-fA-F]{2}(?:(?=[^\\]|\\u[dD][89abAB])|\\(?:[^u]|u(?![dD][89abAB])[0-9a-fA-F]{4})))*"
)

_SAFE_TYPE = re.compile(
    r"(?:image|audio|video|font)/(?!svg|.*xml)[a-z0-9][a-z0-9.+_-]{0,126}"
    r"|application/(?:gzip|msgpack|x-msgpack|x-npy|x-npz|x-tar|zip|zstd|cbor|x-protobuf|vnd\.apache\.parquet)"
)
"""Media types that no browser runs as a page, a script or a program."""
_SUFFIXES = {
    JSON: "json", TEXT: "txt", "image/png": "png", "image/jpeg": "jpg", "image/gif": "gif", "image/webp": "webp",
    "audio/mpeg": "mp3", "audio/wav": "wav", "audio/x-wav": "wav", "audio/ogg": "ogg", "audio/flac": "flac",
    "video/mp4": "mp4", "video/webm": "webm", "application/zip": "zip", "application/gzip": "gz",
    "application/x-tar": "tar", "application/x-npy": "npy",
}  # fmt: skip


class Form(Enum):
    """The form of an output."""

    JSON = auto()
    TEXT = auto()
    BASE64 = auto()


@dataclass(frozen=True)
class RawForm:
    """How the bytes are in the JSON text."""

    form: Form
    media_type: str
    start: int
    """Place in the JSON text at which the bytes begin, and `end` at which they end."""
    end: int
    size: int | None
    """Number of bytes; None for a text, which must be decoded to know it."""

    @property
    def suffix(self) -> str:
        """The ending of a file with these bytes."""
        return _SUFFIXES.get(self.media_type, "bin")


def raw_form(head: bytes, tail: bytes, size: int) -> RawForm:
    """Return the form of an output with `size` bytes, by its first and its last bytes, which may be all of them.

    There must be HEAD_BYTES or more of the first and TAIL_BYTES or more of the last ones, or all of them.
    """
    begun_at, kept = len(head) - len(head.lstrip(_SPACE)), tail.rstrip(_SPACE)
    if head[begun_at : begun_at + 1] == b'"' and kept.endswith(b'"'):
        return RawForm(Form.TEXT, TEXT, begun_at + 1, size - (len(tail) - len(kept)) - 1, None)
    begin = _BEGIN.match(head)
    if begin is not None and tail.endswith(_END) and (own := _text_in(begin[1])) is not None:
        start, end = begin.end(), size - len(_END)
        begun, ended = head[start:end], tail[: -len(_END)][-4:]
        padding = ended.count(b"=")
        if end > start and (end - start) % 4 == 0 and is_base64(begun) and is_base64(ended):
            media_type = own.lower() if _SAFE_TYPE.fullmatch(own.lower()) else BINARY
            return RawForm(Form.BASE64, media_type, start, end, (end - start) // 4 * 3 - padding)
    return whole_json(size)


def whole_json(size: int) -> RawForm:
    """Return the form of JSON text that is sent as it is."""
    return RawForm(Form.JSON, JSON, 0, size, size)


def is_base64(text: bytes) -> bool:
    """Return True if all bytes are of base64, with padding at the end only."""
    return _BASE64.fullmatch(text) is not None


def _text_in(quoted: bytes) -> str | None:
    """Return the text of a string in JSON; None for one that UTF-8 cannot encode, which `outputs` does not write."""
    try:
        return str(orjson.loads(quoted))
    except ValueError:
        return None


class Decoder:
    """Decodes the JSON text between `start` and `end` of a form, part by part."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self._rest = b""

    def pieces(self, part: bytes, *, is_last: bool) -> Iterator[bytes]:
        """Yield the bytes of the next part. Raises ValueError for text that is not in this form."""
        if self._form is Form.JSON:
            yield part
            return
        slices = range(0, len(part), _SLICE) or range(1)
        for at in slices:
            text = self._rest + part[at : at + _SLICE]
            cut = len(text) if is_last and at == slices[-1] else self._whole(text)
            self._rest = text[cut:]
            if cut:
                yield self._decoded(text[:cut])

    def _whole(self, text: bytes) -> int:
        """Return the length of the beginning that can be decoded alone."""
        if self._form is Form.BASE64:
            return len(text) // 4 * 4
        end = found.end() if (found := _WHOLE.match(text)) else 0
        return end - _incomplete(text[max(0, end - 3) : end])

    def _decoded(self, text: bytes) -> bytes:
        if self._form is Form.BASE64:
            return binascii.a2b_base64(text, strict_mode=True)
        quoted = b'"%b"' % text
        try:
            return str(orjson.loads(quoted)).encode()
        except ValueError:  # an escaped surrogate without its other half, which UTF-8 cannot encode
            return _SURROGATE.sub("\ufffd", str(json.loads(quoted))).encode()


def _incomplete(tail: bytes) -> int:
    """Return the number of bytes at the end that are an incomplete character of UTF-8."""
    for back in range(1, len(tail) + 1):
        byte = tail[-back]
        if byte & 0xC0 != 0x80:
            length = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return back if length > back else 0
    return 0
