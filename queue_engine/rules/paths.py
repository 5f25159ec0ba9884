"""The path on a container to which a task is posted.

The grammar is narrower than RFC 3986: it excludes everything that a server, a proxy or a framework might decode, cut
off or resolve to another path.
"""

from __future__ import annotations

import re

MAX_PROCESS_URI_CHARACTERS = 255

_PATH = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@/-]*")


def normalize_process_uri(text: str) -> str:
    """Return `text` with a leading slash. Raises ValueError with the broken rule as its text.

    A trailing slash is kept, because for many servers `/a/` and `/a` are two paths, and one of them only redirects. A
    segment may contain `;parameters`. Some servers cut them off first, so `..;x` counts as `..`.
    """
    if not 1 <= len(text) <= MAX_PROCESS_URI_CHARACTERS:
        raise ValueError(f"must be 1–{MAX_PROCESS_URI_CHARACTERS} characters")
    if _PATH.fullmatch(text) is None:
        raise ValueError("must be a path of letters, digits and any of -._~!$&'()*+,;=:@/")
    path = text if text.startswith("/") else "/" + text
    if path == "/":
        return path
    for segment in path[1:].removesuffix("/").split("/"):
        name = segment.partition(";")[0]
        if not name:
            raise ValueError("must not have an empty segment")
        if name in (".", ".."):
            raise ValueError("must not have a segment . or ..")
    return path
