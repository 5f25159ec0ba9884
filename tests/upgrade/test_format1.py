"""The current version uses data that was recorded in format 1, and every task ends as expected."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook
from yottaml.credential import CredentialApi
from yottaml.elastic import ElasticApi
from yottaml.skywalker import SkywalkerTaskApi

from queue_engine.domain.attempts import Renewal
from queue_engine.domain.tasks import Failed, Lease, Outcome, Succeeded, Task, TaskState, TaskStatus
from queue_engine.store.given_up import DONE
from queue_engine.store.keys import FORMAT, GIVEN_UP_BUILD, META
from queue_engine.store.store import Store
from tests.integration.parts import HttpServer, Programs, programs_on, wait_for_port
from tests.ports import free_port
from tests.servers import StoreServer
from tests.store.bench import Bench
from tests.store.probe import Probe
from tests.upgrade import dumps
from tests.upgrade.conftest import FORMAT_1_VIEWS
from tests.upgrade.record import API_KEY, AUTH_KEY, LOST_ADDRESS, OTHER_KEY, RECEIVER, REVOKED_KEY, SECRET_KEY
from tests.waiting import wait_until_async

WAIT_SECONDS = 90.0
EXECUTED = {
    *("queued_lost_lease", "queued_released", "queued_read", "queued_plain", "queued_large", "queued_webhook"),
    *("queued_headers", "queued_trace", "queued_deadline", "scheduled_error", "scheduled_deadline", "scheduled_busy"),
    *("running_lost", "running_lost_webhook", "running_lost_headers", "running_lost_twice", "running_retried"),
    "running_rerun",
}
"""Tasks of `main` that an agent of today executes, each once."""
ENDS = {
    **dict.fromkeys(EXECUTED | {"running_held"}, TaskState.SUCCEEDED),
    **dict.fromkeys(("queued_expires", "scheduled_expires"), TaskState.EXPIRED),
    **dict.fromkeys(("running_cancelled", "running_cancel_held"), TaskState.CANCELLED),
}
"""Expected end of the tasks of `main` that had not ended. `scheduled_long` waits for an hour."""
DELIVERED = {
    *("delivery_retried", "delivery_deferred", "delivery_parked", "delivery_opened", "delivery_read"),
    *("delivery_queued", "queued_lost_lease", "queued_webhook", "queued_headers", "queued_expires"),
    *("scheduled_error", "running_held", "running_lost_webhook", "running_lost_twice", "running_cancelled"),
}
"""Tasks of `main` whose result is delivered now. The delivery of `delivery_waits_long` is due in an hour."""


@dataclass(frozen=True)
class Recorded:
    """The API's responses on the recorded data, moved to the present."""

    views: dict[str, dict[str, Any]]
    endpoint_ids: dict[str, str]
    """Endpoint ids by name, including the endpoint that is being deleted."""

    def endpoint_id(self, name: str) -> str:
        return self.endpoint_ids[name]

    def tasks(self, name: str) -> dict[str, dict[str, Any]]:
        """Return the tasks of an endpoint as its list shows them."""
        path = f"/v2/serverless/{self.endpoint_id(name)}/tasks?pageSize=100"
        return {task["taskId"]: task for task in self.views[path]["data"]["items"]}


@pytest.fixture
async def recorded(store: Store, format1: dumps.Dump, receiver: HttpServer) -> Recorded:
    """Restore the dump into the store, with this test's receiver in its webhooks."""
    ours = {RECEIVER: f"127.0.0.1:{receiver.port}"}
    moved = await dumps.restore(store.redis, format1.replaced(ours))
    lines = [json.loads(line) for line in FORMAT_1_VIEWS.read_text().splitlines()]
    text = json.dumps([_with_moved_times(line, moved) for line in lines])
    views = {
        view["path"]: view | {"data": _shown_today(view["data"])}
        for view in json.loads(text.replace(RECEIVER, ours[RECEIVER]))
    }
    endpoints = [record for record in format1.records if "}:e:" in record["key"]]
    names = [json.loads(record["value"]["config"])["name"] for record in endpoints]
    return Recorded(views, dict(zip(names, [record["key"].split(":")[-1] for record in endpoints], strict=True)))


def _with_moved_times(value: Any, moved: Any) -> Any:
    if isinstance(value, list):
        return [_with_moved_times(part, moved) for part in value]
    if isinstance(value, dict):
        return {name: _with_moved_times(part, moved) for name, part in value.items()}
    if isinstance(value, int) and not isinstance(value, bool):
        return int(moved(str(value)))
    return moved(value) if isinstance(value, str) else value


