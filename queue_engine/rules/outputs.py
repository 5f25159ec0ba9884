"""The body of a container's response as a task's output, and as an excerpt in an error.

| body | output |
| --- | --- |
| empty | `null` |
| of a JSON media type (or none), and JSON by RFC 8259 | the JSON value, to the byte when it is JSON in UTF-8 |
| of a text media type, in the character set that it declares, or in UTF-8 | a string |
| any other | `{"contentType", "base64"}` |

A JSON body is only checked and kept as bytes; no objects are built from it.
"""

from __future__ import annotations

import base64
import codecs
import re

import orjson

from queue_engine.rules.charsets import codec_of, decoded
from queue_engine.rules.strict_json import is_json

MAX_CONTENT_TYPE_LENGTH = 1024

_SLICE = 3 * 16 * 1024
"""Number of bytes written at once. Other threads can run between slices. A multiple of 3, for base64."""

_PARAMETER = re.compile(r';\s*([^\s=;"]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;]*)')
_ESCAPED = re.compile(r"\\(.)")

_TEXT_SUFFIXES = ("+json", "+xml", "+yaml", "+json-seq")
_TEXT_NAMES = (
    "ecmascript", "graphql", "javascript", "typescript", "sql", "sparql-query", "sparql-update",
    "csh", "httpd-php", "perl", "powershell", "python", "ruby", "sh", "shellscript",
    "toml", "xml", "xml-dtd", "yaml", "edn", "json5", "jsonc", "hjson",
    "json-lines", "json-seq", "json-stream", "jsonl", "jsonlines", "ldjson", "ndjson",
    "csv", "tsv", "n-quads", "n-triples", "trig", "turtle", "www-form-urlencoded",
    "ass", "srt", "ssa", "subrip", "ttml", "vtt", "vnd.apple.mpegurl", "mpegurl", "sdp",
    "bibtex", "latex", "markdown", "rst", "tex",
    "pem-certificate-chain", "pem-file", "pgp-encrypted", "pgp-keys", "pgp-signature",
)  # fmt: skip
"""Names below `application/`, each also with `x-` before it. PGP's types are text only with ASCII armor; other PGP
bodies are not in their character set and so become base64.
"""
_TEXT_TYPES = frozenset(f"application/{prefix}{name}" for name in _TEXT_NAMES for prefix in ("", "x-")) | {
    "audio/mpegurl", "audio/x-mpegurl", "model/mtl", "model/obj", "chemical/x-cif", "chemical/x-pdb", "chemical/x-xyz",
}  # fmt: skip
_JSON_TYPES = frozenset({"", "application/json", "application/x-json", "text/json", "text/x-json"})


def output_of(content_type: str, body: bytes | bytearray) -> bytes | bytearray:
    """Return the JSON text that is recorded as a task's `output` for this body: a JSON body itself, without a copy."""
    if not body:
        return b"null"
    media_type, codec = read_content_type(content_type)
    # RFC 8259 has no charset parameter: frameworks that declare one for all responses still write JSON in UTF-8.
    unmarked = body[len(codecs.BOM_UTF8) :] if body.startswith(codecs.BOM_UTF8) else body
    if _may_be_json(media_type) and is_json(unmarked):
        return unmarked
    body = bytes(body)
    if codec is not None and _is_text(media_type):
        output = _text_output(media_type, codec, body)
        if output is not None:
            return output
    shown_type = media_type.encode("ascii", "replace").decode() or "application/octet-stream"
    slices = (body[at : at + _SLICE] for at in range(0, len(body), _SLICE))
    return b'{"contentType": %b, "base64": "%b"}' % (
        orjson.dumps(shown_type),
        b"".join(map(base64.b64encode, slices)),
    )


def text_of(content_type: str, body: bytes) -> str:
    """Return the text of an error's body, which may be cut. Bytes that cannot be decoded are replaced."""
    _, codec = read_content_type(content_type)
    return decoded(body, codec or "utf-8", errors="replace") or ""


def read_content_type(content_type: str) -> tuple[str, str | None]:
    """Return the media type in lower case, and Python's codec for its character set.

    The codec is UTF-8 when no character set or an empty one is declared, and None for an unknown one.
    """
    media_type, _, _ = content_type.partition(";")
    media_type = media_type.strip().lower()[:MAX_CONTENT_TYPE_LENGTH]
    for name, value in _PARAMETER.findall(content_type[:MAX_CONTENT_TYPE_LENGTH]):
        if name.lower() == "charset":
            label = _ESCAPED.sub(r"\1", value[1:-1]) if value[:1] == '"' else value
            return media_type, codec_of(label) if label.strip() else "utf-8"
    return media_type, "utf-8"


def _may_be_json(media_type: str) -> bool:
    return media_type in _JSON_TYPES or media_type.endswith("+json")


def _is_text(media_type: str) -> bool:
    return (
        media_type in _JSON_TYPES
        or media_type in _TEXT_TYPES
        or media_type.startswith("text/")
        or media_type.endswith(_TEXT_SUFFIXES)
    )


def _text_output(media_type: str, codec: str, body: bytes) -> bytes | None:
    """Return the body as JSON text; None if it is not in `codec`."""
    text = decoded(body, codec)
    if text is None or (not media_type and "\x00" in text):
        return None
    if _may_be_json(media_type) and is_json(recoded := text.encode()):
        return recoded
    slices = (text[at : at + _SLICE] for at in range(0, len(text), _SLICE))
    return b'"%b"' % b"".join(orjson.dumps(part)[1:-1] for part in slices)
