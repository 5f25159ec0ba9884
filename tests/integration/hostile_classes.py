"""Classes of hostile requests, each beside harmless ones that look alike, and the page with their results.

`python -m tests.integration.hostile_classes` (`make hostile`) sends all of them to an API and writes the page. A test
fails when the page differs from what it has seen. Most cases are those of other tests, so a new case there is one here.
"""

import asyncio
import json
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.api_server import TASK, RunningApi, running_api
from tests.integration.raw_http import Connection
from tests.integration.test_api_hostile import BAD_BODIES, BAD_VALUES, CONTENT_TYPES, INSIDE, ODD_IDS
from tests.integration.test_api_http_rules import BAD_HOSTS, GOOD_HOSTS, MALFORMED
from tests.reference_text import table
from tests.servers import StoreServer, valkey_binary

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operations" / "hostile-inputs.md"
TASKS = "/v2/serverless/1/tasks"

Send = Callable[[RunningApi, Any], Awaitable[int]]
"""Sends a case and returns the status of the response."""


@dataclass(frozen=True)
class HostileClass:
    """Cases of one class, the statuses with which the hostile ones are refused, and examples for readers."""

    name: str
    examples: str
    send: Send
    hostile: Sequence[Any]
    harmless: Sequence[Any]
    refusals: frozenset[int] = frozenset({400})


@dataclass(frozen=True)
class Result:
    """Result of sending the cases of a class to an API."""

    of: HostileClass
    accepted: list[Any]
    """Hostile cases that were not refused."""
    falsely_refused: list[Any]
    """Harmless cases that were refused."""
    stored: int
    """Number of tasks that hostile cases have created."""


def _field(name: str) -> Send:
    async def send(api: RunningApi, value: Any) -> int:
        return (await api.submit("1", **{name: value})).status_code

    return send


async def _body(api: RunningApi, body: bytes) -> int:
    return (await api.client.post(TASKS, content=body, headers={"Content-Type": "application/json"})).status_code


async def _content_type(api: RunningApi, content_type: str) -> int:
    return (await api.client.post(TASKS, content=json.dumps(TASK), headers={"Content-Type": content_type})).status_code


async def _path(api: RunningApi, path: str) -> int:
    return (await api.client.get(path)).status_code


async def _raw(api: RunningApi, request: bytes) -> int:
    connection = await Connection.to(api)
    try:
        common = f"Host: x\r\nX-Api-Key: {api.key}\r\nContent-Type: application/json\r\n".encode()
        replaced = request.replace(b"{common}", common).replace(b"{key}", api.key.encode())
        await connection.send(replaced.replace(b"{path}", TASKS.encode()))
        return (await connection.answer()).status
    finally:
        connection.close()


async def _of_another_tenant(api: RunningApi, case: tuple[str, bool]) -> int:
    path, is_own = case
    headers = {} if is_own else {"X-Api-Key": await api.new_key("stranger")}
    return (await api.client.get(path, headers=headers)).status_code


def _with_host(host: str) -> bytes:
    return f"GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("latin-1")


def _with_key(*lines: str) -> bytes:
    return "\r\n".join(("GET /v2/serverless HTTP/1.1", "Host: x", *lines, "", "")).encode("latin-1")


_CHUNKED = b"POST {path} HTTP/1.1\r\n{common}Transfer-Encoding: %b\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
_TASK = json.dumps(TASK).encode()
_INPUTS: tuple[Any, ...] = ("\ud800", 1, [], {}, "", False, 10**40, 1e-7)
_SMALL = {"workerPort": 1, "processUri": "/"}

