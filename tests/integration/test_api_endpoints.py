"""Endpoints and their workers over HTTP."""

import asyncio
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import pytest
from pydantic import SecretStr

from queue_engine.config.store_url import parse_store_url
from queue_engine.crypto.sealing import new_secret_key
from queue_engine.domain.workers import WorkerStatus
from queue_engine.net.resolver import NoAnswer
from queue_engine.store.redis.client import connect
from queue_engine.store.store import Store
from tests.api_server import ENDPOINT, RunningApi, ScriptedLookup, running_api
from tests.servers import StoreServer
from tests.waiting import wait_until_async

RESOURCE = ENDPOINT["resources"][0]


async def test_an_endpoint_is_created_and_read_back(api: RunningApi) -> None:
    body = ENDPOINT | {
        "name": "a@b.c-d_1",
        "imageRegistry": "registry.example",
        "minSingleCardVramInGb": 24,
        "minSingleCardVcpu": 4,
        "minSingleCardRamInGb": 64,
        "workers": 3,
        "containerVolumeInGb": 50,
        "initializationCommand": "python serve.py",
        "environmentVars": [{"key": "B", "value": "canary"}, {"name": "A", "value": ""}],
        "expose": {"port": 8000, "protocol": "Tcp"},
        "webhook": "https://hooks.example.com/x",
        "concurrency": 4,
        "executionTimeoutSeconds": 60,
        "maxAttempts": 7,
        "maxQueuedTasks": 100,
        "resultRetentionSeconds": 3600,
    }
    answer = await api.post("/v2/serverless", body)
    assert answer.status_code == 200
    created = answer.json()["data"]
    expected = body | {
        "status": "INITIALIZING",
        "totalWorkers": 3,
        "runningWorkers": 0,
        "cost": 0,
        "containerRegistryAuthId": None,
        "environmentVars": [{"key": "A"}, {"key": "B"}],
        "expose": {"port": 8000, "protocol": "TCP"},
        "queuedTasks": 0,
        "runningTasks": 0,
        "paused": False,
        "rateLimit": None,
    }
    del expected["workers"]
    assert {name: created[name] for name in expected} == expected
    assert created["id"].isdigit()
    assert created["createdAt"] == created["updatedAt"] > 1_700_000_000_000
    assert "canary" not in answer.text
    secret = created.pop("webhookSecret")
    shown = await api.client.get(f"/v2/serverless/{created['id']}/webhook-secret")
    assert shown.json()["data"] == {"secret": secret}
    read = await api.client.get(f"/v2/serverless/{created['id']}")
    assert read.json() == {"message": "success", "code": 10000, "data": created | {"error": None}}


@pytest.mark.parametrize("mode", ["ALB", "QUEUE", "CUSTOM"])
async def test_every_service_mode_is_kept(api: RunningApi, mode: str) -> None:
    endpoint_id = await api.create_endpoint(serviceMode=mode, workers=0)
    data = (await api.client.get(f"/v2/serverless/{endpoint_id}")).json()["data"]
    assert (data["serviceMode"], data["totalWorkers"]) == (mode, 0)


async def test_extra_fields_are_neither_refused_nor_stored(api: RunningApi) -> None:
    answer = await api.client.post(
        "/v2/serverless",
        json=ENDPOINT | {"status": "RUNNING", "tenantId": "other", "id": "99", "cost": 5, "canary": "canary"},
    )
    data = answer.json()["data"]
    assert data["status"] == "INITIALIZING"
    assert data["id"] != "99"
    for key in await api.store.redis.keys("*"):
        if await api.store.redis.type(key) == b"hash":
            assert b"canary" not in b"".join((await api.store.redis.hgetall(key)).values())  # type: ignore[misc]


async def test_optional_fields_may_be_null(api: RunningApi) -> None:
    optional = (
        "imageRegistry",
        "minSingleCardVcpu",
        "initializationCommand",
        "environmentVars",
        "expose",
        "maxAttempts",
    )
    answer = await api.post("/v2/serverless", ENDPOINT | dict.fromkeys(optional))
    assert answer.status_code == 200
    assert answer.json()["data"]["maxAttempts"] == 5


async def test_a_rotated_secret_is_shown_once(api: RunningApi) -> None:
    created = (await api.post("/v2/serverless", ENDPOINT)).json()["data"]
    path = f"/v2/serverless/{created['id']}/webhook-secret"
    before_ms = await api.store.now_ms()
    answer = await api.client.post(f"{path}/rotate")
    assert answer.status_code == 200
    rotated = answer.json()["data"]
    assert rotated["secret"] not in (created["webhookSecret"], "")
    assert rotated["replacedSecretEndsAt"] >= before_ms + 24 * 3600 * 1000
    refused = await api.client.get(path)
    assert (refused.status_code, refused.json()["code"], refused.json()["data"]) == (409, 12001, None)
    assert refused.json()["message"].startswith("webhook-secret: has been rotated")
    for shown in (f"/v2/serverless/{created['id']}", "/v2/serverless", "/v2/audit"):
        assert "whsec_" not in (await api.client.get(shown)).text


