"""Both clients send the same requests, and treat a connection that breaks alike."""

import inspect
import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
import pytest

from queue_engine.client import AsyncClient, Client, Forbidden, Unavailable
from queue_engine.client.fields import SubmitFields, UpdateFields
from tests.unit.client.scripted_api import batch_body, task

Handler = Callable[[httpx.Request], httpx.Response]


def answering(seen: list[httpx.Request]) -> Handler:
    """Return an API with one endpoint, which remembers its requests."""

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        data: Any = {"taskId": "t1"}
        if request.method in ("GET", "PATCH"):
            data = task(output=[1]) if "tasks" in request.url.path else _endpoint()
        return httpx.Response(200, json={"message": "success", "code": 10000, "data": data})

    return handle


def _endpoint() -> dict[str, Any]:
    row = {"id": "7", "name": "echo", "image": "i", "status": "RUNNING", "totalWorkers": 1, "runningWorkers": 1}
    return {**row, "serviceMode": "QUEUE", "expose": {"port": 9000, "protocol": "http"}}


def described(requests: list[httpx.Request]) -> list[tuple[str, str, Any]]:
    return [
        (one.method, str(one.url.raw_path.decode()), json.loads(one.content) if one.content else None)
        for one in requests
    ]


async def test_both_clients_send_the_same_requests() -> None:
    sync_seen: list[httpx.Request] = []
    async_seen: list[httpx.Request] = []
    with Client("http://api:1", "key", transport=httpx.MockTransport(answering(sync_seen))) as client:
        output = client.endpoint("7").submit({"a": 1}, path="/run", task_id="t1", queue_ttl_seconds=5).result()
    async with AsyncClient("http://api:1", "key", transport=httpx.MockTransport(answering(async_seen))) as other:
        submitted = await other.endpoint("7").submit({"a": 1}, path="/run", task_id="t1", queue_ttl_seconds=5)
        assert await submitted.result() == output == [1]
    assert described(sync_seen) == described(async_seen)
    body = {"queueTtlSeconds": 5, "input": {"a": 1}, "taskId": "t1", "processUri": "/run", "workerPort": 9000}
    assert described(sync_seen) == [
        ("GET", "/v2/serverless/7", None),
        ("POST", "/v2/serverless/7/tasks", body),
        ("GET", "/v2/serverless/7/tasks/t1?wait=50", None),
    ]
    assert {request.headers["X-Api-Key"] for request in (*sync_seen, *async_seen)} == {"key"}


def test_a_time_of_python_is_sent_with_its_offset() -> None:
    seen: list[httpx.Request] = []
    moment = datetime(2026, 1, 31, 12, tzinfo=timezone(timedelta(hours=1)))
    with Client("http://api:1", "key", transport=httpx.MockTransport(answering(seen))) as client:
        client.endpoint("7").submit(1, run_at=moment)
        client.endpoint("7").submit(1, run_at=1_800_000_000_000)
        client.endpoint("7").submit(1, delay_seconds=2.5)
        with pytest.raises(ValueError, match="run_at: must have a time zone"):
            client.endpoint("7").submit(1, run_at=moment.replace(tzinfo=None))
    bodies = [json.loads(one.content) for one in seen if one.method == "POST"]
    assert [body.get("runAt") for body in bodies] == ["2026-01-31T11:00:00+00:00", 1_800_000_000_000, None]
    assert bodies[2]["delaySeconds"] == 2.5


async def test_both_clients_send_priorities_keys_and_their_settings() -> None:
    seen: list[httpx.Request] = []
    lane: SubmitFields = {"priority": "high", "fairness_key": "acme"}
    settings: UpdateFields = {"max_concurrency_per_key": 2, "default_priority": None}
    with Client("http://api:1", "key", transport=httpx.MockTransport(answering(seen))) as client:
        client.endpoint("7").submit(1, **lane)
        client.endpoint("7").update(**settings)
    async with AsyncClient("http://api:1", "key", transport=httpx.MockTransport(answering(seen))) as other:
        await other.endpoint("7").submit(1, **lane)
        await other.endpoint("7").update(**settings)
    bodies = [json.loads(one.content) for one in seen if one.method in ("POST", "PATCH")]
    for submitted, changed in (bodies[:2], bodies[2:]):
        assert (submitted["priority"], submitted["fairnessKey"]) == ("high", "acme")
        assert changed == {"maxConcurrencyPerKey": 2, "defaultPriority": None}


