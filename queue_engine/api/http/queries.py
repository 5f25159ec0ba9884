"""Strict query parameters: a given value must be valid, and a name that is probably mistyped is refused.

Other unknown names are ignored, as the contract of the API requires it: see `mistyped.py`.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TypeVar
from urllib.parse import parse_qsl

from starlette.requests import Request

from queue_engine.api.http.mistyped import first_mistyped
from queue_engine.domain.errors import InvalidRequest

MAX_PARAMETERS = 100

_INTEGER = re.compile(r"[0-9]{1,18}")

E = TypeVar("E", bound=StrEnum)


class Query:
    """The query parameters of one request.

    Raises InvalidRequest for a name that probably means one that the operation declares: a filter that is ignored would
    match everything, and a page would be the first.
    """

    def __init__(self, request: Request) -> None:
        text = request.scope["query_string"].decode("latin-1")
        try:
            self._pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
        except ValueError:
            raise InvalidRequest("query", f"must have at most {MAX_PARAMETERS} parameters") from None
        declared: frozenset[str] = getattr(request.scope.get("route"), "query_names", frozenset())
        unknown = dict.fromkeys(name for name, _ in self._pairs if name not in declared)
        if unknown and declared and (found := first_mistyped(unknown, declared)) is not None:
            name, meant = found
            raise InvalidRequest(shown_name(name), f"is not a parameter of this request; did you mean {meant}?")

    @property
    def names(self) -> frozenset[str]:
        """The names of the given parameters."""
        return frozenset(name for name, _ in self._pairs)

    def one(self, name: str) -> str | None:
        """Return the parameter's value; None when it is not given. Raises InvalidRequest when it is given twice."""
        values = [value for key, value in self._pairs if key == name]
        if len(values) > 1:
            raise InvalidRequest(name, "must be given once")
        return values[0] if values else None

    def integer(self, name: str, *, default: int, maximum: int, minimum: int = 1) -> int:
        """Return a decimal integer from `minimum` to `maximum`."""
        text = self.one(name)
        if text is None:
            return default
        if _INTEGER.fullmatch(text) is None or not minimum <= int(text) <= maximum:
            raise InvalidRequest(name, f"must be an integer from {minimum} to {maximum}")
        return int(text)

    def choice(self, name: str, kind: type[E]) -> E | None:
        """Return a word of `kind`, given in any case; None when the parameter is not given."""
        text = self.one(name)
        return None if text is None else _choice(name, text, kind)

    def choices(self, name: str, kind: type[E]) -> frozenset[E]:
        """Return words of `kind`, in any case, repeated or separated by commas. Empty without the parameter."""
        words = [word for key, value in self._pairs if key == name for word in value.split(",")]
        return frozenset(_choice(name, word, kind) for word in words)


def shown_name(name: str) -> str:
    """Return a name from a client for a message, cut and escaped."""
    return ascii(name[:64])[1:-1]


def _choice(name: str, text: str, kind: type[E]) -> E:
    found = {word.lower(): word for word in kind}.get(text.strip(" ").lower())
    if found is None:
        raise InvalidRequest(name, f"must be one of {', '.join(kind)}")
    return found
