"""The description of the API is valid, and the API does what it says."""

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi.openapi.models import OpenAPI
from pydantic import TypeAdapter

from queue_engine.api.http.envelope import Failure
from queue_engine.api.http.operations import Operation
from queue_engine.api.public.docs_page import render
from queue_engine.api.public.openapi import describe
from queue_engine.api.v2.endpoint_requests import CreateEndpoint
from queue_engine.api.v2.submissions import RAW_FIELDS, SubmitTask
from queue_engine.config.catalogue import load_catalogue
from queue_engine.domain.deliveries import WebhookResponse
from queue_engine.domain.destinations import DestinationNote, Standing
from queue_engine.domain.principals import Role
from queue_engine.domain.tasks import Succeeded
from queue_engine.domain.workers import WorkerStatus
from queue_engine.rules.strict_json import split_object
from queue_engine.store.api_keys import OPERATORS
from queue_engine.store.standings import TenantNote
from tests.api_server import ENDPOINT, TASK, RunningApi
from tests.integration.test_api_deliveries import Results
from tests.integration.test_api_task_operations import Bulk

ANY_KEY: list[dict[str, list[str]]] = [{"ApiKey": []}, {"Bearer": []}]
SECURITY = {"v2": ANY_KEY, "e": ANY_KEY}
"""By the first segment of the path; none elsewhere."""


@pytest.fixture
async def document(api: RunningApi) -> dict[str, Any]:
    described: dict[str, Any] = (await api.client.get("/openapi.json")).json()
    return described


async def test_the_document_is_valid_and_complete(document: dict[str, Any]) -> None:
    OpenAPI.model_validate(document)
    assert document["openapi"].startswith("3.1.")
    schemas = document["components"]["schemas"]
    for reference in _references(document):
        assert reference.removeprefix("#/components/schemas/") in schemas
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["security"] == SECURITY.get(path.split("/")[1], [])
            assert bool(operation.get("x-roles")) == bool(operation["security"])
            assert operation["summary"]
            if path.startswith("/v2/") and method != "get":
                assert "webhook-id" in operation["responses"]["400"]["description"]
            named = {one["name"] for one in operation.get("parameters", []) if one["in"] == "path"}
            assert named == set(re.findall(r"{(\w+)}", path))
    for name, schema in schemas.items():
        for member, described in schema.get("properties", {}).items():
            told = "description" in described or "const" in described or "title" in described
            assert told, f"{name}.{member} is not described"