def _shown_today(recorded: Any) -> Any:
    """Return the recorded `data` of a response without what its detail shows otherwise today.

    That of a task whose delivery fails has the error of the latest attempt, where it had null.
    """
    if isinstance(recorded, dict) and recorded.get("deliveryStatus") == "FAILED":
        assert recorded["deliveryError"] is None
        return {name: value for name, value in recorded.items() if name != "deliveryError"}
    return recorded


@pytest.fixture
def programs(store_server: StoreServer, tmp_path: Path) -> Iterator[Programs]:
    with programs_on(store_server.url, tmp_path, secret_key=SECRET_KEY) as started:
        yield started


@pytest.fixture
async def api(programs: Programs, recorded: Recorded) -> AsyncIterator[httpx.AsyncClient]:
    port = free_port()
    programs.start("api", "queue_engine", "api", "--port", str(port), QUEUE_ENGINE_API_KEY=REVOKED_KEY)
    await asyncio.to_thread(wait_for_port, port)
    headers = {"X-Api-Key": API_KEY}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=30) as client:
        yield client


async def migrate(store: Store, probe: Probe) -> None:
    """Migrate the data to the current format, if it is another one, and build the index of given-up deliveries."""
    await store.prepare()
    migrator = store.migrator(page_size=7)

    async def is_done() -> bool:
        await migrator.step()
        return (await probe.hash(META))[FORMAT] == str(store.data_format)

    await wait_until_async(is_done, 30, "the migration does not end")
    build = store.given_up_build(page_size=7)
    while await build.step():
        continue


async def faults(store: Store, probe: Probe) -> list[str]:
    """Return the inconsistencies in the whole store."""
    return await Bench(store, "", probe, await store.endpoints.ids(), has_use=False).check()


async def test_everything_looks_as_it_did_before_and_after_the_migration(
    store: Store, probe: Probe, recorded: Recorded, api: httpx.AsyncClient
) -> None:
    """Lists, counts, tasks with input and output, attempts, deliveries, logs, secrets: each response is as recorded."""
    assert await _differences(api, recorded) == []
    await migrate(store, probe)
    assert await _differences(api, recorded) == []
    assert await faults(store, probe) == []


async def test_what_was_given_up_is_listed_after_the_migration(
    store: Store, probe: Probe, recorded: Recorded, api: httpx.AsyncClient
) -> None:
    path = f"/v2/serverless/{recorded.endpoint_id('main')}/deliveries"
    assert (await api.get(path)).json()["data"]["items"] == []
    await migrate(store, probe)
    (one,) = (await api.get(path)).json()["data"]["items"]
    task = recorded.tasks("main")["given_up"]
    assert (one["taskId"], one["givenUpAt"], one["error"]) == ("given_up", task["updatedAt"], task["deliveryError"])


async def _differences(api: httpx.AsyncClient, recorded: Recorded) -> list[str]:
    differences = []
    for path, expected in recorded.views.items():
        response = await api.get(path)
        found = {"path": path, "status": response.status_code, "data": response.json()["data"]}
        if (fault := dumps.subset_fault(expected, found)) is not None:
            differences.append(f"{path}{fault}")
    return differences


async def test_a_request_that_was_accepted_is_known(api: httpx.AsyncClient, recorded: Recorded) -> None:
    path = f"/v2/serverless/{recorded.endpoint_id('main')}/tasks"
    body = {"taskId": "queued_plain", "workerPort": 8000, "processUri": "/run", "input": {"n": 1}}
    assert (await api.post(path, json=body)).status_code == 200
    assert (await api.post(path, json=body | {"input": {"n": 2}})).status_code == 409
    assert (await api.get(f"{path}/count")).json()["data"]["total"] == len(recorded.tasks("main"))


async def test_api_keys_are_as_valid_as_they_were(api: httpx.AsyncClient, recorded: Recorded) -> None:
    """The revoked key is also the first key of this API process, which does not make it valid."""
    statuses = {
        key: (await api.get("/v2/serverless", headers={"X-Api-Key": key})).status_code
        for key in (API_KEY, OTHER_KEY, REVOKED_KEY)
    }
    assert statuses == {API_KEY: 200, OTHER_KEY: 200, REVOKED_KEY: 401}