CLASSES: tuple[HostileClass, ...] = (
    HostileClass(
        "Webhook URLs", "inside addresses in every spelling, names that resolve inside, user info, other schemes",
        _field("webhook"), BAD_VALUES["webhook"],
        ["http://example.com", "HTTPS://Example.COM./A", "http://example.com:8080/", "http://example.com?x",
         "http://93.184.216.34/", "http://[2606:4700:0:0::1]:81/", "http://xn--bcher-kva.example/",
         "http://example.com/a@b:c", "http://example.com/?f[x]=%2Fa%20b|{}", "http://123.example.com/"],
    ),
    HostileClass(
        "Task ids", "line ends, path segments, non-ASCII, 256 characters, other types",
        _field("taskId"), BAD_VALUES["taskId"], ["a", "A_1", "0", "_", "x" * 255, None],
    ),
    HostileClass(
        "Ports", "`true`, `1.0`, `\"8000\"`, 0, 65536, `1e4`",
        _field("workerPort"), BAD_VALUES["workerPort"], [1, 80, 8000, 65535],
    ),
    HostileClass(
        "Paths to the container", "`..` in every spelling, `//host`, `%`, `\\`, a query, line ends",
        _field("processUri"), BAD_VALUES["processUri"],
        ["/", "run", "/predict/", "/v1/models/a:predict", "/a;v=1/b.c/~d/$e&f'(g)*h+i,j=k@l!", "/...", "/.well-known"],
    ),
    HostileClass(
        "Auth keys of webhooks", "line ends, NUL, non-ASCII, spaces around, 256 characters",
        _field("webhookAuthKey"), BAD_VALUES["webhookAuthKey"], ["a", "a b", "~" * 255, "Bearer abc.def", None],
    ),
    HostileClass(
        "Forwarded headers", "framing and routing headers, invalid names and values, duplicates by case, 17 KiB",
        _field("headers"), BAD_VALUES["headers"],
        [{}, None, {"Authorization": "Bearer abc"}, {"Cookie": "a=b; c=d"}, {"accept": "*/*"}, {"X-Trace": ""},
         {"X-Trace": "a\tb c"}, {"x!#$%&'*+-.^_`|~1": "~"}, {f"h{index}": "x" for index in range(50)}],
    ),
    HostileClass(
        "JSON bodies", "100,000 open brackets, names given twice, `NaN`, UTF-16, invalid UTF-8, text behind the value",
        _body, BAD_BODIES,
        [json.dumps({"input": value} | _SMALL).encode() for value in _INPUTS]
        + [json.dumps({"input": "ä", **_SMALL}, ensure_ascii=False).encode(), b" \r\n" + _TASK + b"\t\n",
           json.dumps(TASK | {"status": "SUCCESS", "tenantId": "other"}).encode()],
    ),
    HostileClass(
        "Content types", "other types, other character sets, a list of types",
        _content_type, [one for one, status in CONTENT_TYPES.items() if status == 415],
        [one for one, status in CONTENT_TYPES.items() if status == 200], frozenset({415}),
    ),
    HostileClass(
        "Framing of requests", "two lengths, codings beside `chunked`, bare line ends, signs in chunk sizes, two hosts",
        _raw, list(MALFORMED.values()),
        [_CHUNKED % (coding, len(_TASK), _TASK) for coding in (b"chunked", b"CHUNKED", b" \tchunked\t ")]
        + [b"POST {path} HTTP/1.1\r\n{common}Content-Length: %d\r\n\r\n%b" % (len(_TASK), _TASK),
           b"GET /healthz HTTP/1.0\r\n\r\n", b"GET http://x:80/healthz HTTP/1.1\r\nHost: x\r\n\r\n"],
    ),
    HostileClass(
        "Hosts", "lists, user info, paths, ports out of range, malformed IPv6",
        _raw, [_with_host(host) for host in BAD_HOSTS], [_with_host(host) for host in GOOD_HOSTS],
    ),
    HostileClass(
        "Versions and codings", "HTTP/2.0 and 0.9 in the request line, unknown transfer codings",
        _raw,
        [f"{line}\r\nHost: x\r\n\r\n".encode() for line in ("GET / HTTP/2.0", "GET / HTTP/9.9", "GET / HTTP/0.9")]
        + [_CHUNKED % (coding, len(_TASK), _TASK) for coding in (b"br", b"xchunked", b"br, chunked")],
        [b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /healthz HTTP/1.0\r\n\r\n"], frozenset({501, 505}),
    ),
    HostileClass(
        "Ids in paths", "signs, zeros, exponents, 2^53, non-ASCII digits, line ends",
        _path, [f"/v2/serverless/{odd}/tasks" for odd in ODD_IDS] + [f"{TASKS}/%00", f"{TASKS}/a%2Fb"],
        ["/v2/serverless/1/tasks", "/v2/serverless/1/tasks/", "/v2/serverless/1", "/v2/serverless"],
        frozenset({404}),
    ),
    HostileClass(
        "Query parameters", "pages out of range, unknown statuses, repeated parameters, malformed positions",
        _path,
        [f"{TASKS}?{query}" for query in (
            "pageSize=1000000000", "pageSize=0", "pageSize=-1", "pageSize=x", "pageSize=1.0", "pageSize=",
            "pageSize=%D9%A3", "pageNumber=-1", "pageNumber=0", "pageNumber=1e1", "status=XYZ", "status=",
            "pageSize=1&pageSize=2",
        )]
        + ["/v2/serverless?statusList=XYZ", "/v2/audit?before=x", "/v2/audit?pageSize=1001", "/v2/keys?pageNumber=0"],
        [f"{TASKS}?{query}" for query in (
            "", "pageSize=1", "pageNumber=3", "status=SUCCESS", "status=success", "unknown=1",
            "pageNumber=1&pageSize=10",
        )] + ["/v2/serverless?statusList=RUNNING,stopped", "/v2/audit", "/v2/keys"],
    ),
    HostileClass(
        "API keys", "none, empty, 10 KB, two headers, other schemes and names, in the query, non-ASCII",
        _raw,
        [_with_key(), _with_key("X-Api-Key:"), _with_key("X-Api-Key: nobody"), _with_key("X-Api-Key: " + "x" * 10_240),
         _with_key("X-Api-Key: {key}", "X-Api-Key: {key}"),
         _with_key("X-Api-Key: {key}", "Authorization: Bearer {key}"),
         _with_key("Authorization: Basic {key}"), _with_key("Authorization: {key}"), _with_key("Authorization: Bearer"),
         _with_key("X-Api-Key: {key} x"), _with_key("X-Api-Key: {key}\xe9"), _with_key("X_Api_Key: {key}"),
         _with_key("X-Api-Key: {key}, {key}"), _with_key("Cookie: X-Api-Key={key}"),
         b"GET /v2/serverless?X-Api-Key={key}&api_key={key} HTTP/1.1\r\nHost: x\r\n\r\n"],
        [_with_key("X-Api-Key: {key}"), _with_key("x-api-key:{key}"), _with_key("X-Api-Key: {key} "),
         _with_key("Authorization: Bearer {key}"), _with_key("authorization: bearer   {key}")],
        frozenset({401}),
    ),
    HostileClass(
        "Objects of another tenant", "an endpoint, its tasks, workers and logs with a valid key of another tenant",
        _of_another_tenant,
        [(path, False) for path in ("/v2/serverless/1", "/v2/serverless/1/workers", TASKS, f"{TASKS}/count",
                                    f"{TASKS}/own", f"{TASKS}/own/attempts", f"{TASKS}/own/deliveries",
                                    "/v2/serverless/1/webhook-secret", "/v2/container-registry-auths/1")],
        [(path, True) for path in ("/v2/serverless/1", "/v2/serverless/1/workers", TASKS, f"{TASKS}/count")],
        frozenset({404}),
    ),
)  # fmt: skip


async def results_of(api: RunningApi) -> list[Result]:
    """Send all cases to an API without endpoints. The endpoint that they use is created first, and has the id 1."""
    assert await api.create_endpoint() == "1"
    return [await _result_of(api, one) for one in CLASSES]


async def _result_of(api: RunningApi, one: HostileClass) -> Result:
    before = await _tasks(api)
    accepted = [case for case in one.hostile if await one.send(api, case) not in one.refusals]
    stored = await _tasks(api) - before
    falsely_refused = [case for case in one.harmless if await one.send(api, case) != 200]
    return Result(one, accepted, falsely_refused, stored)


async def _tasks(api: RunningApi) -> int:
    return (await api.store.tasks.counts("1")).total


def page_of(results: Sequence[Result]) -> str:
    """Return the page with these results."""
    rows = [
        (
            one.of.name,
            one.of.examples,
            len(one.of.hostile),
            len(one.of.hostile) - len(one.accepted),
            len(one.of.harmless),
            len(one.falsely_refused),
        )
        for one in results
    ]
    totals = [str(sum(int(row[column]) for row in rows)) for column in range(2, 6)]
    columns = ("class", "examples", "hostile requests", "refused", "harmless requests", "falsely refused")
    lines = table(columns, [tuple(map(str, row)) for row in rows] + [("all", "", *totals)])
    return _PAGE.format(table=lines)


_PAGE = """# Hostile requests

This page is made by `make hostile`, which sends these requests to an API over a real store. A test fails if the page
differs from what it sees.

Each class has hostile requests, and harmless ones that look like them. A hostile request is *refused* when it gets the
documented error (400, 401, 404, 415, 501 or 505) and stores nothing. A harmless request is *falsely refused* when it
gets anything but 200.

{table}

These are requests to the API. Responses of webhook receivers and of containers, and addresses at the time of the
connection, have tests of their own: `test_responses.py`, `test_agent_responses.py` and `test_guard.py` in
`tests/integration/`. `test_api_roles.py` there calls every route with every role, with another tenant's key and with
an ended key.
"""


async def _write() -> None:
    with tempfile.TemporaryDirectory() as directory, StoreServer(valkey_binary(), Path(directory)) as store:
        async with running_api(store.url, lookup=INSIDE) as api:
            PAGE.write_text(page_of(await results_of(api)))


if __name__ == "__main__":
    asyncio.run(_write())