async def test_its_examples_are_accepted(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    _, errors = CreateEndpoint.parse(schemas["CreateEndpoint"]["examples"][0], load_catalogue(None))
    assert errors == []
    example = json.dumps(schemas["SubmitTask"]["examples"][0]).encode()
    _, errors = SubmitTask.parse(split_object(example, RAW_FIELDS))
    assert errors == []


async def test_every_response_is_as_described(api: RunningApi) -> None:
    """A scenario in which every operation answers, well and badly."""
    operations = _operations(api)
    seen: set[tuple[str, int]] = set()

    def check(answer: httpx.Response) -> None:
        operation = _operation_of(operations, answer.request)
        seen.add((operation.name, answer.status_code))
        schema = operation.response_model if answer.status_code == 200 else Failure
        assert answer.status_code == 200 or answer.status_code in operation.responses
        if operation.response_model is None and answer.status_code == 200:
            return
        adapter = TypeAdapter(schema)
        parsed = adapter.validate_json(answer.content)
        # Printing it again shows members that the schema does not have.
        assert adapter.dump_python(parsed, mode="json", by_alias=True, exclude_unset=True) == answer.json()

    api.client.event_hooks["response"] = [_checking(check)]
    await _scenario(api)
    every = {operation.name for operation in operations} - {"follow_events"}  # its response does not end
    assert {name for name, status in seen if status == 200} == every
    assert {status for _, status in seen} >= {200, 400, 401, 403, 404, 409, 413, 415, 429}


async def _scenario(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint(
        environmentVars=[{"key": "A", "value": "b"}], expose={"port": 80, "protocol": "http"}, maxQueuedTasks=2
    )
    await api.store.workers.put(endpoint_id, "w1", managed=True)
    await api.store.workers.report(endpoint_id, "w1", WorkerStatus.RUNNING, running_tasks=0, address="127.0.0.1:1")
    await api.submit(endpoint_id, taskId="a", headers={"X-Key": "x"}, webhook="http://a.example/")
    await api.submit(endpoint_id, taskId="a", input=2)
    await _succeed(api, endpoint_id)
    await api.client.post(f"/v2/serverless/{endpoint_id}/tasks/a/clone", json={"taskId": "a_again"})
    await api.client.post(f"/v2/serverless/{endpoint_id}/tasks/a/clone", json={"workerPort": 0})
    await api.client.post(f"/v2/serverless/{endpoint_id}/tasks/a_again/cancel")
    await api.submit(endpoint_id, taskId="b")
    await api.submit(endpoint_id, taskId="c")
    await api.submit(endpoint_id, taskId="d")
    base = f"/v2/serverless/{endpoint_id}"
    for path in ("/", "/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/v2/serverless", base):
        await api.client.get(path)
    for path in (
        "workers",
        "webhook-secret",
        "tasks",
        "tasks/count",
        "errors",
        "series",
        "tasks?cursor=",
        "tasks/export",
        "tasks/a",
        "tasks/a?payload=none",
        "tasks/a?payload=head",
        "tasks/a?payload=heads",
        "tasks/a/input",
        "tasks/a/output",
        "tasks/b/output",
        "tasks/b",
        "tasks/a/deliveries",
        "tasks/a/attempts",
        "tasks/none",
    ):
        await api.client.get(f"{base}/{path}")
        await api.client.get(f"{base}/{path}", headers={"X-Api-Key": "nobody"})
    await api.client.get(f"{base}/tasks?pageSize=0")
    await api.client.get(f"{base}/tasks/a?wait=9")
    await api.client.get(f"{base}/tasks/a?wait=x")
    await api.client.post(f"{base}/tasks?wait=0", json=TASK | {"taskId": "b"})
    await api.client.post(f"{base}/tasks/wait", json={"taskIds": ["a", "b", "none"]})
    await api.client.post(f"{base}/tasks/wait", json={"taskIds": []})
    await api.client.post(f"{base}/tasks/batch", json={"tasks": [TASK | {"taskId": "e"}, TASK | {"taskId": "a"}, 5]})
    await api.client.post(f"{base}/tasks/batch", json={"tasks": []})
    await api.client.get("/v2/serverless/77/workers")
    await api.client.post(f"{base}/tasks", content=b"{}")
    await api.client.post(f"{base}/tasks", json={"input": "x" * 1024 * 1024})
    await api.post("/v2/serverless", {})
    await api.client.get(f"{base}/workers/w1/logs")
    await api.client.get(f"{base}/workers/nobody/logs")
    await api.client.get("/v2/search?q=a")
    await api.client.get("/v2/search")
    await api.client.get("/v2/events?topics=nothing")
    await _orders_scenario(api)
    await _operations_scenario(api)
    await _deliveries_scenario(api)
    await _destinations_scenario(api)
    await _workers_scenario(api)
    await _life_cycle_scenario(api)
    await _credentials_scenario(api)
    await _keys_scenario(api)
    await _agent_tokens_scenario(api)
    await _tenants_scenario(api)


async def _orders_scenario(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint(maxQueuedTasks=1)
    task = f"/v2/serverless/{endpoint_id}/tasks/a"
    await api.submit(endpoint_id, taskId="a")
    orders = (("POST", "/retry"), ("DELETE", ""), ("POST", "/cancel"), ("POST", "/retry"), ("POST", "/cancel"))
    for method, path in (*orders, ("DELETE", ""), ("DELETE", ""), ("POST", "/retry"), ("POST", "/cancel")):
        await api.client.request(method, task + path)


async def _operations_scenario(api: RunningApi) -> None:
    bulk = Bulk(api, await api.create_endpoint())
    await bulk.submit("a", "b")
    requests: list[tuple[str, str, object]] = [
        ("POST", "", {"action": "cancel", "filter": {"state": "queued"}, "operationId": "op"}),
        ("POST", "", {"action": "delete", "filter": {"state": "queued"}, "operationId": "op"}),
        ("POST", "", {"action": "delete", "taskIds": ["a", "none"], "dryRun": True}),
        ("POST", "", {"action": "delete"}),
        ("GET", "/op", None),
        ("GET", "/none", None),
        ("POST", "/op/cancel", None),
        ("POST", "/none/cancel", None),
        ("GET", "", None),
        ("GET", "?pageSize=0", None),
    ]
    for method, rest, body in requests:
        await bulk.ask(method, rest, body)
    await bulk.run()
    await bulk.ask("GET", "")
    await api.client.get("/v2/operations")
    await api.client.get("/v2/operations?pageNumber=0")


async def _deliveries_scenario(api: RunningApi) -> None:
    results = Results(api, await api.create_endpoint())
    await results.give_up("a", "b")
    orders: list[tuple[str, str, object]] = [
        ("POST", "/tasks/a/deliveries/retry", None),
        ("POST", "/tasks/a/deliveries/redeliver", None),
        ("GET", "/tasks/a/deliveries", None),
        ("GET", "/deliveries", None),
        ("GET", "/deliveries?status=FAILED", None),
        ("GET", "/deliveries/recover", None),
        ("POST", "/deliveries/recover", {"since": 0}),
        ("POST", "/deliveries/recover", {"since": 1}),
        ("GET", "/deliveries/recover", None),
        ("DELETE", "/deliveries/recover", None),
    ]
    for method, rest, body in orders:
        await results.ask(method, rest, body)


async def _destinations_scenario(api: RunningApi) -> None:
    base, hooks = "/v2/destinations", "https:hooks.example.net:443"
    note = DestinationNote("https://hooks.example.net:443", Standing.PARKED, since_ms=0, error_type="reset")
    await api.store.standings.write("process", [TenantNote("default", note)])
    for method, path in (("GET", ""), ("GET", f"/{hooks}"), ("POST", f"/{hooks}/resume"), ("GET", "/wrong")):
        await api.client.request(method, base + path)
    await api.store.standings.write("process", [])
    path = f"/v2/serverless/{await api.create_endpoint()}/webhook-test"
    await api.post(path, {})
    testing = asyncio.create_task(api.post(path, {"webhook": "https://hooks.example.net/"}))
    taken = None
    while taken is None:
        taken = await api.store.webhook_tests.take(1.0)
    await api.store.webhook_tests.respond(taken.test, WebhookResponse(200, None, "thanks"))
    await testing


async def _workers_scenario(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint()
    for name in ("w-1", "w-2"):
        await api.store.workers.put(endpoint_id, name, managed=True)
    await api.client.get("/v2/workers")
    await api.store.logs.append(endpoint_id, "w-1", "batch", ["line"], retention_ms=60_000)
    for query in ("", "?cursor=1-0-w-1", "?cursor=wrong"):
        await api.client.get(f"/v2/serverless/{endpoint_id}/logs{query}")
    await api.client.get("/v2/workers", params={"cursor": "wrong"})
    for path in ("w-1/restart", "w-2/drain", "none/drain"):
        await api.client.post(f"/v2/serverless/{endpoint_id}/workers/{path}")


async def _life_cycle_scenario(api: RunningApi) -> None:
    base = f"/v2/serverless/{await api.create_endpoint()}"
    changes = {name: ENDPOINT[name] for name in ("name", "resources", "workers", "containerVolumeInGb")}
    await api.client.patch(base, json=changes)
    await api.client.patch(base, json={})
    await api.client.patch(base, json={"name": None})
    variables = [{"key": "A", "value": "b"}, {"key": "C", "value": "d", "secret": False}]
    await api.client.patch(base, json={"environmentVars": variables})
    rotate = ("POST", "/webhook-secret/rotate")
    for method, path in (
        *([rotate] * 5),
        ("GET", "/webhook-secret"),
        *(("PUT", "/workers?count=2"), ("PUT", "/workers/3"), ("PUT", "/workers?count=x")),
        *(("POST", "/pause"), ("POST", "/resume")),
        *(("POST", "/stop"), ("POST", "/start"), ("DELETE", ""), ("DELETE", ""), ("POST", "/start")),
    ):
        await api.client.request(method, base + path)


async def _credentials_scenario(api: RunningApi) -> None:
    path = "/v2/container-registry-auths"
    credential = {"name": "ours", "type": "GCR", "username": "robot", "password": "a password"}
    used, free = [(await api.post(path, credential)).json()["data"]["id"] for _ in range(2)]
    await api.create_endpoint(containerRegistryAuthId=used)
    await api.post(path, credential | {"type": "other"})
    await api.client.get(path)
    for one in (used, 77):
        await api.client.get(f"{path}/{one}")
        await api.client.patch(f"{path}/{one}", json={"name": "theirs"})
        await api.client.patch(f"{path}/{one}", json={"name": None})
    for one in (used, free, 77):
        await api.client.delete(f"{path}/{one}")


async def _keys_scenario(api: RunningApi) -> None:
    await api.client.get("/v2/me")
    await api.client.post("/v2/console-links")
    await api.client.get("/v2/templates")
    await api.client.get("/v2/catalogue")
    await api.client.get("/v2/system")
    await api.client.get("/v2/series")
    answer = await api.post("/v2/keys", {"name": "dashboard", "role": "read"})
    key = answer.json()["data"]
    await api.post("/v2/keys", {"name": "no role"})
    await api.client.get("/v2/keys")
    await api.client.get("/v2/keys?pageNumber=0")
    await api.client.get("/v2/audit")
    await api.client.get("/v2/audit?pageSize=0")
    await api.client.get("/v2/keys", headers={"X-Api-Key": key["key"]})
    for method, path in (("POST", "/rotate"), ("POST", "/rotate"), ("DELETE", ""), ("DELETE", ""), ("POST", "/rotate")):
        await api.client.request(method, f"/v2/keys/{key['id']}{path}")


async def _agent_tokens_scenario(api: RunningApi) -> None:
    path = f"/v2/serverless/{await api.create_endpoint()}/agent-tokens"
    token = (await api.post(path, {"name": "office"})).json()["data"]
    await api.post(path, {})
    await api.client.get(path)
    for _ in range(2):
        await api.client.delete(f"{path}/{token['id']}")


async def _tenants_scenario(api: RunningApi) -> None:
    operator = await api.new_key(OPERATORS, role=Role.OPERATOR)
    await api.client.get("/v2/tenants")
    requests: list[tuple[str, str, Any]] = [
        *(("POST", "", body) for body in ({"name": "acme"}, {"name": "acme"}, {"name": "?"})),
        *(("PATCH", name, {"limits": {"workers": 5, "endpoints": None}}) for name in ("/acme", "/none")),
        *(("GET", path, None) for path in ("", "?pageSize=0", "/acme", "/none")),
    ]
    for method, path, body in requests:
        await api.client.request(method, f"/v2/tenants{path}", json=body, headers={"X-Api-Key": operator})


async def _succeed(api: RunningApi, endpoint_id: str) -> None:
    claims = api.store.queue(endpoint_id=endpoint_id, worker_id="w1", lease_ms=30_000)
    (entry,) = await claims.claim(1, block_ms=1000)
    started = await claims.start(entry, address="127.0.0.1:8000")
    assert started is not None
    await claims.settle(started.lease, Succeeded(b'{"a": [1.5, null]}'))


def _operations(api: RunningApi) -> list[Operation]:
    return [route for route in api.app.routes if isinstance(route, Operation)]


def _operation_of(operations: list[Operation], request: httpx.Request) -> Operation:
    for operation in operations:
        if operation.path_regex.match(request.url.path) and request.method in (operation.methods or ()):
            return operation
    raise AssertionError(f"{request.method} {request.url} is not described")


def _checking(check: Any) -> Any:
    async def hook(answer: httpx.Response) -> None:
        await answer.aread()
        check(answer)

    return hook


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


async def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing(api: RunningApi) -> None:
    answer = await api.client.get("/docs")
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none';")
    assert "script-src" not in policy
    style = re.search(r"<style>(.*?)</style>", answer.text, re.DOTALL)
    assert style is not None
    assert base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode() in policy
    assert not re.search(r"<script|<link|<img|\bon\w+=|https?://(?!hooks\.example)|javascript:", answer.text)
    for operation in _operations(api):
        assert operation.path in answer.text


def test_the_page_escapes_what_it_shows(api_operations: list[Operation]) -> None:
    document = describe(api_operations)
    document["info"]["title"] = "<b>"
    document["tags"][0]["description"] = '`<script>` & "quotes"'
    page = render(document)
    assert "<script>" not in page
    assert "<b>" not in page
    assert "<code>&lt;script&gt;</code> &amp; &quot;quotes&quot;" in page


@pytest.fixture
async def api_operations(api: RunningApi) -> list[Operation]:
    return _operations(api)