async def test_both_clients_submit_batches_alike() -> None:
    bodies: list[bytes] = []

    def handle(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json={"message": "success", "code": 10000, "data": _endpoint()})
        bodies.append(request.content)
        return httpx.Response(200, content=batch_body(*[{"result": "accepted"}] * len(request.content.splitlines())))

    with Client("http://api:1", "key", transport=httpx.MockTransport(handle)) as client:
        done = client.endpoint("7").batch(range(300), path="/run", batch_id="b", tags=["x"])
    async with AsyncClient("http://api:1", "key", transport=httpx.MockTransport(handle)) as other:
        assert await other.endpoint("7").batch(range(300), path="/run", batch_id="b", tags=["x"]) == done
    assert (done.accepted, [item.index for item in done.items]) == (300, list(range(300)))
    assert bodies[:2] == bodies[2:]
    last = {"tags": ["x"], "processUri": "/run", "workerPort": 9000, "input": 299, "taskId": "b_300"}
    assert json.loads(bodies[1].splitlines()[-1]) == last
    with pytest.raises(ValueError, match="batch_id"):
        Client("http://api:1", "key").endpoint("7").batch([1], batch_id="a-b")


async def test_both_clients_tell_why_a_task_waits() -> None:
    reason = {"code": "ALL_BUSY", "message": "…", "since": 1, "asOf": 2, "ahead": 3, "etaSeconds": 0.5}

    def handle(request: httpx.Request) -> httpx.Response:
        data = task(status="PROCESSING", state="queued", waiting=reason) if "tasks" in request.url.path else _endpoint()
        return httpx.Response(200, json={"message": "success", "code": 10000, "data": data})

    with Client("http://api:1", "key", transport=httpx.MockTransport(handle)) as client:
        waiting = client.endpoint("7").task("t1").waiting()
    async with AsyncClient("http://api:1", "key", transport=httpx.MockTransport(handle)) as other:
        assert await other.endpoint("7").task("t1").waiting() == waiting
    assert waiting is not None
    assert (waiting.code, waiting.ahead, waiting.eta_seconds, waiting.until) == ("ALL_BUSY", 3, 0.5, None)


@pytest.mark.parametrize("error", [httpx.ConnectError("refused"), httpx.ReadError("reset"), httpx.ReadTimeout("late")])
async def test_a_broken_connection_is_unavailable(error: httpx.HTTPError) -> None:
    def broken(_: httpx.Request) -> httpx.Response:
        raise error

    transport = httpx.MockTransport(broken)
    with (
        Client("http://api:1", "key", timeout=0, transport=transport) as client,
        pytest.raises(Unavailable, match="api"),
    ):
        client.endpoints()
    async with AsyncClient("http://api:1", "key", timeout=0, transport=transport) as other:
        with pytest.raises(Unavailable, match="api"):
            await other.endpoints()


