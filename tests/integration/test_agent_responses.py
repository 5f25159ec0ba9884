"""Responses of real servers, and of some that are nearly HTTP, from a container through a real agent to the task."""

import json
from dataclasses import dataclass

from queue_engine.domain.tasks import TaskState
from queue_engine.store.store import Store
from tests.integration.parts import Programs, ended, new_endpoint, submit
from tests.integration.raw_container import RawResponse, ok, raw_container

MIB = 1024 * 1024
JSON = "Content-Type: application/json"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"/>'
LINES = b'{"a":1}\n{"a":2}\n'


@dataclass(frozen=True)
class Case:
    """A response, and what its task comes to."""

    response: RawResponse
    output: object = None
    error: tuple[str, ...] = ()
    """Words of the task's error; none: the task succeeds."""
    attempts: int = 1


CASES = {
    "header_of_12000_bytes": Case(ok(b'{"ok": 1}', JSON, f"X-Info: {'a' * 12_000}"), {"ok": 1}),
    "gzip_in_name_only": Case(
        ok(b'{"ok": "plain"}', JSON, "Content-Encoding: gzip"), error=("cannot be understood", "content coding, gzip")
    ),
    "brotli": Case(
        ok(b'\x0b\x05\x80{"ok":true}\x03', JSON, "Content-Encoding: br"),
        error=("cannot be understood", "content coding br"),
    ),
    "conflicting_lengths": Case(
        RawResponse(("HTTP/1.1 200 OK", JSON, "Content-Length: 2", "Content-Length: 3"), b"[1]"),
        error=("cannot be understood", "duplicate Content-Length"),
    ),
    "bad_chunk": Case(
        RawResponse(("HTTP/1.1 200 OK", JSON, "Transfer-Encoding: chunked"), b"2\r\n[]\r\nno chunk\r\n"),
        error=("cannot be understood", "chunk size"),
    ),
    "latin1": Case(ok(b"caf\xe9", "Content-Type: text/plain; charset=ISO-8859-1"), "café"),
    "svg": Case(ok(SVG, "Content-Type: image/svg+xml"), SVG.decode()),
    "json_lines": Case(ok(LINES, "Content-Type: application/jsonl"), LINES.decode()),
    "json_with_a_mark": Case(ok(b'\xef\xbb\xbf{"ok":true}', JSON), {"ok": True}),
    "redirect": Case(
        RawResponse(("HTTP/1.1 307 Temporary Redirect", "Location: /predict/\x7f", "Content-Length: 0")),
        error=("answered 307: a redirect to /predict/\\x7f, which is not followed",),
    ),
    "terminal_codes": Case(
        RawResponse(("HTTP/1.1 500 x", "Content-Length: 14"), b"no\n\x1b[31mred\0\xff\xfe"),
        error=("answered 500: no\n\\x1b[31mred\\x00\ufffd\ufffd",),
    ),
    "early_hints": Case(
        RawResponse(
            ("HTTP/1.1 200 OK", JSON, "Content-Length: 10"),
            b'{"h": 103}',
            interim=("HTTP/1.1 103 Early Hints", "Link: </a>; rel=preload"),
        ),
        {"h": 103},
    ),
    "http_1_0_to_the_end": Case(RawResponse(("HTTP/1.0 200 OK", JSON), b'{"v": "1.0"}', closes=True), {"v": "1.0"}),
    "refused_before_the_body": Case(
        RawResponse(
            ("HTTP/1.1 413 Payload Too Large", JSON, "Connection: close", "Content-Length: 22"),
            b'{"error": "too large"}',
            early=True,
        ),
        error=('answered 413: {"error": "too large"}',),
    ),
    "hangs_up_once": Case(ok(b'{"tries": 2}', JSON, hangs_up_first=True), {"tries": 2}, attempts=2),
    "cut_once_too_often": Case(
        RawResponse(("HTTP/1.1 200 OK", "Content-Length: 12"), b"short", closes=True),
        error=("it was closed after 5 of 12 bytes of the body", "in all 2 attempts"),
        attempts=2,
    ),
    "closes_without_a_word": Case(ok(b'{"c": 1}', JSON, closes=True), {"c": 1}),
}


async def test_each_response_has_its_outcome(store: Store, programs: Programs) -> None:
    async with raw_container({name: case.response for name, case in CASES.items()}) as container:
        endpoint_id = await new_endpoint(store, max_attempts=2)
        programs.controller()
        programs.agent(endpoint_id, f"http://127.0.0.1:{container.port}")
        for name in CASES:
            size = 900_000 if name == "refused_before_the_body" else 10
            await submit(store, endpoint_id, name, uri=f"/{name}", input=json.dumps("A" * size).encode())
        for name, case in CASES.items():
            task = await ended(store, endpoint_id, name)
            wanted = TaskState.FAILED if case.error else TaskState.SUCCEEDED
            assert (task.state, task.attempts) == (wanted, case.attempts), f"{name}: {task.error}"
            assert container.requests[name] == case.attempts
            assert all(words in (task.error or "") for words in case.error), f"{name}: {task.error}"
            assert case.error or json.loads(task.output or b"") == case.output, name


async def test_a_connection_that_is_closed_after_each_response_costs_no_attempt(
    store: Store, programs: Programs
) -> None:
    async with raw_container({"run": CASES["closes_without_a_word"].response}) as container:
        endpoint_id = await new_endpoint(store)
        programs.agent(endpoint_id, f"http://127.0.0.1:{container.port}")
        for number in range(3):
            await submit(store, endpoint_id, f"task_{number}")
            task = await ended(store, endpoint_id, f"task_{number}")
            assert (task.state, task.attempts) == (TaskState.SUCCEEDED, 1)


LARGE = {
    "lists": b"[" + b"[]," * (8 * MIB // 3 - 1) + b"[]]",
    "nests": b"[" + (b"[" * 500 + b"]" * 500 + b",") * (8 * MIB // 1001) + b"1]",
    "objects": b"[" + b'{"a":{}},' * (8 * MIB // 9 - 1) + b"0]",
}


async def test_a_lease_is_kept_beside_a_large_response_of_many_small_containers(
    store: Store, programs: Programs
) -> None:
    async with raw_container({name: ok(body, JSON) for name, body in LARGE.items()}) as container:
        endpoint_id = await new_endpoint(store)
        programs.controller(lease=2)
        agent = programs.agent(endpoint_id, f"http://127.0.0.1:{container.port}", lease=2)
        for name in LARGE:
            await submit(store, endpoint_id, name, uri=f"/{name}")
        for name, body in LARGE.items():
            task = await ended(store, endpoint_id, name)
            assert (task.state, task.attempts, task.output) == (TaskState.SUCCEEDED, 1, body), task.error
            assert container.requests[name] == 1
    assert "a lease had run out" not in agent.output()