def _with_each(base: dict[str, Any], name: str, *values: Any) -> list[dict[str, Any]]:
    return [base | {name: value} for value in values]


BAD_VALUES: dict[str, list[Any]] = {
    "name": ["", "1a", "-a", "a" * 21, "a b", "a\n", "é", "a/b", 5, None, [], "a\x00", "\ud800"],
    "image": ["", "i" * 256, "a b", "a\n", "\x00", 5, None, {}, "é"],
    "imageRegistry": ["r" * 256, "a\nb", 5],
    "containerRegistryAuthId": [1, 0, -1, "1", 1.0, True, 10**30],
    "resources": [
        *([], {}, None, "x", [5], [None], [{}], [RESOURCE] * 101),
        *([one] for one in _with_each(RESOURCE, "region", "", None, 5, "r" * 65, "a\nb", "\ud800")),
        *([one] for one in _with_each(RESOURCE, "gpuType", "", "ABACUS", None, 5, "NVIDIA_H100_80G\n", "\ud800")),
        *([one] for one in _with_each(RESOURCE, "gpuCount", 0, -1, True, "1", 1.0, 1.5, None, 10**30)),
    ],
    "minSingleCardVramInGb": [-1, 1537, "1", 1.0, True, 10**30],
    "minSingleCardVcpu": [-1, "1", 1.5, False],
    "minSingleCardRamInGb": [-1, 1537, "1", 1.5],
    "workers": [-1, 1.0, "1", True, None, 10**9, 10**30],
    "containerVolumeInGb": [19, 0, -20, 20.0, "20", None, 10**30],
    "initializationCommand": [5, ["a"], "a\x00b", "\ud800", "x" * 40_000],
    "environmentVars": [
        *({}, "A=b", [5], [{}], [{"key": "A"}], [{"value": "b"}]),
        *([one] for one in _with_each({"value": "v"}, "key", "", "1A", "A B", "A=B", "A\n", "é", None, 5)),
        *([one] for one in _with_each({"name": "A"}, "value", None, 5, "a\x00", "\ud800", "x" * 40_000)),
        [{"key": "A", "value": "1"}, {"name": "A", "value": "2"}],
        [{"key": f"A{index}", "value": ""} for index in range(501)],
        [{"key": f"A{index}", "value": "x" * 30_000} for index in range(5)],
    ],
    "expose": [
        *([], "8000", 8000, {}, {"port": 8000}, {"protocol": "http"}),
        *_with_each({"protocol": "http"}, "port", 0, 65536, -1, "80", 80.0, True, None),
        *_with_each({"port": 80}, "protocol", "udp", "", "HTTPS", None, 5, "http "),
    ],
    "serviceMode": ["queue", "", "OTHER", None, 5, "QUEUE\n", ["QUEUE"]],
    "webhook": [None, 5, {}, "", "x", "ftp://a.example/", "http://127.0.0.1/", "http://10.0.0.5/"],
    "concurrency": [0, -1, 1001, 1.0, "1", True],
    "executionTimeoutSeconds": [0, -1, 10**9, 1.0, "1"],
    "maxAttempts": [0, 101, 1.0, "1"],
    "maxQueuedTasks": [0, 10**9, 1.0, "1"],
    "resultRetentionSeconds": [0, 10**9, 1.0, "1"],
}


@pytest.mark.parametrize("name", BAD_VALUES)
async def test_a_bad_field_is_named_and_nothing_is_stored(api: RunningApi, name: str) -> None:
    before = await api.keys_stored()
    for value in BAD_VALUES[name]:
        answer = await api.post("/v2/serverless", ENDPOINT | {name: value})
        told = answer.json()
        assert (answer.status_code, told["code"], told["data"]) == (400, 10001, None), (value, answer.text)
        assert told["message"].startswith(name), (value, answer.text)
    assert await api.keys_stored() == before


@pytest.mark.parametrize("name", ["name", "image", "resources", "workers", "containerVolumeInGb", "serviceMode"])
async def test_a_required_field_is_missed_by_name(api: RunningApi, name: str) -> None:
    answer = await api.post("/v2/serverless", {key: one for key, one in ENDPOINT.items() if key != name})
    assert (answer.status_code, answer.json()["message"]) == (400, f"{name}: is required")


