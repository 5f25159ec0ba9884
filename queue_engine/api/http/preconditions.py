"""`ETag` and `If-Match` (RFC 9110): a change that is made only to the state that the client has read.

    GET   →  ETag: "12"
    PATCH If-Match: "12"  →  200 with ETag: "13", or 412 if another request has changed the object since

The tag is the version of the object, in quotes. A proxy that compresses responses marks tags as weak (`W/"12"`). A weak
tag is accepted too, because the version in it is the same, and changes behind such a proxy would all fail otherwise.
"""

from __future__ import annotations

import re

from starlette.requests import Request

from queue_engine.api.http.operations import in_header
from queue_engine.api.http.responses import Headers
from queue_engine.domain.errors import InvalidRequest

_TAG = r'(?:W/)?"([\x21\x23-\x7e\x80-\xff]*)"'
_LIST = re.compile(rf"[ \t]*{_TAG}[ \t]*(?:,[ \t]*{_TAG}[ \t]*)*")
_VERSION = re.compile("[1-9][0-9]{0,15}")
RULE = "must be the ETag of a response, in double quotes, several separated by commas, or *"
IF_MATCH = in_header(
    "If-Match", "Make the change only if the `ETag` of the object is still this one; else 412", {"type": "string"}
)


def etag(version: int) -> Headers:
    """Return the header that names the version of the object in a response."""
    return ((b"etag", b'"%d"' % version),)


def versions_in(request: Request) -> frozenset[int] | None:
    """Return the versions that `If-Match` names. None means any version. Raises InvalidRequest.

    A tag that is none of this API names no version, so that it never matches.
    """
    given = ",".join(request.headers.getlist("if-match"))
    if "if-match" not in request.headers or given.strip() == "*":
        return None
    if _LIST.fullmatch(given) is None:
        raise InvalidRequest("If-Match", RULE)
    return frozenset(int(tag) for tag in re.findall(_TAG, given) if _VERSION.fullmatch(tag))
