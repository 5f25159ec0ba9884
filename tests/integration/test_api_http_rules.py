"""The rules of HTTP/1.1 for request lines, hosts and codings: what two servers may read differently is refused."""

import json
from collections.abc import AsyncIterator

import pytest

from tests.api_server import TASK, RunningApi, running_api
from tests.integration.raw_http import Connection, Received

BODY = json.dumps(TASK).encode()
CHUNKED_BODY = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)


@pytest.fixture
async def api(valkey_url: str) -> AsyncIterator[RunningApi]:
    async with running_api(valkey_url) as running:
        await running.create_endpoint()
        yield running


async def _sent(api: RunningApi, request: bytes) -> Received:
    """The response to `request` on a connection of its own, which must be closed after an error."""
    connection = await Connection.to(api)
    try:
        await connection.send(request)
        received = await connection.answer()
        if received.status >= 400:
            assert (received.told["code"], received.told["data"]) == (10001, None), request
            assert await connection.is_closed()
        return received
    finally:
        connection.close()


def _head(api: RunningApi, *lines: str, line: str = "POST /v2/serverless/1/tasks HTTP/1.1", host: str = "x") -> bytes:
    common = (f"Host: {host}", f"X-Api-Key: {api.key}", "Content-Type: application/json")
    return "\r\n".join((line, *common, *lines, "", "")).encode("latin-1")


async def _tasks(api: RunningApi) -> int:
    return (await api.store.tasks.counts("1")).total