async def test_the_published_client_works_with_a_key_of_then(api: httpx.AsyncClient, recorded: Recorded) -> None:
    address, main = str(api.base_url), int(recorded.endpoint_id("main"))

    def use() -> None:
        endpoints = ElasticApi(api_key=API_KEY, base_url=address)
        tasks = SkywalkerTaskApi(api_key=API_KEY, base_url=address)
        assert str(main) in {one["id"] for one in endpoints.get_deployments()["data"]}
        assert endpoints.get_deployment_detail(main)["data"]["id"] == str(main)
        created = tasks.create_task(endpoint_id=main, task_id="new", worker_port=8000, process_uri="/run", input=1)
        assert created["data"]["taskId"] == "new"
        assert tasks.get_task(endpoint_id=main, task_id="new")["data"]["status"] == "PROCESSING"
        assert tasks.list_tasks(endpoint_id=main)["data"]["total"] == len(recorded.tasks("main")) + 1
        assert endpoints.stop_deployment(main)["code"] == 10000
        credentials = CredentialApi(api_key=API_KEY, base_url=address)
        assert {one["id"] for one in credentials.get_credentials()["data"]} == {1, 2}

    await asyncio.to_thread(use)


async def test_secrets_are_opened_with_the_key_of_then(store: Store, recorded: Recorded) -> None:
    assert await store.endpoints.environment(recorded.endpoint_id("main")) == {"TOKEN": "secret value", "MODE": "x"}
    auth = await store.credentials.open("default", 1)
    assert auth is not None
    assert (auth.username, auth.password) == ("robot", "a password")
    task = await store.tasks.get(recorded.endpoint_id("main"), "queued_headers")
    assert task is not None
    assert task.spec.headers == {"X-Mode": "fast", "Authorization": "Bearer secret"}
    assert task.spec.webhook_auth_key == AUTH_KEY


@pytest.mark.timeout(300)
async def test_every_task_reaches_its_end(
    store: Store, probe: Probe, recorded: Recorded, api: httpx.AsyncClient, programs: Programs, container: HttpServer,
    receiver: HttpServer,
) -> None:  # fmt: skip
    """Run all processes of the current version on the data, beside an agent of the recorded version."""
    main = recorded.endpoint_id("main")
    await _end_what_was_held(store, probe, main)
    programs.controller()  # whose first sweep lets all leases end within its own lease, a second here
    await _have_ended(store, main, "queued_expires", "scheduled_expires")  # before an agent can run them
    programs.delivery()
    programs.agent(main, container.url)
    await _have_ended(store, main, *ENDS)
    await _are_delivered(store, main, *DELIVERED)
    await _is_removed(store, probe, recorded.endpoint_id("deleting"))
    await _is_started_again(store, recorded.endpoint_id("managed"))

    assert {task_id: (await _task(store, main, task_id)).state for task_id in ENDS} == ENDS
    calls = Counter(request.headers["x-task-id"] for request in container.requests_of("POST") if request.path == "/run")
    assert calls == Counter(EXECUTED)
    await _others_are_as_they_were(recorded, api)
    await _webhooks_are_right(recorded, receiver)

    async def is_migrated() -> bool:
        meta = await probe.hash(META)
        return meta[FORMAT] == str(store.data_format) and meta.get(GIVEN_UP_BUILD) == DONE

    await wait_until_async(is_migrated, 60, "the migration is not complete")
    assert await faults(store, probe) == []


async def _task(store: Store, endpoint_id: str, task_id: str) -> Task:
    task = await store.tasks.get(endpoint_id, task_id)
    assert task is not None, task_id
    return task


async def _have_ended(store: Store, endpoint_id: str, *task_ids: str) -> None:
    async def waiting() -> list[str]:
        tasks = [await _task(store, endpoint_id, task_id) for task_id in task_ids]
        return [task.task_id for task in tasks if task.status is TaskStatus.PROCESSING]

    await _none_is_left(waiting, "have not ended")


async def _are_delivered(store: Store, endpoint_id: str, *task_ids: str) -> None:
    async def waiting() -> list[str]:
        tasks = [await _task(store, endpoint_id, task_id) for task_id in task_ids]
        return [task.task_id for task in tasks if task.delivered_at_ms is None]

    await _none_is_left(waiting, "are not delivered")


