"""The head of an HTTP/1.1 request."""

from __future__ import annotations

from collections.abc import Iterable


def post_head(target: str, headers: Iterable[tuple[str, str]], length: int) -> bytes:
    """Return the request line and the headers of a POST with a body of `length` bytes.

    `target` is the path and the query. Raises ValueError if one of them would end its line early.
    """
    lines = [
        f"POST {target} HTTP/1.1",
        *[f"{name}: {value}" for name, value in headers],
        f"Content-Length: {length}\r\n\r\n",
    ]
    text = "\r\n".join(lines)
    ends = len(lines) + 1
    if text.count("\n") != ends or text.count("\r") != ends or "\0" in text or " " in target:
        raise ValueError("a line break, a NUL or a space in the path of a request")
    return text.encode()
