"""HTTP itself, byte by byte: what is slow, too large or malformed is answered or closed, and stores nothing."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest
import uvloop

from queue_engine.api.http.protocol import MAX_HEAD_BYTES, MAX_IGNORED_BYTES
from queue_engine.api.http.server import listen
from tests.api_server import ENDPOINT, TASK, RunningApi, running_api
from tests.integration.raw_http import Connection
from tests.waiting import wait_until_async

PATIENCE_SECONDS = 1.0
BODY = json.dumps(TASK).encode()


@pytest.fixture
async def api(valkey_url: str) -> AsyncIterator[RunningApi]:
    async with running_api(valkey_url, max_body_bytes=100_000) as running:
        yield running


@pytest.fixture
async def connection(api: RunningApi) -> AsyncIterator[Connection]:
    made = await Connection.to(api)
    yield made
    made.close()


@pytest.fixture
async def hasty_api(valkey_url: str) -> AsyncIterator[RunningApi]:
    """For clients that are slow on purpose; an ordinary client may be slower than that on a machine under load."""
    async with running_api(valkey_url, read_timeout_seconds=PATIENCE_SECONDS) as running:
        yield running


@pytest.fixture
async def hasty_connection(hasty_api: RunningApi) -> AsyncIterator[Connection]:
    made = await Connection.to(hasty_api)
    yield made
    made.close()


def _head(api: RunningApi, *lines: str, path: str = "/v2/serverless/1/tasks", method: str = "POST") -> bytes:
    common = ("Host: x", f"X-Api-Key: {api.key}", "Content-Type: application/json")
    return "\r\n".join((f"{method} {path} HTTP/1.1", *common, *lines, "", "")).encode("latin-1")


async def _tasks(api: RunningApi) -> int:
    return (await api.store.tasks.counts("1")).total


# Slow


async def test_a_connection_that_says_nothing_is_closed(hasty_connection: Connection) -> None:
    assert await hasty_connection.is_closed()


@pytest.mark.parametrize("start", [b"G", b"GET / HTT", b"GET / HTTP/1.1\r\nHost: x\r\nX-", b"\r\n\r\n"])
async def test_a_head_that_is_never_complete_gets_a_response_or_is_closed(
    hasty_connection: Connection, start: bytes
) -> None:
    await hasty_connection.send(start)
    if start.strip():
        received = await hasty_connection.answer()
        assert (received.status, received.told["code"]) == (400, 10001)
        assert received.told["message"] == "headers: did not arrive in time"
    assert await hasty_connection.is_closed()


async def test_a_head_that_drips_is_cut_off(hasty_connection: Connection) -> None:
    async def drip() -> None:
        await hasty_connection.send(b"GET /healthz HTTP/1.1\r\nX-Slow: ")
        while True:
            await hasty_connection.send(b"a")
            await asyncio.sleep(PATIENCE_SECONDS / 10)

    dripping = asyncio.create_task(drip())
    assert (await hasty_connection.answer()).status == 400
    dripping.cancel()


async def test_blank_lines_between_requests_do_not_keep_a_connection(
    hasty_api: RunningApi, hasty_connection: Connection
) -> None:
    await hasty_connection.send(_head(hasty_api, path="/healthz", method="GET"))
    assert (await hasty_connection.answer()).status == 200
    await hasty_connection.send(b"\r\n")
    assert await hasty_connection.is_closed()


@pytest.mark.parametrize("lines", [["Content-Length: 50"], ["Transfer-Encoding: chunked"]])
async def test_a_body_that_stops_gets_a_response_and_is_closed(
    hasty_api: RunningApi, hasty_connection: Connection, lines: list[str]
) -> None:
    await hasty_api.create_endpoint()
    await hasty_connection.send(_head(hasty_api, *lines) + (b'{"inp' if "Length" in lines[0] else b'5\r\n{"inp\r\n'))
    received = await hasty_connection.answer()
    assert (received.status, received.told["message"]) == (400, "body: did not arrive in time")
    assert received.headers["connection"] == "close"
    assert await hasty_connection.is_closed()
    assert await _tasks(hasty_api) == 0


async def test_a_body_that_drips_is_cut_off(hasty_api: RunningApi, hasty_connection: Connection) -> None:
    await hasty_api.create_endpoint()

    async def drip() -> None:
        await hasty_connection.send(_head(hasty_api, "Content-Length: 5000"))
        while True:
            await hasty_connection.send(b" ")
            await asyncio.sleep(PATIENCE_SECONDS / 10)

    dripping = asyncio.create_task(drip())
    assert (await hasty_connection.answer()).told["message"] == "body: did not arrive in time"
    dripping.cancel()


async def test_a_body_in_pieces_is_read(api: RunningApi, connection: Connection) -> None:
    await api.create_endpoint()
    await connection.send(_head(api, "Transfer-Encoding: chunked"))
    for index in range(0, len(BODY), 7):
        piece = BODY[index : index + 7]
        await connection.send(b"%x;ext=1\r\n%b\r\n" % (len(piece), piece))
    await connection.send(b"0\r\nX-Api-Key: trailer\r\n\r\n")
    assert (await connection.answer()).status == 200
    assert await _tasks(api) == 1


async def test_a_client_that_leaves_in_the_middle_of_a_body_stores_nothing(api: RunningApi) -> None:
    await api.create_endpoint()
    connection = await Connection.to(api)
    await connection.send(_head(api, f"Content-Length: {len(BODY)}") + BODY[:-1])
    connection.close()

    async def counted() -> bool:
        return 'code="499"' in (await api.client.get("/metrics")).text

    await wait_until_async(counted, message="the request did not end")
    assert await _tasks(api) == 0


# Large


@pytest.mark.parametrize("size", [100_001, 1_000_000_000, 2**63 - 1])
async def test_a_declared_body_that_is_too_large_is_refused_before_it_is_read(
    api: RunningApi, connection: Connection, size: int
) -> None:
    await connection.send(_head(api, f"Content-Length: {size}"))
    received = await connection.answer()
    assert (received.status, received.told["code"]) == (413, 10001)


async def test_a_chunked_body_without_end_is_refused_and_cut_off(api: RunningApi, connection: Connection) -> None:
    await api.create_endpoint()
    await connection.send(_head(api, "Transfer-Encoding: chunked"))
    sent = 0

    async def flood() -> None:
        nonlocal sent
        while True:
            await connection.send(b"10000\r\n" + b" " * 65536 + b"\r\n")
            sent += 65536

    flooding = asyncio.create_task(flood())
    received = await connection.answer()
    assert (received.status, received.told["message"]) == (413, "body: must be at most 100000 bytes")
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        await asyncio.wait_for(flooding, 20)
    assert sent < 4 * MAX_IGNORED_BYTES
    assert await _tasks(api) == 0


async def test_a_client_that_sends_all_before_it_reads_gets_the_response(
    api: RunningApi, connection: Connection
) -> None:
    size = 1_000_000
    await connection.send(_head(api, f"Content-Length: {size}") + b" " * size)
    assert (await connection.answer()).status == 413
    await connection.send(_head(api, path="/healthz", method="GET"))
    assert (await connection.answer()).status == 200


async def test_a_body_at_the_limit_is_taken(api: RunningApi) -> None:
    await api.create_endpoint()
    padding = 100_000 - len(BODY)
    path = "/v2/serverless/1/tasks"
    headers = {"Content-Type": "application/json"}
    assert (await api.client.post(path, content=BODY + b" " * padding, headers=headers)).status_code == 200
    assert (await api.client.post(path, content=BODY + b" " * (padding + 1), headers=headers)).status_code == 413


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: %b\r\n" % (index, b"a" * 90) for index in range(1000)) + b"\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: a\r\n" % index for index in range(20_000)),
    ],
    ids=["path", "one header", "many headers", "headers without end"],
)
async def test_a_head_that_is_too_large_is_refused(connection: Connection, head: bytes) -> None:
    await connection.send(head)
    received = await connection.answer()
    assert (received.status, received.told["code"]) == (431, 10001)
    assert await connection.is_closed()


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\nX: ", b"GET /"], ids=["header", "path"])
async def test_one_header_without_end_is_refused(connection: Connection, start: bytes) -> None:
    await connection.send(start)

    async def flood() -> None:
        while True:  # the buffers of the system take megabytes before the end of the connection is noticed
            await connection.send(b"a" * 16_384)

    flooding = asyncio.create_task(flood())
    assert (await connection.answer()).status == 431
    assert await connection.is_closed()
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        await flooding


async def test_a_head_of_ordinary_size_passes(api: RunningApi, connection: Connection) -> None:
    await connection.send(_head(api, f"X-Long: {'a' * (MAX_HEAD_BYTES - 1000)}", path="/healthz", method="GET"))
    assert (await connection.answer()).status == 200


@pytest.mark.parametrize("around", [b"1;" + b"a" * 16_384, b"0\r\nX: " + b"a" * 16_384], ids=["extension", "trailer"])
async def test_endless_bytes_around_a_body_are_refused(api: RunningApi, connection: Connection, around: bytes) -> None:
    await api.create_endpoint()
    await connection.send(_head(api, "Transfer-Encoding: chunked") + around)

    async def flood() -> None:
        for _ in range(2000):
            await connection.send(b"a" * 16_384)

    flooding = asyncio.create_task(flood())
    assert (await connection.answer()).status in (400, 431)
    assert await connection.is_closed()
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        await flooding
    assert await _tasks(api) == 0


# Malformed


MALFORMED = {
    "both lengths": b"POST {path} HTTP/1.1\r\n{common}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both lengths turned": b"POST {path} HTTP/1.1\r\n{common}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
    "two lengths": b"POST {path} HTTP/1.1\r\n{common}Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    "no number": b"POST {path} HTTP/1.1\r\n{common}Content-Length: five\r\n\r\n",
    "a signed number": b"POST {path} HTTP/1.1\r\n{common}Content-Length: +5\r\n\r\n",
    "a negative number": b"POST {path} HTTP/1.1\r\n{common}Content-Length: -5\r\n\r\n",
    "a huge number": b"POST {path} HTTP/1.1\r\n{common}Content-Length: 99999999999999999999999\r\n\r\n",
    "a bad chunk": b"POST {path} HTTP/1.1\r\n{common}Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a chunk that is too long": b"POST {path} HTTP/1.1\r\n{common}Transfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n",
    "bare newlines": b"GET {path} HTTP/1.1\n{common}\n\n",
    "a folded header": b"GET {path} HTTP/1.1\r\n{common}A: b\r\n c\r\n\r\n",
    "space before a colon": b"GET {path} HTTP/1.1\r\n{common}A : b\r\n\r\n",
    "NUL in a value": b"GET {path} HTTP/1.1\r\n{common}A: \x00b\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "no method": b"HELO {path} HTTP/1.1\r\n\r\n",
    "a path in Latin-1": b"GET /\xe9 HTTP/1.1\r\n{common}\r\n",
    "CONNECT": b"CONNECT 127.0.0.1:80 HTTP/1.1\r\n{common}\r\n",
    "an upgrade with a body": b"POST {path} HTTP/1.1\r\n{common}Connection: Upgrade\r\nUpgrade: other\r\n"
    b"Content-Length: 2\r\n\r\n{}",
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_malformed_requests_get_400_and_are_closed(api: RunningApi, connection: Connection, name: str) -> None:
    await api.create_endpoint()
    common = f"Host: x\r\nX-Api-Key: {api.key}\r\nContent-Type: application/json\r\n".encode()
    request = MALFORMED[name].replace(b"{path}", b"/v2/serverless/1/tasks").replace(b"{common}", common)
    await connection.send(request)
    received = await connection.answer()
    assert (received.status, received.told["code"], received.told["data"]) == (400, 10001, None)
    assert await connection.is_closed()
    assert await _tasks(api) == 0


async def test_an_upgrade_that_is_not_supported_is_ignored(api: RunningApi, connection: Connection) -> None:
    upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x", "Sec-WebSocket-Version: 13")
    await connection.send(_head(api, *upgrade, path="/healthz", method="GET"))
    assert (await connection.answer()).status == 200
    await connection.send(_head(api, path="/healthz", method="GET"))
    assert (await connection.answer()).status == 200


async def test_an_offer_of_http_2_as_javas_client_makes_it_is_ignored(api: RunningApi, connection: Connection) -> None:
    await api.create_endpoint()
    offer = (
        "Connection: Upgrade, HTTP2-Settings",
        f"Content-Length: {len(BODY)}",
        "Upgrade: h2c",
        "HTTP2-Settings: AAEA",
    )
    for count in (1, 2):
        await connection.send(_head(api, *offer) + BODY)
        assert (await connection.answer()).status == 200
        assert await _tasks(api) == count


@pytest.mark.parametrize("line", ["Upgrade: h2c", "upgrade:\tH2C ", "Transfer-Encoding: chunked\t"])
async def test_a_head_that_is_cut_anywhere_is_understood_as_a_whole_one(api: RunningApi, line: str) -> None:
    await api.create_endpoint()
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY) if "chunked" in line else BODY
    length = () if "chunked" in line else (f"Content-Length: {len(BODY)}",)
    request = _head(api, "Connection: Upgrade, HTTP2-Settings", *length, line, "HTTP2-Settings: AAEA") + body
    begins = request.index(line.encode())
    for count, cut in enumerate(range(begins - 2, begins + len(line) + 3), 1):
        connection = await Connection.to(api)
        await connection.send(request[:cut])
        await api.client.get("/healthz")  # the server has read the first part before this is served
        await connection.send(request[cut:])
        assert (await connection.answer()).status == 200, request[:cut][-30:]
        assert await _tasks(api) == count
        connection.close()


async def test_garbage_after_a_request_does_not_destroy_its_response(api: RunningApi, connection: Connection) -> None:
    await api.create_endpoint()
    await connection.send(_head(api, f"Content-Length: {len(BODY)}") + BODY + b"\x00\x01garbage\r\n\r\n")
    received = await connection.answer()
    assert (received.status, received.told["message"]) == (200, "success")
    assert await connection.is_closed()


async def test_requests_sent_at_once_get_responses_in_order(api: RunningApi, connection: Connection) -> None:
    await api.create_endpoint()
    bodies = [json.dumps(TASK | {"taskId": f"t{index}"}).encode() for index in range(20)]
    await connection.send(b"".join(_head(api, f"Content-Length: {len(body)}") + body for body in bodies))
    answers = [await connection.answer() for _ in bodies]
    assert [one.told["data"]["taskId"] for one in answers] == [f"t{index}" for index in range(20)]


async def test_space_around_a_key_is_no_part_of_it(api: RunningApi, connection: Connection) -> None:
    await connection.send(f"GET /v2/serverless HTTP/1.1\r\nHost: x\r\nX-Api-Key: \t {api.key} \t \r\n\r\n".encode())
    assert (await connection.answer()).status == 200


async def test_a_client_is_asked_for_its_body_only_when_it_is_needed(api: RunningApi, connection: Connection) -> None:
    head = b"POST /v2/serverless/1/tasks HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n"
    await connection.send(head)
    assert (await connection.answer()).status == 401
    assert await connection.is_closed()


async def test_a_client_that_waits_to_be_asked_for_its_body_is_asked(api: RunningApi, connection: Connection) -> None:
    await api.create_endpoint()
    await connection.send(_head(api, "Expect: 100-continue", f"Content-Length: {len(BODY)}"))
    assert await connection.line() == "HTTP/1.1 100 Continue"
    await connection.send(BODY)
    assert (await connection.answer()).status == 200


# Routes and methods


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v2", 404, 10001),
        ("GET", "/v2/serverless/1/nothing", 404, 14000),
        ("GET", "/v2/", 404, 10001),
        ("GET", "/v2/serverless//", 404, 14000),
        ("GET", "/v2/serverless/1%2F", 404, 14000),
        ("POST", "/v2/serverless//tasks", 404, 14000),
        ("GET", "/../etc/passwd", 404, 10001),
        ("GET", "/healthz//", 404, 10001),
        ("DELETE", "/v2/serverless/1/tasks", 405, 10001),
        ("POST", "/healthz", 405, 10001),
        ("HEAD", "/v2/serverless/1/start", 405, None),
        ("HEAD", "/nothing", 404, None),
        ("OPTIONS", "/v2/serverless", 405, 10001),
        ("PROPFIND", "/v2/serverless", 405, 10001),
    ],
)
async def test_unknown_paths_and_methods_have_the_same_envelope(
    api: RunningApi, method: str, path: str, status: int, code: int | None
) -> None:
    answer = await api.client.request(method, path)
    assert answer.status_code == status
    assert code is None or (answer.json()["code"], answer.json()["data"]) == (code, None)
    assert status != 405 or answer.headers["Allow"]


async def test_every_method_that_a_path_takes_is_named(api: RunningApi) -> None:
    answer = await api.client.delete("/v2/serverless/1/tasks")
    assert answer.headers["Allow"] == "GET, HEAD, POST"


@pytest.mark.parametrize(
    "path",
    ["/v2/serverless", "/v2/serverless/1", "/v2/serverless/1/tasks?pageSize=1", "/v2/container-registry-auths"],
)
async def test_a_path_with_a_slash_at_its_end_is_the_same_path(api: RunningApi, path: str) -> None:
    await api.create_endpoint()
    base, _, query = path.partition("?")
    plain, slashed = await api.client.get(path), await api.client.get(f"{base}/?{query}")
    assert (slashed.status_code, slashed.json()) == (plain.status_code, plain.json())
    assert slashed.status_code == 200


async def test_writing_to_a_path_with_a_slash_at_its_end_is_the_same(api: RunningApi) -> None:
    assert (await api.post("/v2/serverless/", ENDPOINT)).json()["data"]["id"] == "1"
    assert (await api.post("/v2/serverless/1/tasks/", TASK | {"taskId": "a"})).status_code == 200
    assert (await api.client.get("/v2/serverless/1/tasks/a/")).json()["data"]["taskId"] == "a"
    assert (await api.client.post("/v2/serverless/1/tasks/a/cancel/")).status_code == 200
    assert (await api.client.put("/v2/serverless/1/workers/?count=2")).status_code == 200
    assert 'route="/v2/serverless/{id}/workers"' in (await api.client.get("/metrics")).text
    assert (await api.client.delete("/v2/serverless/1/")).status_code == 200


@pytest.mark.parametrize("path", ["/", "/docs", "/healthz", "/v2/serverless", "/v2/serverless/9", "/v2/serverless/1/"])
async def test_head_responds_as_get_does_without_the_body(api: RunningApi, path: str) -> None:
    await api.create_endpoint()
    got = await api.client.get(path)
    connection = await Connection.to(api)
    # The second response would not be understood if the first one had a body.
    await connection.send(_head(api, path=path, method="HEAD") + _head(api, path="/healthz", method="GET"))
    line = await connection.line()
    assert line.startswith(f"HTTP/1.1 {got.status_code} ")
    assert f"content-length: {len(got.content)}" in line
    assert (await connection.answer()).status == 200
    connection.close()


async def test_head_is_measured_as_head(api: RunningApi) -> None:
    await api.client.head("/v2/serverless")
    assert 'code="200",method="HEAD",route="/v2/serverless"' in (await api.client.get("/metrics")).text


async def test_the_root_says_where_the_description_is(api: RunningApi) -> None:
    async with httpx.AsyncClient(base_url=api.url) as client:
        paths = (await client.get("/")).json()["data"]
        assert paths["docs"] == "/docs"
        for path in paths.values():
            assert (await client.get(path)).status_code == 200


async def test_requests_are_counted_by_route_and_never_by_id(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint()
    await api.client.get(f"/v2/serverless/{endpoint_id}")
    await api.client.get("/nothing-like-this")
    await api.client.request("PROPFIND", "/v2/serverless")
    text = (await api.client.get("/metrics")).text
    lines = [line for line in text.splitlines() if line.startswith("queue_engine_http_requests_total")]
    assert any('code="200",method="GET",route="/v2/serverless/{id}"' in line for line in lines)
    assert any('code="404",method="GET",route="unmatched"' in line for line in lines)
    assert any('code="405",method="OTHER"' in line for line in lines)
    assert not any("nothing-like-this" in line or "PROPFIND" in line for line in lines)


async def test_responses_are_not_cached_and_not_sniffed(api: RunningApi) -> None:
    for path in ("/v2/serverless", "/nope"):
        headers = (await api.client.get(path)).headers
        assert (headers["Cache-Control"], headers["X-Content-Type-Options"]) == ("no-store", "nosniff")
        assert "server" not in headers


# Starting and ending


async def test_a_port_that_is_taken_is_named(api: RunningApi) -> None:
    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{api.port}: Address already in use"):
        listen(api.settings.model_copy(update={"port": api.port}))


async def test_a_request_under_way_ends_when_the_server_stops(api: RunningApi, connection: Connection) -> None:
    await api.create_endpoint()
    await connection.send(_head(api, f"Content-Length: {len(BODY)}") + BODY[:-1])
    api.stopping.set()
    await wait_until_async(lambda: _refuses_connections(api), message="the listener is still open")
    await connection.send(BODY[-1:])
    received = await connection.answer()
    assert (received.status, received.headers["connection"]) == (200, "close")
    assert await _tasks(api) == 1


async def _refuses_connections(api: RunningApi) -> bool:
    try:
        (await Connection.to(api)).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # it was accepted by the system and not by the server: the listener is closing
        return False
    return False


def test_all_of_this_holds_on_uvloop_too(valkey_url: str) -> None:
    async def scenario() -> None:
        async with running_api(valkey_url, read_timeout_seconds=PATIENCE_SECONDS) as api:
            await api.create_endpoint()
            slow = await Connection.to(api)
            await slow.send(b"GET /healthz HTTP/1.1\r\nX-")
            assert (await slow.answer()).status == 400
            assert await slow.is_closed()
            large = await Connection.to(api)
            await large.send(_head(api, "Content-Length: 3000000") + b" " * 3_000_000)
            assert (await large.answer()).status == 413
            assert (await api.submit("1")).status_code == 200

    uvloop.run(scenario())