async def _is_removed(store: Store, probe: Probe, endpoint_id: str) -> None:
    async def left() -> list[str]:
        partition = store.partitions.of(endpoint_id).partition
        names = [name for name in await probe.keys() if name.startswith(partition.tag)]
        return [name for name in names if f":{endpoint_id}" in name]

    await _none_is_left(left, "are not removed")


async def _is_started_again(store: Store, endpoint_id: str) -> None:
    """Wait until the endpoint's worker has an agent of the current version. The old agent died with its controller."""

    async def has_another_address() -> bool:
        workers = await store.workers.of_endpoint(endpoint_id)
        return [worker.address != LOST_ADDRESS for worker in workers] == [True]

    await wait_until_async(has_another_address, WAIT_SECONDS, "the worker is not started again")


async def _none_is_left(look: Any, message: str) -> None:
    left: list[str] = []

    async def is_none_left() -> bool:
        left[:] = await look()
        return not left

    try:
        await wait_until_async(is_none_left, WAIT_SECONDS)
    except AssertionError:
        raise AssertionError(f"{left} {message}") from None


async def _end_what_was_held(store: Store, probe: Probe, endpoint_id: str) -> None:
    """Renew the leases and record the results of an agent of the recorded version."""
    agent = store.queue(endpoint_id=endpoint_id, worker_id="a1", lease_ms=600_000)
    cancelled = Failed("the task was cancelled while it was running", TaskState.CANCELLED)
    held: dict[str, tuple[Renewal, Outcome]] = {
        "running_held": (Renewal.OK, Succeeded(b'{"by": "an older agent"}')),
        "running_cancel_held": (Renewal.CANCEL, cancelled),
    }
    for task_id, (renewal, outcome) in held.items():
        token = (await probe.hash(store.partitions.of(endpoint_id).task(task_id)))["token"]
        lease = Lease(endpoint_id, task_id, token)
        assert await agent.renew([lease]) == [renewal]
        assert (await agent.settle(lease, outcome)).word == "OK"


async def _others_are_as_they_were(recorded: Recorded, api: httpx.AsyncClient) -> None:
    """Check that the ended tasks and the tasks that still wait are unchanged."""
    changed = set(ENDS) | DELIVERED
    for name in ("main", "impatient"):
        path = f"/v2/serverless/{recorded.endpoint_id(name)}/tasks"
        for task_id, expected in recorded.tasks(name).items():
            if task_id not in changed:
                found = (await api.get(f"{path}/{task_id}")).json()["data"]
                assert dumps.subset_fault(_shown_today(expected), found) is None, task_id
    waiting = {"stopped": "stopped_queued", "failed": "failed_queued"}
    for name, task_id in waiting.items():
        path = f"/v2/serverless/{recorded.endpoint_id(name)}/tasks/{task_id}"
        assert (await api.get(path)).json()["data"]["state"] == "queued"


async def _webhooks_are_right(recorded: Recorded, receiver: HttpServer) -> None:
    """Check that each result was sent once, signed with the endpoint's secret, and the events of a worker in order."""
    main = recorded.endpoint_id("main")
    secret = recorded.views[f"/v2/serverless/{main}/webhook-secret"]["data"]["secret"]
    results = [request for request in receiver.requests if request.path == "/hook"]
    bodies = [json.loads(request.body) for request in results]
    ours = [one for one in zip(results, bodies, strict=True) if str(one[1]["endpoint_id"]) == main]
    assert Counter(body["user_task_id"] for _, body in ours) == Counter(DELIVERED)
    for request, _ in ours:
        Webhook(secret).verify(request.body, request.headers)
    assert len({request.headers["webhook-id"] for request in results}) == len(results)
    by_task = {body["user_task_id"]: (request, body) for request, body in zip(results, bodies, strict=True)}
    assert by_task["running_held"][0].headers["x-api-key"] == AUTH_KEY
    assert by_task["running_held"][1]["result"] == {"by": "an older agent"}
    assert by_task["delivery_opened"][1]["result"] == "x" * 2000
    assert by_task["deleting_queued"][1]["failed_reason"] == "endpoint deleted"
    others = {"deleting_ended", "deleting_queued", "failed_ended", "stopped_ended"}
    assert others <= by_task.keys()
    events = [json.loads(request.body) for request in receiver.requests if request.path == "/events"]
    statuses = [event["status"] for event in events if event["workerId"] == "a1"]
    assert statuses[:2] == ["INITIALIZING", "RUNNING"]
