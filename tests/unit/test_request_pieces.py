"""Cutting reads into pieces: no piece goes beyond the end of a request, however the reads fall."""

from hypothesis import given
from hypothesis import strategies as st

from queue_engine.api.http.request_pieces import EMPTY_LINE, Cutter

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n"
BODY = b"a\r\n\r\n\r\nbc"
CHUNKED = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n\r\n\r\n\r\n\r\n0\r\nX: y\r\n\r\n"


def cut(stream: list[bytes], sizes: list[int]) -> list[bytes]:
    """The pieces of the requests in `stream`, received in reads of these sizes and then all the rest."""
    cutter, data, pieces = Cutter(), b"".join(stream), []
    for size in [*sizes, len(data)]:
        read, data = data[:size], data[size:]
        start = 0
        while start < len(read):
            end = cutter.end_of_piece(read, start)
            assert end > start
            pieces.append(read[start:end])
            start = end
            if b"".join(pieces).endswith(POST):
                cutter.body_left = len(BODY)
    return pieces


@given(
    st.lists(st.sampled_from([[GET], [POST, BODY], [CHUNKED], [b"\r\n", GET]]), max_size=5),
    st.lists(st.integers(1, 40)),
)
def test_every_request_ends_where_a_piece_ends(requests: list[list[bytes]], sizes: list[int]) -> None:
    pieces = cut([part for request in requests for part in request], sizes)
    stream = b"".join(part for request in requests for part in request)
    assert b"".join(pieces) == stream
    ends, at = {0}, 0
    for piece in pieces:
        at += len(piece)
        ends.add(at)
    end = 0
    for request in requests:
        end += len(b"".join(request))
        assert end in ends


def test_a_read_may_be_taken_whole() -> None:
    data = GET + GET
    cutter = Cutter()
    assert cutter.end_of_piece(data, 0, whole=True) == len(data)
    assert data.count(EMPTY_LINE) == 2