async def test_without_a_secret_key_environment_variables_are_refused(valkey_url: str) -> None:
    async with running_api(valkey_url, with_secret_key=False) as api:
        variables = [{"key": "A", "value": "canary"}]
        answer = await api.post("/v2/serverless", ENDPOINT | {"environmentVars": variables})
        assert answer.status_code == 400
        assert answer.json()["message"].startswith("environmentVars: ")
        assert "QUEUE_ENGINE_SECRET_KEY" in answer.text
        assert await api.create_endpoint(environmentVars=[])


async def test_environment_variables_are_nowhere_in_clear(api: RunningApi, valkey_url: str) -> None:
    await api.create_endpoint(environmentVars=[{"key": "A", "value": "canary-7f3a"}])
    redis = connect(valkey_url)
    for key in await redis.keys("*"):
        assert b"canary-7f3a" not in (await redis.dump(key) or b"")
    await redis.aclose()


async def test_endpoints_are_listed_newest_first_and_by_status(api: RunningApi) -> None:
    first, second, third = [await api.create_endpoint(name=name) for name in ("a", "b", "c")]
    await _add_worker(api, second, "w1", WorkerStatus.RUNNING)
    await api.store.endpoints.set_failed(third, True)

    async def listed(query: str) -> list[str]:
        answer = await api.client.get(f"/v2/serverless{query}")
        assert answer.status_code == 200, answer.text
        return [one["id"] for one in answer.json()["data"]]

    assert await listed("") == [third, second, first]
    assert await listed("?statusList=RUNNING") == [second]
    assert await listed("?statusList=running,Failed") == [third, second]
    assert await listed("?statusList=running&statusList=INITIALIZING") == [second, first]
    assert await listed("?statusList=STOPPED") == []
    assert await listed("?other=1&statusList=FAILED,%20RUNNING") == [third, second]


async def test_endpoints_are_found_by_their_exact_name(api: RunningApi) -> None:
    first, other, second = [await api.create_endpoint(name=name) for name in ("echo", "echo2", "echo")]

    async def listed(query: str, **headers: str) -> list[str]:
        answer = await api.client.get(f"/v2/serverless?{query}", headers=headers)
        assert answer.status_code == 200, answer.text
        return [one["id"] for one in answer.json()["data"]]

    assert await listed("name=echo") == [second, first]
    assert await listed("name=echo2") == [other]
    assert await listed("name=Echo") == []
    assert await listed("name=echo&statusList=STOPPED") == []
    assert await listed("name=echo&pageNumber=2&pageSize=1") == [first]
    limited = {"X-Api-Key": await api.new_key("default", endpoints=frozenset({first, other}))}
    assert await listed("name=echo", **limited) == [first]
    assert await listed("name=echo", **{"X-Api-Key": await api.new_key("other")}) == []
    for name in ("", "a%20b", "9", "x" * 21):
        answer = await api.client.get(f"/v2/serverless?name={name}")
        assert (answer.status_code, answer.json()["message"][:6]) == (400, "name: ")


async def test_a_page_of_the_endpoints_is_listed(api: RunningApi) -> None:
    ids = [await api.create_endpoint(name=f"e{number}") for number in range(12)][::-1]
    for failed in ids[1::2]:
        await api.store.endpoints.set_failed(failed, True)

    async def listed(query: str) -> list[str]:
        answer = await api.client.get(f"/v2/serverless?{query}")
        assert answer.status_code == 200, answer.text
        return [one["id"] for one in answer.json()["data"]]

    assert await listed("pageSize=5") == ids[:5]
    assert await listed("pageNumber=3&pageSize=5") == ids[10:]
    assert await listed("pageNumber=1") == ids[:10]
    assert await listed("pageNumber=1000000000&pageSize=1000") == []
    assert await listed("pageNumber=2&pageSize=4&statusList=FAILED") == ids[9::2]
    for query in ("pageNumber=0", "pageNumber=1000000001", "pageSize=0", "pageSize=1001", "pageSize=x", "pageSize="):
        answer = await api.client.get(f"/v2/serverless?{query}")
        name, maximum = query.partition("=")[0], 1000 if "Size" in query else 1_000_000_000
        assert (answer.status_code, answer.json()["message"]) == (
            400,
            f"{name}: must be an integer from 1 to {maximum}",
        )


@pytest.mark.parametrize("path", ["/v2/serverless", "/v2/serverless/{id}/workers"])
async def test_an_unknown_status_is_refused(api: RunningApi, path: str) -> None:
    endpoint_id = await api.create_endpoint()
    for status in ("XYZ", "RUNNING,XYZ", "", ",", "RUNNING,", "RUNNING;FAILED", "R%C3%9CNNING", "%00", "RUNNING%0A"):
        answer = await api.client.get(f"{path.format(id=endpoint_id)}?statusList={status}")
        assert (answer.status_code, answer.json()["code"]) == (400, 10001), status
        assert answer.json()["message"].startswith("statusList: must be one of ")