@pytest.mark.parametrize(
    ("url", "key", "rule"),
    [
        ("ftp://api", "key", "url: must be http"),
        ("http://", "key", "url: must be http"),
        ("http://api:port", "key", "url: "),
        ("http://api", "two words", "api_key: must be visible ASCII"),
        ("http://api", "", "api_key: is required; or set QUEUE_ENGINE_API_KEY"),
    ],
)
def test_an_invalid_connection_is_named(url: str, key: str, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("QUEUE_ENGINE_API_KEY", "QUEUE_ENGINE_API_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=rule):
        Client(url, key)


def test_the_key_is_not_shown() -> None:
    with Client("http://api:1", "secret-key") as client:
        assert "secret-key" not in repr(client) + repr(vars(client))


NO_ROLE = "X-Api-Key: the role submit does not allow this: it needs read or operate or admin"


def answering_a_submitter(seen: list[httpx.Request]) -> Handler:
    """Return an API whose key has the role submit: it may submit and read tasks, and read no endpoint."""

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if request.method == "GET" and "tasks" not in request.url.path:
            return httpx.Response(403, json={"message": NO_ROLE, "code": 40301, "data": None})
        return httpx.Response(200, json={"message": "success", "code": 10000, "data": task(output=[1])})

    return handle


async def test_a_key_that_only_submits_needs_the_id_and_the_port() -> None:
    seen: list[httpx.Request] = []
    transport = httpx.MockTransport(answering_a_submitter(seen))
    with Client("http://api:1", "key", transport=transport) as client:
        assert client.endpoint("7").submit(1, port=8000).result() == [1]
        assert client.endpoint("7", port=8000).task("t1").info().output == [1]
        assert client.endpoint("7").id == "7"
    async with AsyncClient("http://api:1", "key", transport=transport) as other:
        assert await (await other.endpoint("7").submit(1, port=8000)).result() == [1]
        assert (await other.endpoint("7", port=8000).task("t1").info()).output == [1]
        assert await other.endpoint("7").id() == "7"
    assert [request.method for request in seen] == ["POST", "GET", "GET"] * 2


async def test_a_key_that_only_submits_is_told_to_give_the_port_and_the_id() -> None:
    transport = httpx.MockTransport(answering_a_submitter([]))
    port = f"{NO_ROLE}; give port=, because a key with the role submit cannot read the endpoint's exposed port"
    name = f"{NO_ROLE}; give the id of the endpoint, because a key with the role submit cannot look up its name"
    with Client("http://api:1", "key", transport=transport) as client:
        with pytest.raises(Forbidden, match=re.escape(port)) as refused:
            client.endpoint("7").submit(1)
        assert (refused.value.status, refused.value.code) == (403, 40301)
        with pytest.raises(Forbidden, match=re.escape(name)):
            client.endpoint("echo").submit(1, port=8000)
    async with AsyncClient("http://api:1", "key", transport=transport) as other:
        with pytest.raises(Forbidden, match=re.escape(port)):
            await other.endpoint("7").batch([1])
        with pytest.raises(Forbidden, match=re.escape(name)):
            await other.endpoint("echo").submit(1, port=8000)


async def test_the_id_of_an_endpoint_may_be_a_number() -> None:
    seen: list[httpx.Request] = []
    with Client("http://api:1", "key", transport=httpx.MockTransport(answering(seen))) as client:
        client.endpoint(7).submit(1, task_id="t1")
        assert repr(client.endpoint(7)) == "Endpoint('7')"
    async with AsyncClient("http://api:1", "key", transport=httpx.MockTransport(answering(seen))) as other:
        await other.endpoint(7).submit(1, task_id="t1")
    assert [request.url.path for request in seen] == ["/v2/serverless/7", "/v2/serverless/7/tasks"] * 2


@pytest.mark.parametrize("wrong", [None, 7.0, True, b"7"])
def test_an_endpoint_of_another_type_is_refused_at_once(wrong: Any) -> None:
    rule = f"id_or_name: must be a str or an int, not {type(wrong).__name__}"
    for client in (Client("http://api:1", "key"), AsyncClient("http://api:1", "key")):
        with pytest.raises(TypeError, match=rule):
            client.endpoint(wrong)


def methods_with_fields(of: object) -> list[str]:
    """Return the names of an object's methods that take `**`."""
    return [
        name
        for name, method in inspect.getmembers(type(of), inspect.isfunction)
        if not name.startswith("_")
        and any(one.kind is one.VAR_KEYWORD for one in inspect.signature(method).parameters.values())
    ]


async def called(method: Callable[..., Any], **given: Any) -> None:
    result = method(**given)
    if inspect.iscoroutine(result):
        await result


async def test_an_unknown_keyword_is_refused_before_anything_is_sent() -> None:
    seen: list[httpx.Request] = []
    transport = httpx.MockTransport(answering(seen))
    client, other = Client("http://api:1", "key", transport=transport), AsyncClient("http://api:1", "key", timeout=0)
    for one in (client, other):
        endpoint = one.endpoint("7")
        found = [(of, name) for of in (one, endpoint, endpoint.task("t1")) for name in methods_with_fields(of)]
        names = {name for _, name in found if name != "call"}  # passes its keywords to a dataclass, which refuses them
        assert names >= {"submit", "batch", "map", "clone", "create_endpoint", "update", "tasks", "retry_tasks", "logs"}
        for of, name in found:
            if name in names:
                with pytest.raises(TypeError, match=rf"{name}\(\) got an unexpected keyword argument 'webhok'"):
                    await called(getattr(of, name), webhok=1)
    assert seen == []


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("webhok", "webhook"),
        ("executionTimeoutSeconds", "execution_timeout_seconds"),
        ("processUri", "path"),
        ("taskId", "task_id"),
        ("zzz", None),
    ],
)
def test_the_error_of_an_unknown_keyword_names_the_nearest(given: str, meant: str | None) -> None:
    with Client("http://api:1", "key", timeout=0) as client, pytest.raises(TypeError) as refused:
        client.endpoint("7").submit(1, **{given: 1})  # type: ignore[arg-type]
    said = f"submit() got an unexpected keyword argument {given!r}"
    assert str(refused.value) == said + (f"; did you mean {meant!r}?" if meant else "")
