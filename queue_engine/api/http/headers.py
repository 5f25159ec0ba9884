"""Look up headers of a request."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import Scope

_NAMED = "queue_engine.headers"


def named(scope: Scope) -> Mapping[bytes, bytes]:
    """Return the headers by their names in lower case; of a repeated header the last.

    Made once for a request, because each search through the list takes longer than that.
    """
    found: Mapping[bytes, bytes] | None = scope.get(_NAMED)
    if found is None:
        found = scope[_NAMED] = dict(scope["headers"])
    return found