async def test_workers_are_listed_oldest_first_and_by_status(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint()
    await _add_worker(api, endpoint_id, "w1", WorkerStatus.RUNNING, running_tasks=2)
    await _add_worker(api, endpoint_id, "w2", WorkerStatus.FAILED, error="container exited with status 3")
    path = f"/v2/serverless/{endpoint_id}/workers"
    first, second = (await api.client.get(path)).json()["data"]
    assert {name: first[name] for name in ("workerId", "status", "region", "gpuType", "restarts", "runningTasks")} == {
        "workerId": "w1",
        "status": "RUNNING",
        "region": "us-east-3",
        "gpuType": "NVIDIA_RTX_4090_24G",
        "restarts": 0,
        "runningTasks": 2,
    }
    assert first["lastHeartbeatAt"] >= first["createdAt"] > 1_700_000_000_000
    assert (second["status"], second["error"]) == ("FAILED", "container exited with status 3")
    only = (await api.client.get(f"{path}?statusList=failed")).json()["data"]
    assert [one["workerId"] for one in only] == ["w2"]
    assert (await api.client.get(f"/v2/serverless/{endpoint_id}")).json()["data"]["runningWorkers"] == 1


async def test_a_webhook_is_judged_by_where_its_name_leads(valkey_url: str) -> None:
    lookup = ScriptedLookup({"inside.example": ["10.1.2.3"], "outside.example": ["93.184.216.34"]})
    async with running_api(valkey_url, lookup=lookup) as api:
        assert (await _with_webhook(api, "http://outside.example/")) == 200
        assert (await _with_webhook(api, "http://inside.example/")) == 400


async def test_a_name_that_resolves_inside_is_refused_in_the_words_for_one_that_does_not_resolve(
    valkey_url: str,
) -> None:
    lookup = ScriptedLookup({"inside.example": ["10.1.2.3"], "mixed.example": ["8.8.8.8", "::1"], "none.example": None})
    async with running_api(valkey_url, lookup=lookup) as api:
        endpoint_id = await api.create_endpoint()
        answers = []
        for host in ("inside.example", "mixed.example", "none.example"):
            url = f"http://{host}/hook"
            answers += [
                await api.submit(endpoint_id, webhook=url),
                await api.post("/v2/serverless", ENDPOINT | {"webhook": url}),
                await api.client.patch(f"/v2/serverless/{endpoint_id}", json={"webhook": url}),
            ]
        assert {answer.status_code for answer in answers} == {400}
        messages = {answer.json()["message"] for answer in answers}
        assert len(messages) == 1
        assert "QUEUE_ENGINE_WEBHOOK_ALLOW" in messages.pop()


async def test_a_name_passes_while_no_name_server_responds(valkey_url: str) -> None:
    class Silent(ScriptedLookup):
        async def addresses(self, host: str, owner: str = "") -> Sequence[str]:
            raise NoAnswer(host)

    async with running_api(valkey_url, lookup=Silent()) as api:
        assert (await _with_webhook(api, "http://outside.example/")) == 200
        assert (await _with_webhook(api, "http://db.internal/")) == 400


async def test_webhooks_to_loopback_pass_while_there_is_one_tenant(valkey_url: str) -> None:
    urls = ("http://127.0.0.1:9/", "http://[::1]:9/", "http://localhost:9/", "http://me.example:9/")
    lookup = ScriptedLookup({"localhost": ["127.0.0.1", "::1"], "me.example": ["127.0.0.1"]})
    async with running_api(valkey_url, lookup=lookup, webhook_loopback=True) as api:
        assert [await _with_webhook(api, url) for url in urls] == [200] * 4
        assert await _with_webhook(api, "http://10.0.0.5/") == 400
        assert await _with_webhook(api, f"http://127.0.0.1:{api.port}/") == 400
        await api.new_key("second")
        assert [await _with_webhook(api, url) for url in urls] == [400] * 4


async def test_the_stores_port_and_own_hosts_are_refused_whatever_is_allowed(
    valkey_url: str, valkey_server: StoreServer
) -> None:
    everything = "0.0.0.0/0,::/0"
    async with running_api(valkey_url, webhook_allow=everything, own_hosts="Api.Example.com.,b.example:8443") as api:
        endpoint_id = await api.create_endpoint()
        for url in (
            f"http://127.0.0.1:{valkey_server.port}/",
            f"http://[::ffff:127.0.0.1]:{valkey_server.port}/",
            "https://api.example.com/v2/serverless/1/tasks",
            "http://API.example.com.:8080/",
            "https://b.example:8443/",
        ):
            for answer in (
                await api.submit(endpoint_id, webhook=url),
                await api.post("/v2/serverless", ENDPOINT | {"webhook": url}),
            ):
                assert (answer.status_code, answer.json()["message"][:9]) == (400, "webhook: "), url
        assert await _with_webhook(api, "https://b.example/") == 200


async def test_the_ports_of_both_stores_are_refused_in_networks_that_are_allowed(valkey_url: str) -> None:
    lookup = ScriptedLookup({"jobs": ["10.0.0.5"], "jobs.internal": ["10.0.0.5"], "hook.internal": ["10.0.0.7"]})
    control = SecretStr("redis+sentinel://jobs.internal:7001/jobs")
    async with running_api(valkey_url, webhook_allow="10.0.0.0/8", control_redis_url=control, lookup=lookup) as api:
        store_port = parse_store_url(valkey_url).addresses[0].port
        for host, port in product(("10.0.0.5", "jobs", "jobs.internal", "hook.internal"), (store_port, 7001, 6379)):
            assert await _with_webhook(api, f"http://{host}:{port}/") == 400, (host, port)
        for host in ("10.0.0.5", "jobs", "jobs.internal", "hook.internal"):
            assert await _with_webhook(api, f"http://{host}:7002/") == 200, host


async def test_a_name_of_the_private_network_is_refused_in_one_wording(valkey_url: str) -> None:
    lookup = ScriptedLookup({"jobs.example": ["10.0.0.5"], "absent.example": None})
    control = SecretStr("redis://jobs.example:7001")
    own = "10.0.0.5,absent.example"
    async with running_api(valkey_url, control_redis_url=control, own_hosts=own, lookup=lookup) as api:
        urls = [f"http://{host}:{port}/" for host, port in product(("jobs.example", "absent.example"), (7001, 7002))]
        refusals = [await api.post("/v2/serverless", ENDPOINT | {"webhook": url}) for url in urls]
        assert {answer.status_code for answer in refusals} == {400}
        assert len({answer.json()["message"] for answer in refusals}) == 1


async def _with_webhook(api: RunningApi, url: str) -> int:
    return (await api.post("/v2/serverless", ENDPOINT | {"webhook": url})).status_code


async def _add_worker(
    api: RunningApi, endpoint_id: str, worker_id: str, status: WorkerStatus, *, running_tasks: int = 0, error: str = ""
) -> None:
    await api.store.workers.put(endpoint_id, worker_id, managed=True)
    await api.store.workers.report(endpoint_id, worker_id, status, running_tasks=running_tasks, address="127.0.0.1:1")
    if error:
        await api.store.workers.mark(endpoint_id, worker_id, status, reason="ended", error=error)


async def test_an_endpoint_without_workers_is_changed_field_by_field(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint(workers=0)
    path = f"/v2/serverless/{endpoint_id}"
    before = (await api.client.get(path)).json()["data"]
    assert before.pop("error") is None
    same = await api.client.patch(path, json={})
    assert (same.status_code, same.json()["data"]) == (200, before)
    changed = (await api.client.patch(path, json={"concurrency": 3})).json()["data"]
    assert changed == before | {"concurrency": 3, "updatedAt": changed["updatedAt"]}
    all_four = {name: before[name] for name in ("name", "resources", "containerVolumeInGb")} | {"workers": 0}
    assert (await api.client.patch(path, json=all_four)).json()["data"] == changed
    for field in all_four:
        refused = await api.client.patch(path, json={field: None, "concurrency": 9})
        assert refused.status_code == 400
        assert refused.json()["message"].startswith(f"{field}: must be ")
    assert (await api.client.get(path)).json()["data"] == changed | {"error": None}


async def test_an_endpoint_without_a_running_worker_shows_the_error_of_the_newest_one_or_the_platforms_problem(
    api: RunningApi,
) -> None:
    failing, empty, running = [await api.create_endpoint() for _ in range(3)]
    away = "the container engine cannot be reached: No such file or directory"
    await api.store.platform_note.write(away)
    await _add_worker(api, failing, "w1", WorkerStatus.FAILED, error="container exited with status 3")
    await _add_worker(api, running, "w1", WorkerStatus.RUNNING)

    async def errors() -> list[str | None]:
        paths = [f"/v2/serverless/{one}" for one in (failing, empty, running)]
        return [(await api.client.get(path)).json()["data"]["error"] for path in paths]

    assert await errors() == ["container exited with status 3", away, None]
    await api.store.platform_note.write(None)

    async def is_over() -> bool:
        return await errors() == ["container exited with status 3", None, None]

    await wait_until_async(is_over, message="the problem is shown after its end")


async def test_the_queue_is_paused_and_resumed(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint()
    path = f"/v2/serverless/{endpoint_id}"
    for order, paused in (("pause", True), ("pause", True), ("resume", False), ("resume", False)):
        answer = await api.client.post(f"{path}/{order}")
        assert (answer.status_code, answer.json()["data"]) == (200, True)
        assert (await api.client.get(path)).json()["data"]["paused"] is paused
    assert (await api.client.post("/v2/serverless/987654/pause")).status_code == 404


async def _let_an_old_agent_work(store: Store, endpoint_id: str) -> None:
    """Report a worker as agents of version 0.2 do."""
    await store.workers.put(endpoint_id, "old", managed=False)
    await store.workers.report(endpoint_id, "old", WorkerStatus.RUNNING, running_tasks=0, address="h:1")
    await store.redis.hdel(store.partitions.of(endpoint_id).of_worker("old").worker, "protocol")  # type: ignore[misc]


async def test_no_rate_limit_is_set_while_an_agent_of_an_earlier_version_works(api: RunningApi) -> None:
    limit = {"perSecond": 1, "burst": 1}
    endpoint_id = await api.create_endpoint(rateLimit=limit)
    await _let_an_old_agent_work(api.store, endpoint_id)
    path = f"/v2/serverless/{endpoint_id}"
    answer = await api.client.patch(path, json={"rateLimit": {"perSecond": 2, "burst": 1}})
    assert (answer.status_code, answer.json()["code"]) == (409, 12001)
    assert "earlier version" in answer.json()["message"]
    assert (await api.client.get(path)).json()["data"]["rateLimit"] == limit
    for change in ({"rateLimit": limit}, {"name": "other"}, {"rateLimit": None}):
        assert (await api.client.patch(path, json=change)).status_code == 200


async def test_no_409_is_retried_while_an_agent_of_an_earlier_version_works(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint(retryOn=["503"])
    path = f"/v2/serverless/{endpoint_id}"
    assert (await api.client.patch(path, json={"retryOn": ["503", "409"]})).status_code == 200
    assert (await api.client.get(path)).json()["data"]["retryOn"] == ["503", "409"]
    await _let_an_old_agent_work(api.store, endpoint_id)
    assert (await api.client.patch(path, json={"retryOn": ["409"]})).status_code == 200
    assert (await api.client.patch(path, json={"retryOn": ["500"]})).status_code == 200
    answer = await api.client.patch(path, json={"retryOn": ["500", "409"]})
    assert (answer.status_code, answer.json()["code"]) == (409, 12001)
    assert "earlier version" in answer.json()["message"]
    assert (await api.client.get(path)).json()["data"]["retryOn"] == ["500"]


async def test_a_queue_is_not_paused_while_an_agent_of_an_earlier_version_works(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint()
    await _let_an_old_agent_work(api.store, endpoint_id)
    answer = await api.client.post(f"/v2/serverless/{endpoint_id}/pause")
    assert (answer.status_code, answer.json()["code"]) == (409, 12001)
    assert "earlier version" in answer.json()["message"]
    assert (await api.client.get(f"/v2/serverless/{endpoint_id}")).json()["data"]["paused"] is False


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"perSecond": 0.001, "burst": 1}, "rateLimit.perSecond"),
        ({"perSecond": 10_001, "burst": 1}, "rateLimit.perSecond"),
        ({"perSecond": 1, "burst": 0}, "rateLimit.burst"),
        ({"perSecond": 1}, "rateLimit.burst"),
        ("1", "rateLimit"),
    ],
)
async def test_a_wrong_rate_limit_is_refused_by_name_and_changes_nothing(
    api: RunningApi, given: Any, field: str
) -> None:
    path = f"/v2/serverless/{await api.create_endpoint()}"
    right = {"perSecond": 0.5, "burst": 3}
    assert (await api.client.patch(path, json={"rateLimit": right})).json()["data"]["rateLimit"] == right
    answer = await api.client.patch(path, json={"rateLimit": given})
    assert (answer.status_code, answer.json()["code"]) == (400, 10001)
    assert field in answer.json()["message"]
    assert (await api.client.get(path)).json()["data"]["rateLimit"] == right
    assert (await api.client.patch(path, json={"rateLimit": None})).json()["data"]["rateLimit"] is None


def variables(given: Mapping[str, str | None]) -> dict[str, Any]:
    return {
        "environmentVars": [
            {"key": name} if value is None else {"key": name, "value": value} for name, value in given.items()
        ]
    }


class TestPreconditions:
    """A change of the endpoint that the client has read, and of no later one."""

    async def test_a_change_names_the_version_that_was_read(self, api: RunningApi) -> None:
        path = f"/v2/serverless/{await api.create_endpoint()}"
        tag = (await api.client.get(path)).headers["etag"]
        changed = await api.client.patch(path, json={"workers": 2}, headers={"If-Match": tag})
        assert changed.status_code == 200
        assert changed.headers["etag"] != tag
        assert (await api.client.get(path)).headers["etag"] == changed.headers["etag"]
        late = await api.client.patch(path, json={"workers": 3}, headers={"If-Match": tag})
        assert (late.status_code, late.json()["code"], late.json()["data"]) == (412, 12001, None)
        assert late.json()["message"] == "If-Match: the endpoint was changed since it was read"
        read = await api.client.get(path)
        assert (read.json()["data"]["totalWorkers"], read.headers["etag"]) == (2, changed.headers["etag"])

    async def test_of_changes_at_once_one_is_made(self, api: RunningApi) -> None:
        path = f"/v2/serverless/{await api.create_endpoint(maxAttempts=1)}"
        headers = {"If-Match": (await api.client.get(path)).headers["etag"]}
        answers = await asyncio.gather(
            *(api.client.patch(path, json={"maxAttempts": 2 + number}, headers=headers) for number in range(8))
        )
        assert sorted(one.status_code for one in answers) == [200] + [412] * 7
        made = next(one for one in answers if one.status_code == 200).json()["data"]["maxAttempts"]
        assert (await api.client.get(path)).json()["data"]["maxAttempts"] == made

    async def test_a_change_that_is_made_already_is_not_refused(self, api: RunningApi) -> None:
        """As after a lost response."""
        path = f"/v2/serverless/{await api.create_endpoint()}"
        headers = {"If-Match": (await api.client.get(path)).headers["etag"]}
        change = {"maxAttempts": 7, **variables({"A": "1"})}
        answers = [await api.client.patch(path, json=change, headers=headers) for _ in range(2)]
        assert [one.status_code for one in answers] == [200, 200]
        assert answers[0].headers["etag"] == answers[1].headers["etag"]

    async def test_a_refused_change_keeps_no_credential_and_is_not_audited(self, api: RunningApi) -> None:
        path = f"/v2/serverless/{await api.create_endpoint()}"
        headers = {"If-Match": (await api.client.get(path)).headers["etag"]}
        await api.client.patch(path, json={"maxAttempts": 7})
        body = {"name": "hub", "type": "DOCKER_HUB", "username": "user", "password": "password"}
        credential = (await api.post("/v2/container-registry-auths", body)).json()["data"]["id"]
        changes = len((await api.client.get("/v2/audit")).json()["data"]["items"])
        late = await api.client.patch(path, json={"containerRegistryAuthId": credential}, headers=headers)
        assert late.status_code == 412
        assert len((await api.client.get("/v2/audit")).json()["data"]["items"]) == changes
        assert (await api.client.delete(f"/v2/container-registry-auths/{credential}")).status_code == 200

    @pytest.mark.parametrize("order", ["stop", "pause"])
    async def test_an_endpoint_that_was_stopped_or_paused_has_another_version(
        self, api: RunningApi, order: str
    ) -> None:
        path = f"/v2/serverless/{await api.create_endpoint()}"
        headers = {"If-Match": (await api.client.get(path)).headers["etag"]}
        await api.client.post(f"{path}/{order}")
        assert (await api.client.patch(path, json={"workers": 9}, headers=headers)).status_code == 412

    @pytest.mark.parametrize("order", ["stop", "start", "pause", "resume", "delete"])
    async def test_an_order_is_refused_if_the_endpoint_was_changed_since_it_was_read(
        self, api: RunningApi, order: str
    ) -> None:
        path = f"/v2/serverless/{await api.create_endpoint()}"
        method, target = ("DELETE", path) if order == "delete" else ("POST", f"{path}/{order}")
        for before in {"start": ["stop"], "resume": ["pause"]}.get(order, []):
            await api.client.post(f"{path}/{before}")
        tag = (await api.client.get(path)).headers["etag"]
        changed = await api.client.patch(path, json={"maxAttempts": 7})
        read, audited = (await api.client.get(path)).json(), (await api.client.get("/v2/audit")).json()["data"]["items"]
        for given in (tag, '"x"'):
            late = await api.client.request(method, target, headers={"If-Match": given})
            assert (late.status_code, late.json()["code"], late.json()["data"]) == (412, 12001, None)
            assert late.json()["message"] == "If-Match: the endpoint was changed since it was read"
        wrong = await api.client.request(method, target, headers={"If-Match": "1"})
        assert (wrong.status_code, wrong.json()["message"][:18]) == (400, "If-Match: must be ")
        assert (await api.client.get(path)).json() == read
        assert (await api.client.get("/v2/audit")).json()["data"]["items"] == audited
        headers = {"If-Match": changed.headers["etag"]}
        assert (await api.client.request(method, target, headers=headers)).status_code == 200
        # As after a lost response.
        repeated = await api.client.request(method, target, headers=headers)
        assert repeated.status_code == (404 if order == "delete" else 200)

    @pytest.mark.parametrize(
        ("given", "status"),
        [
            ("*", 200), ("{}", 200), ("W/{}", 200), ('"x", {}', 200), ('"0","999",\t{}', 200),
            ('"999"', 412), ('"x"', 412), ('"01"', 412), ('""', 412),
            ("1", 400), ("", 400), ('"1', 400), ("x-{}", 400), ('"1" "2"', 400), ("*, {}", 400), ("{},", 400),
        ],
    )  # fmt: skip
    async def test_a_list_of_tags_is_understood(self, api: RunningApi, given: str, status: int) -> None:
        path = f"/v2/serverless/{await api.create_endpoint()}"
        tag = (await api.client.get(path)).headers["etag"]
        answer = await api.client.patch(path, json={"workers": 9}, headers={"If-Match": given.replace("{}", tag)})
        assert answer.status_code == status, answer.text
        assert (await api.client.get(path)).json()["data"]["totalWorkers"] == (9 if status == 200 else 1)
        if status == 400:
            assert answer.json()["message"].startswith("If-Match: must be")


class TestVariables:
    """A change of one variable without the values of the others."""

    async def test_a_variable_without_a_value_keeps_its_own(self, api: RunningApi) -> None:
        endpoint_id = await api.create_endpoint(**variables({"TOKEN": "s3cr3t", "MODEL": "small", "OLD": "x"}))
        change = {"environmentVars": [{"name": "TOKEN"}, {"key": "MODEL", "value": "large", "secret": False}]}
        changed = await api.client.patch(f"/v2/serverless/{endpoint_id}", json=change)
        assert changed.status_code == 200
        assert changed.json()["data"]["environmentVars"] == [{"key": "MODEL", "secret": False}, {"key": "TOKEN"}]
        assert await api.store.endpoints.environment(endpoint_id) == {"TOKEN": "s3cr3t", "MODEL": "large"}

    async def test_what_the_api_shows_changes_nothing(self, api: RunningApi) -> None:
        path = f"/v2/serverless/{await api.create_endpoint(**variables({'A': '1', 'B': ''}))}"
        read = await api.client.get(path)
        shown = {"environmentVars": read.json()["data"]["environmentVars"]}
        assert (await api.client.patch(path, json=shown)).headers["etag"] == read.headers["etag"]

    @pytest.mark.parametrize("value", [{}, {"value": None}])
    async def test_a_new_variable_needs_a_value(self, api: RunningApi, value: dict[str, None]) -> None:
        path = f"/v2/serverless/{await api.create_endpoint(**variables({'A': '1'}))}"
        change = {"workers": -1, "environmentVars": [{"key": "A"}, {"key": "B", **value}]}
        refused = await api.client.patch(path, json=change)
        assert refused.status_code == 400
        assert "environmentVars[1].value: " in refused.json()["message"]
        assert "workers: " in refused.json()["message"]
        assert "environmentVars[0]" not in refused.json()["message"]

    async def test_the_limit_of_all_values_counts_those_that_are_kept(self, api: RunningApi) -> None:
        large = {f"A{number}": "x" * 30_000 for number in range(4)}
        endpoint_id = await api.create_endpoint(**variables(large))
        change = variables({**dict.fromkeys(large), "B": "x" * 30_000})
        refused = await api.client.patch(f"/v2/serverless/{endpoint_id}", json=change)
        assert refused.status_code == 400
        assert refused.json()["message"] == "environmentVars: must be at most 131072 bytes in all"
        assert await api.store.endpoints.environment(endpoint_id) == large

    async def test_a_kept_value_that_cannot_be_read_is_told_and_can_be_replaced(
        self, api: RunningApi, valkey_url: str
    ) -> None:
        path = f"/v2/serverless/{await api.create_endpoint(**variables({'A': '1'}))}"
        async with running_api(valkey_url, secret_key=SecretStr(new_secret_key())) as other:
            refused = await other.client.patch(path, json=variables({"A": None}))
            assert refused.status_code == 400
            assert refused.json()["message"].startswith("environmentVars: A needs a value")
            assert (await other.client.patch(path, json=variables({"A": "2"}))).status_code == 200


@pytest.mark.parametrize(
    ("variable", "reason"),
    [
        ({"key": "A", "Value": "new"}, "has no value, and the unknown member 'Value'"),
        ({"key": "A", "val": "new", "secret": True}, "has no value, and the unknown member 'val'"),
        ({"name": "B", "key": "A"}, "has both key and name"),
    ],
)
async def test_a_variable_that_may_be_mistyped_is_not_kept(
    api: RunningApi, variable: dict[str, Any], reason: str
) -> None:
    endpoint_id = await api.create_endpoint(environmentVars=[{"key": "A", "value": "1"}, {"key": "B", "value": "2"}])
    path = f"/v2/serverless/{endpoint_id}"
    before = (await api.client.get(path)).json()["data"]
    answer = await api.client.patch(path, json={"environmentVars": [variable]})
    assert (answer.status_code, answer.json()["message"]) == (400, f"environmentVars[0]: {reason}")
    assert (await api.client.get(path)).json()["data"] == before
