"""A head is rewritten the same way however it is cut."""

import pytest

from queue_engine.api.http.request_pieces import HeadLines

HEAD = (
    b"POST / HTTP/1.1\r\nHost: x\r\nX-A: upgrade: h2c\r\nUpGrade: \t h2c \r\nX-B: Upgrade\r\n"
    b"Transfer-Encoding: chunked \t\r\nUpgrade: h2c2\r\nupgrade:H2C\r\n\r\n"
)
UNDERSTOOD = (
    b"POST / HTTP/1.1\r\nHost: x\r\nX-A: upgrade: h2c\r\nUpGrade-Ignored: \t h2c \r\nX-B: Upgrade\r\n"
    b"Transfer-Encoding: chunked\r\nUpgrade: h2c2\r\nupgrade-Ignored:H2C\r\n\r\n"
)
FIRST = HEAD.index(b"\n") + 1


def _taken(*parts: bytes) -> bytes:
    lines = HeadLines()
    return b"".join(lines.take(part) for part in parts)


@pytest.mark.parametrize("cut", range(FIRST, len(HEAD)))
def test_a_head_in_two_parts_is_rewritten_as_a_whole_one(cut: int) -> None:
    assert _taken(HEAD) == UNDERSTOOD
    assert _taken(HEAD[:cut], HEAD[cut:]) == UNDERSTOOD


def test_a_head_that_comes_byte_by_byte_is_rewritten_as_a_whole_one() -> None:
    assert _taken(HEAD[:FIRST], *(HEAD[index : index + 1] for index in range(FIRST, len(HEAD)))) == UNDERSTOOD


def test_a_line_without_end_is_not_held() -> None:
    lines = HeadLines()
    lines.take(HEAD[:FIRST])
    assert sum(len(lines.take(b"Upgrade:" + b" " * 16)) for _ in range(100)) > 2000
