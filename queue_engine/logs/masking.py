"""Turn lines into plain text in which secrets are masked."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

MIN_VALUE_CHARACTERS = 6
"""Minimum length of a masked value of an endpoint's variable: `true` and `8000` are in many lines, and not secret."""
MIN_OWN_SECRET_CHARACTERS = 4
"""The same for secrets of the engine. It is lower, because these are certainly secrets."""
MASK = "***"

# ECMA-48: control sequences; strings up to their terminator; other escape sequences; also in their one-byte form.
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[PX\]^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]+[0-~]"
    r"|\x1b[0-OQ-WYZ\\`-~]"
)
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")


def cleaned(line: bytes) -> str:
    """Return the line as plain text.

    Escape sequences are removed. Control characters except the tab become `\\x07`, and invalid UTF-8 becomes `\ufffd`.
    """
    text = line.decode("utf-8", "replace")
    if text.isprintable():
        return text
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", _ESCAPES.sub("", text))


class Secrets:
    """Values that must not be in a log, with the encoded forms in which they are commonly printed.

    `values` are those of the endpoint's variables, `own` the engine's secrets. A value with several lines is masked
    line by line. `longest` is the number of characters of the longest form.
    """

    def __init__(self, values: Iterable[str], own: Iterable[str] = ()) -> None:
        forms = {form for value in values for form in _forms(value, MIN_VALUE_CHARACTERS)}
        forms |= {form for secret in own for form in _forms(secret, MIN_OWN_SECRET_CHARACTERS)}
        self._forms = sorted(forms, key=lambda form: (-len(form), form))
        self.longest = len(self._forms[0]) if self._forms else 0

    def masked(self, text: str) -> str:
        """Return `text` with `***` in place of every secret. Overlapping secrets are replaced together."""
        spans = sorted((at, at + len(form)) for form in self._forms for at in _places(form, text))
        if not spans:
            return text
        parts, end = [], 0
        for first, after in spans:
            if first >= end:
                parts += [text[end:first], MASK]
            end = max(end, after)
        return "".join([*parts, text[end:]])


def _forms(value: str, minimum: int) -> Iterable[str]:
    """Yield the forms of a value, without those shorter than `minimum` characters, which would match everywhere."""
    texts = {value, *(line.strip() for line in re.split(r"[\r\n]+", value))}
    for text in texts:
        if len(text) >= minimum and not text.isspace():
            yield from (form for form in _printed(text) if len(form) >= minimum)
    if len(value) >= minimum:
        yield from (form for form in _base64_forms(value.encode("utf-8", "surrogateescape")) if len(form) >= minimum)


def _base64_forms(value: bytes) -> Iterable[str]:
    """Yield the value in base64, alone and as part of a longer text, such as `user:<value>` of Basic credentials.

    Base64 encodes 3 bytes as 4 characters, so the characters depend on the offset of the value modulo 3. For each of
    the three offsets, the characters that depend only on the value are yielded.
    """
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        yield encode(value).decode().rstrip("=")
        for before in range(3):
            determined = (before + len(value)) * 8 // 6
            yield encode(bytes(before) + value).decode()[(before * 8 + 5) // 6 : determined]


def _printed(text: str) -> Iterable[str]:
    plain = cleaned(text.encode("utf-8", "surrogateescape"))
    yield from (plain, repr(text)[1:-1], json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1])
    yield from (quote(text, safe="", errors="replace"), quote(text, errors="replace"))
    yield quote_plus(text, errors="replace")


def _places(form: str, text: str) -> Iterable[int]:
    at = text.find(form)
    while at >= 0:
        yield at
        at = text.find(form, at + 1)
