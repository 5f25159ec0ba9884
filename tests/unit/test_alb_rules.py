"""Paths and headers that the proxy passes on to a worker, and headers that it passes back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queue_engine.api.proxy.rules import (
    Caller,
    asks_for_websocket,
    check_path,
    declared_length,
    headers_for_client,
    headers_for_worker,
    request_id_of,
    split_target,
)
from queue_engine.domain.errors import InvalidRequest

CALLER = Caller("192.0.2.1", "http", b"api.example", "id-1")
OURS = {
    "x-forwarded-for": "192.0.2.1",
    "x-forwarded-proto": "http",
    "x-forwarded-host": "api.example",
    "x-request-id": "id-1",
}


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"/e/1/", ("1", b"/")),
        (b"/e/12/a%2Fb//c", ("12", b"/a%2Fb//c")),
        (b"/e/1%2F2/a", ("1%2F2", b"/a")),
        (b"/e/1//", ("1", b"//")),
        (b"/e/1", ("1", b"/")),
        (b"/e/1%2Fa", ("1%2Fa", b"/")),
        (b"/e/", None),
        (b"/e//", None),
        (b"/e//a", None),
        (b"/%65/1/a", None),
        (b"/x/1/a", None),
    ],
)
def test_the_target_is_split_as_it_came(raw: bytes, expected: tuple[str, bytes] | None) -> None:
    assert split_target(raw) == expected


@pytest.mark.parametrize(
    "path", [b"/", b"//", b"/a.b/..c/c../...", b"/a;..", b"/%2e%2e%2e", b"/a%252e%252e/b", b"/a%20b"]
)
def test_paths_that_stay_where_they_are_pass(path: bytes) -> None:
    check_path(path)


@pytest.mark.parametrize(
    "path",
    [
        b"/..",
        b"/.",
        b"/a/../b",
        b"/%2e%2E/",
        b"/.%2e",
        b"/..%2Fa",
        b"/a%5C..",
        b"/..;a/b",
        b"/%2e%2e%3Ba",
        b"/\xc3\xbc",
    ],
)
def test_paths_that_may_become_others_are_refused(path: bytes) -> None:
    with pytest.raises(InvalidRequest):
        check_path(path)


def test_headers_of_the_hop_and_of_who_asks_do_not_go_on() -> None:
    given_headers = [
        (b"connection", b"close, X-One ,x-two"),
        (b"x-one", b"1"),
        (b"x-two", b"2"),
        (b"x-three", b"3"),
        (b"transfer-encoding", b"chunked"),
        (b"te", b"trailers"),
        (b"trailer", b"x"),
        (b"upgrade", b"h2c"),
        (b"upgrade-ignored", b"h2c"),
        (b"keep-alive", b"1"),
        (b"proxy-anything", b"1"),
        (b"proxy", b"http://evil.example/"),
        (b"host", b"api.example"),
        (b"expect", b"100-continue"),
        (b"authorization", b"Bearer key"),
        (b"x-api-key", b"key"),
        (b"x_api_key", b"key"),
        (b"x-forwarded-for", b"6.6.6.6"),
        (b"x-forwarded-prefix", b"/"),
        (b"x_forwarded_host", b"evil"),
        (b"forwarded", b"for=6.6.6.6"),
        (b"x-request-id", b"theirs"),
        (b"x_request_id", b"theirs"),
        (b"via", b"1.1 cdn"),
        (b"cf-connecting-ip", b"6.6.6.6"),
        (b"true_client_ip", b"6.6.6.6"),
        (b"fastly-client-ip", b"6.6.6.6"),
        (b"x-envoy-original-path", b"/admin"),
        (b"x-original-url", b"/admin"),
        (b"x_rewrite_url", b"/admin"),
        (b"x-http-method-override", b"DELETE"),
        (b"x_http_method", b"DELETE"),
        (b"transfer-encoding", b"chunked"),
    ]
    assert dict(headers_for_worker(given_headers, CALLER)) == {"x-three": "3", **OURS}


@pytest.mark.parametrize("name", [b"transfer_encoding", b"content_length", b"content.length"])
def test_a_look_alike_of_a_framing_name_is_refused(name: bytes) -> None:
    with pytest.raises(InvalidRequest, match=name.decode()):
        headers_for_worker([(name, b"1")], CALLER)


def test_what_connection_names_is_dropped_in_every_spelling() -> None:
    given_headers = [(b"connection", b"x_one, X-Two"), (b"x_one", b"1"), (b"x-one", b"1"), (b"x_two", b"2")]
    assert dict(headers_for_worker(given_headers, CALLER)) == OURS


def test_headers_of_a_body_and_of_tracing_and_identity_go_on() -> None:
    kept = {
        b"content-type": b"text/plain",
        b"content-encoding": b"gzip",
        b"content-range": b"bytes 0-1/2",
        b"x-amzn-trace-id": b"Root=1",
        b"cf-access-jwt-assertion": b"x",
        b"cdn-loop": b"cdn",
        b"webhook-id": b"msg_1",
    }
    sent = dict(headers_for_worker(list(kept.items()), CALLER))
    assert sent == {name.decode(): value.decode() for name, value in kept.items()} | OURS


@pytest.mark.parametrize(
    ("headers", "length"),
    [
        ([], 0),
        ([(b"content-length", b"0")], 0),
        ([(b"content-length", b"7")], 7),
        ([(b"transfer-encoding", b"chunked")], None),
    ],
)
def test_the_length_of_the_body_is_said_when_it_is_known(
    headers: list[tuple[bytes, bytes]], length: int | None
) -> None:
    assert declared_length(headers) == length
    said = [value for name, value in headers_for_worker(headers, CALLER) if name == "content-length"]
    assert said == ([str(length)] if length else [])


NAMES = st.sampled_from(
    [b"accept", b"x-a", b"x-b", b"cookie", b"connection", b"te", b"x-forwarded-for", b"authorization"]
)
VALUES = st.sampled_from([b"", b"1", b"x-a", b"x-a, close", "grü".encode()])


@given(st.lists(st.tuples(NAMES, VALUES), max_size=12))
def test_what_goes_on_is_what_came_in_order_and_ours_once(headers: list[tuple[bytes, bytes]]) -> None:
    sent = headers_for_worker(headers, CALLER)
    named = {one.strip() for name, value in headers if name == b"connection" for one in value.split(b",")}
    kept = [
        (name.decode(), value.decode())
        for name, value in headers
        if name in (b"accept", b"x-a", b"x-b", b"cookie") and name not in named
    ]
    assert sent == [*kept, *OURS.items()]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([(b"x-request-id", b"abc-1")], "abc-1"),
        ([(b"x-request-id", b"a"), (b"x-request-id", b"b")], None),
        ([(b"x-request-id", b"a b")], None),
        ([(b"x-request-id", b"")], None),
        ([(b"x-request-id", b"x" * 129)], None),
        ([(b"x-request-id", b"\xff")], None),
        ([], None),
    ],
)
def test_a_request_id_is_kept_when_it_can_be(headers: list[tuple[bytes, bytes]], expected: str | None) -> None:
    assert request_id_of(headers) == expected


@pytest.mark.parametrize(
    ("status", "headers", "length"),
    [
        (200, [(b"Content-Length", b"5")], b"5"),
        (200, [(b"Content-Length", b"5"), (b"content-length", b"5")], b"5"),
        (200, [(b"Content-Length", b"5"), (b"content-length", b"6")], None),
        (200, [(b"Content-Length", b"+5")], None),
        (200, [(b"Content-Length", b"5"), (b"Transfer-Encoding", b"chunked")], None),
        (204, [(b"Content-Length", b"0")], None),
        (304, [(b"Content-Length", b"5")], None),
    ],
)
def test_the_length_of_a_response_is_named_when_it_matters(
    status: int, headers: list[tuple[bytes, bytes]], length: bytes | None
) -> None:
    kept = headers_for_client(status, headers, "id-1")
    assert kept is not None
    assert dict(kept) == ({b"content-length": length} if length else {}) | {b"x-request-id": b"id-1"}


def test_a_responses_own_request_id_stays() -> None:
    assert headers_for_client(200, [(b"X-Request-Id", b"own")], "id-1") == [(b"X-Request-Id", b"own")]


@pytest.mark.parametrize(
    "header", [(b"a b", b""), (b"", b""), (b"a:", b""), (b"a", b"x\ry"), (b"a", b"\x00"), (b"\xff", b"")]
)
def test_a_response_with_an_invalid_header_is_no_response(header: tuple[bytes, bytes]) -> None:
    assert headers_for_client(200, [header], "id-1") is None


def test_only_websocket_is_a_reason_to_refuse_an_upgrade() -> None:
    assert asks_for_websocket([(b"upgrade", b"WebSocket")])
    assert asks_for_websocket([(b"upgrade", b"h2c, websocket")])
    assert not asks_for_websocket([(b"upgrade", b"h2c")])