MALFORMED = {
    "no version": b"GET {path}\r\n{common}\r\n",
    "a version without a slash": b"GET {path} HTTP1.1\r\n{common}\r\n",
    "a version in lower case": b"GET {path} http/1.1\r\n{common}\r\n",
    "two spaces before the target": b"GET  {path} HTTP/1.1\r\n{common}\r\n",
    "two spaces after the target": b"GET {path}  HTTP/1.1\r\n{common}\r\n",
    "a space at the end of the request line": b"GET {path} HTTP/1.1 \r\n{common}\r\n",
    "a tab in the request line": b"GET\t{path} HTTP/1.1\r\n{common}\r\n",
    "a fragment": b"GET {path}#x HTTP/1.1\r\n{common}\r\n",
    "a relative target": b"GET v2 HTTP/1.1\r\n{common}\r\n",
    "a target of another host": b"GET http://y{path} HTTP/1.1\r\n{common}\r\n",
    "a target with another port": b"GET http://x:81{path} HTTP/1.1\r\n{common}\r\n",
    "a target with user info": b"GET http://u@x{path} HTTP/1.1\r\n{common}\r\n",
    "a target with another scheme": b"GET ftp://x{path} HTTP/1.1\r\n{common}\r\n",
    "no host": b"GET {path} HTTP/1.1\r\nX-Api-Key: x\r\n\r\n",
    "a host in another header": b"GET {path} HTTP/1.1\r\nX-Host: x\r\n\r\n",
    "two hosts": b"GET {path} HTTP/1.1\r\n{common}Host: x\r\n\r\n",
    "two hosts in HTTP/1.0": b"GET {path} HTTP/1.0\r\n{common}host: y\r\n\r\n",
    "a coding before chunked": b"POST {path} HTTP/1.1\r\n{common}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": b"POST {path} HTTP/1.1\r\n{common}Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunked in two headers": b"POST {path} HTTP/1.1\r\n{common}Transfer-Encoding: chunked\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked but not at the end": b"POST {path} HTTP/1.1\r\n{common}Transfer-Encoding: chunked, gzip\r\n\r\n",
    "chunked with a parameter": b"POST {path} HTTP/1.1\r\n{common}Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
    "chunked with a vertical tab": b"POST {path} HTTP/1.1\r\n{common}Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "chunked in quotes": b'POST {path} HTTP/1.1\r\n{common}Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "no coding": b"POST {path} HTTP/1.1\r\n{common}Transfer-Encoding:\r\n\r\n0\r\n\r\n",
    "the identity": b"POST {path} HTTP/1.1\r\n{common}Transfer-Encoding: identity\r\n\r\n",
    "chunked in HTTP/1.0": b"POST {path} HTTP/1.0\r\n{common}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an empty length": b"POST {path} HTTP/1.1\r\n{common}Content-Length:\r\n\r\n",
    "a list of lengths": b"POST {path} HTTP/1.1\r\n{common}Content-Length: 5, 5\r\n\r\nabcde",
    "a length in hexadecimal": b"POST {path} HTTP/1.1\r\n{common}Content-Length: 0x5\r\n\r\nabcde",
    "the same length twice": b"POST {path} HTTP/1.1\r\n{common}Content-Length: 5\r\nContent-Length: 5\r\n\r\nabcde",
    "an empty line that ends in a bare newline": b"GET {path} HTTP/1.1\r\n{common}\n",
    "a bare carriage return": b"GET {path} HTTP/1.1\r\n{common}A: b\rC: d\r\n\r\n",
    "a first header that is folded": b"GET {path} HTTP/1.1\r\n Host: x\r\n{common}\r\n",
    "a folded coding": b"POST {path} HTTP/1.1\r\n{common}Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "a chunk size with a sign": b"POST {path} HTTP/1.1\r\n{common}Transfer-Encoding: chunked\r\n\r\n+5\r\nabcde\r\n",
    "a chunk size in 0x": b"POST {path} HTTP/1.1\r\n{common}Transfer-Encoding: chunked\r\n\r\n0x5\r\nabcde\r\n",
    "a chunk line that ends in a bare newline": b"POST {path} HTTP/1.1\r\n{common}Transfer-Encoding: chunked\r\n\r\n"
    b"5\nabcde\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("names", [sorted(MALFORMED)[number::4] for number in range(4)])
async def test_requests_that_servers_may_read_differently_are_refused(api: RunningApi, names: list[str]) -> None:
    common = f"Host: x\r\nX-Api-Key: {api.key}\r\nContent-Type: application/json\r\n".encode()
    for name in names:
        request = MALFORMED[name].replace(b"{path}", b"/v2/serverless/1/tasks").replace(b"{common}", common)
        assert (await _sent(api, request)).status == 400, name
    assert await _tasks(api) == 0


BAD_HOSTS = [
    *("", "a b", "a,b", "a, b", "u@x", "u:p@x", "x/y", "x?y", "x#y", "x:0", "x:65536", "x:-1", "x:80x", "x:8 0"),
    *("x:80:80", "[::1", "::1", "[::g]", "[]", "[1.2.3.4]", "[fe80::1%eth0]", "[fe80::1%25eth0]", "[::1]x"),
    *("x%20y", "\xfc", "http://x", "x\\y", '"x"', "<x>", "x;y", "a" * 256),
]
GOOD_HOSTS = [
    *("x", "X.Example", "my_service:8000", "a.b.", "127.0.0.1", "127.0.0.1:1", "x:65535", "x:", "[::1]"),
    *("[::1]:8000", "[2001:DB8::1]", "[::ffff:1.2.3.4]:80", "\t x \t"),
]


async def test_a_malformed_host_is_refused(api: RunningApi) -> None:
    for host in BAD_HOSTS:
        for version in ("1.1", "1.0"):
            received = await _sent(api, _head(api, line=f"GET /healthz HTTP/{version}", host=host))
            assert received.status == 400, host
            assert received.told["message"].startswith("Host: ")


async def test_a_valid_host_passes(api: RunningApi) -> None:
    for host in GOOD_HOSTS:
        assert (await _sent(api, _head(api, line="GET /healthz HTTP/1.1", host=host))).status == 200, host


async def test_a_target_with_a_host_must_name_the_same_one(api: RunningApi) -> None:
    for target, host in (("http://x", "x"), ("HTTP://X:80", "x"), ("http://x", "x:80"), ("http://[::1]:8", "[0::1]:8")):
        line = f"GET {target}/healthz HTTP/1.1"
        assert (await _sent(api, _head(api, line=line, host=host))).status == 200
        assert (await _sent(api, _head(api, line=line, host="y"))).status == 400


async def test_http_1_0_needs_no_host(api: RunningApi) -> None:
    for host in (b"", b"Host: x\r\n"):
        assert (await _sent(api, b"GET /healthz HTTP/1.0\r\n" + host + b"\r\n")).status == 200


async def test_another_version_is_505(api: RunningApi) -> None:
    for line in ("GET / HTTP/2.0", "PRI * HTTP/2.0", "GET / HTTP/3.0", "GET / HTTP/9.9", "GET / HTTP/0.9"):
        assert (await _sent(api, _head(api, line=line))).status == 505, line


async def test_an_unknown_coding_is_501(api: RunningApi) -> None:
    for coding in ("xchunked", "br", "br, chunked", "x, gzip, chunked"):
        assert (await _sent(api, _head(api, f"Transfer-Encoding: {coding}") + b"0\r\n\r\n")).status == 501, coding
    assert await _tasks(api) == 0


async def test_chunked_is_taken_in_any_case_and_with_space_around(api: RunningApi) -> None:
    codings = ("chunked", "Chunked", "CHUNKED", " \tchunked\t ", "chunked\t")
    for coding in codings:
        assert (await _sent(api, _head(api, f"Transfer-Encoding:{coding}") + CHUNKED_BODY)).status == 200, coding
    assert await _tasks(api) == len(codings)


async def test_the_rules_hold_for_every_request_of_a_connection(api: RunningApi) -> None:
    sound = [
        _head(api, "Transfer-Encoding: chunked") + CHUNKED_BODY,
        _head(api, "Transfer-Encoding: chunked") + CHUNKED_BODY[:-2] + b"X-Trailer: y\r\n\r\n",
        _head(api, f"Content-Length: {len(BODY)}") + BODY,
        _head(api, line="GET /healthz HTTP/1.1"),
    ]
    for first in sound:
        for cut in (1, 3, 1 << 20):
            connection = await Connection.to(api)
            data = first + b"\r\n" + _head(api, line="GET  /healthz HTTP/1.1")
            for start in range(0, len(data), cut):
                await connection.send(data[start : start + cut])
            assert (await connection.answer()).status == 200
            if not await connection.is_closed():  # it is, unless the first response was complete by then
                assert (await connection.rest()).startswith(b"TTP/1.1 400 ")
            connection.close()


async def test_requests_after_a_chunked_one_get_responses_in_order(api: RunningApi) -> None:
    bodies = [json.dumps(TASK | {"taskId": f"t{index}"}).encode() for index in range(10)]
    chunked = [b"%x\r\n%b\r\n6\r\n\r\n\r\n\r\n\r\n0\r\n\r\n" % (len(body), body) for body in bodies]
    connection = await Connection.to(api)
    await connection.send(b"".join(_head(api, "Transfer-Encoding: chunked") + body for body in chunked))
    answers = [await connection.answer() for _ in bodies]
    assert [one.told["data"]["taskId"] for one in answers] == [f"t{index}" for index in range(10)]
    connection.close()
