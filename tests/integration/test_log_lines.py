"""The log lines by which an operator follows one task through all processes."""

import json
import threading
from datetime import datetime
from typing import Any

import httpx

from queue_engine.store.store import Store
from tests.integration.parts import (
    HttpServer,
    Program,
    Programs,
    Reply,
    ended,
    new_endpoint,
    replies,
    submit,
    wait_for_port,
)
from tests.ports import free_port
from tests.waiting import wait_until, wait_until_async

API_KEY = "a-key-of-the-log-tests"
ENDPOINT = {
    "name": "echo", "image": "none", "serviceMode": "QUEUE", "workers": 0, "containerVolumeInGb": 20,
    "resources": [{"region": "here", "gpuType": "CPU", "gpuCount": 1}],
}  # fmt: skip

SECRET_WORDS = "the customer's own words"


def lines_of(program: Program) -> list[dict[str, Any]]:
    """Every line that a process has logged; all of them are JSON objects."""
    return [json.loads(line) for line in program.output().splitlines()]


def lines_saying(program: Program, message: str) -> list[dict[str, Any]]:
    return [line for line in lines_of(program) if line["message"] == message]


async def test_a_failed_attempts_line_names_worker_and_cause_but_not_the_containers_text(
    store: Store, programs: Programs, container: HttpServer
) -> None:
    container.answer = lambda request: Reply(status=500, body=b"cannot work on " + request.body)
    endpoint_id = await new_endpoint(store)
    agent = programs.agent(endpoint_id, container.url, WORKER_AGENT_WORKER_ID="worker-1")
    await submit(store, endpoint_id, "one", input=json.dumps(SECRET_WORDS).encode())
    assert SECRET_WORDS in ((await ended(store, endpoint_id, "one")).error or "")
    [line] = wait_until(lambda: lines_saying(agent, "attempt ended"))
    assert (line["endpoint"], line["task"], line["worker"]) == (endpoint_id, "one", "worker-1")
    assert (line["attempt"], line["outcome"]) == (1, "error")
    assert line["error"] == "the worker's container answered 500"
    assert SECRET_WORDS not in agent.output()


async def test_one_id_finds_submit_attempt_and_delivery_attempt_in_the_logs_of_all_processes(
    store: Store, programs: Programs, container: HttpServer, receiver: HttpServer
) -> None:
    port = free_port()
    api = programs.start("api", "queue_engine", "api", QUEUE_ENGINE_PORT=str(port), QUEUE_ENGINE_API_KEY=API_KEY)
    delivery = programs.delivery()
    wait_for_port(port)
    base = f"http://127.0.0.1:{port}/v2/serverless"
    async with httpx.AsyncClient(headers={"X-Api-Key": API_KEY}, trust_env=False, timeout=30) as client:

        async def order(method: str, path: str = "", **options: Any) -> Any:
            response = await client.request(method, base + path, **options)
            assert response.status_code == 200, response.text
            return response.json()["data"]

        endpoint_id = (await order("POST", json=ENDPOINT))["id"]
        agent = programs.agent(endpoint_id, container.url, WORKER_AGENT_WORKER_ID="worker-1")
        task = {
            "input": SECRET_WORDS, "workerPort": 8000, "processUri": "/run", "webhook": f"{receiver.url}/hook",
            "webhookAuthKey": "the-webhooks-own-key", "headers": {"X-Secret": "a-header-value"},
        }  # fmt: skip
        task_id = (await order("POST", f"/{endpoint_id}/tasks", json=task))["taskId"]
        one = f"/{endpoint_id}/tasks/{task_id}"

        async def delivered() -> bool:
            return bool((await order("GET", one))["status"] == "DELIVERED")

        await wait_until_async(delivered, 60, "the task is not delivered")
        await order("POST", f"/{endpoint_id}/tasks", json=task | {"taskId": task_id})
        await order("POST", f"{one}/cancel")
        await order("POST", f"{one}/retry")
        await wait_until_async(delivered, 60, "the task is not delivered again")
        await order("DELETE", one)
        await order("PUT", f"/{endpoint_id}/workers?count=0")
        await order("POST", f"/{endpoint_id}/stop")
        await order("POST", f"/{endpoint_id}/start")
        await order("DELETE", f"/{endpoint_id}")

    wait_until(lambda: len(lines_saying(delivery, "delivery attempt")) == 2)
    found = [line for program in (api, agent, delivery) for line in lines_of(program) if line.get("task") == task_id]
    assert {line["endpoint"] for line in found} == {endpoint_id}
    assert [(line["process"], line["message"]) for line in found] == [
        *[("api", "order carried out")] * 5,
        *[("worker-agent", "attempt ended")] * 2,
        *[("delivery", "delivery attempt")] * 2,
    ]
    orders = lines_saying(api, "order carried out")
    assert [line["order"] for line in orders] == [
        "create_endpoint", "submit_task", "submit_task", "cancel_task", "retry_task", "delete_task",
        "scale_endpoint", "stop_endpoint", "start_endpoint", "delete_endpoint",
    ]  # fmt: skip
    assert {(line["tenant"], line["endpoint"]) for line in orders} == {("default", endpoint_id)}
    assert [line.get("result") for line in orders[1:4]] == ["accepted", "duplicate", "ended"]
    [first, _] = lines_saying(agent, "attempt ended")
    assert (first["attempt"], first["outcome"], first["worker"]) == (1, "ok", "worker-1")
    for program in (api, agent, delivery):
        for secret in (SECRET_WORDS, "the-webhooks-own-key", "a-header-value", API_KEY):
            assert secret not in program.output()


async def test_an_attempt_whose_lease_expires_has_a_line_with_its_worker(
    store: Store, programs: Programs, container: HttpServer
) -> None:
    endpoint_id = await new_endpoint(store)
    held = threading.Event()
    container.answer = lambda _: Reply(hold=held)
    agent = programs.agent(endpoint_id, container.url, WORKER_AGENT_WORKER_ID="worker-1")
    await submit(store, endpoint_id, "one")
    await wait_until_async(lambda: container.requests)
    agent.kill()
    controller = programs.controller()
    [line] = wait_until(lambda: lines_saying(controller, "attempt lost: its lease expired"), 60)
    held.set()
    assert (line["endpoint"], line["task"], line["worker"]) == (endpoint_id, "one", "worker-1")
    assert (line["attempt"], line["store"]) == (1, "QUEUED")


async def test_a_task_that_expires_has_a_line(store: Store, programs: Programs) -> None:
    endpoint_id = await new_endpoint(store, queue_ttl_seconds=1)
    await submit(store, endpoint_id, "one")
    controller = programs.controller()
    [line] = wait_until(lambda: lines_saying(controller, "task expired"), 60)
    assert (line["process"], line["endpoint"], line["task"]) == ("controller", endpoint_id, "one")


async def test_one_id_tells_how_a_task_lost_its_worker_was_executed_by_another_and_delivered_at_the_second_attempt(
    store: Store, programs: Programs, container: HttpServer, receiver: HttpServer
) -> None:
    port, held = free_port(), threading.Event()
    container.answer = lambda _: Reply(hold=held)
    receiver.answer = replies(Reply(status=500), Reply())
    api = programs.start("api", "queue_engine", "api", QUEUE_ENGINE_PORT=str(port), QUEUE_ENGINE_API_KEY=API_KEY)
    delivery = programs.delivery()
    endpoint_id = await new_endpoint(store)
    killed = programs.agent(endpoint_id, container.url, WORKER_AGENT_WORKER_ID="worker-1")
    wait_for_port(port)
    async with httpx.AsyncClient(headers={"X-Api-Key": API_KEY}, trust_env=False, timeout=30) as client:
        task = {"input": 1, "workerPort": 8000, "processUri": "/run", "webhook": f"{receiver.url}/hook"}
        response = await client.post(f"http://127.0.0.1:{port}/v2/serverless/{endpoint_id}/tasks", json=task)
    task_id = response.json()["data"]["taskId"]
    await wait_until_async(lambda: container.requests, 60, "the task is not forwarded")
    killed.kill()
    held.set()
    controller = programs.controller()
    agent = programs.agent(endpoint_id, container.url, WORKER_AGENT_WORKER_ID="worker-2")

    def story(program: Program) -> list[dict[str, Any]]:
        return [line for line in lines_of(program) if line.get("task") == task_id]

    wait_until(lambda: len(story(delivery)) == 2, 60, "the result is not delivered")
    wait_until(lambda: story(agent), 60, "the agent has no line")
    [accepted], [lost], [finished], (refused, delivered) = map(story, (api, controller, agent, delivery))
    assert {line["endpoint"] for line in (accepted, lost, finished, refused, delivered)} == {endpoint_id}
    assert [accepted[name] for name in ("message", "order", "result")] == [
        "order carried out", "submit_task", "accepted",
    ]  # fmt: skip
    assert [lost[name] for name in ("message", "worker", "attempt", "store")] == [
        "attempt lost: its lease expired", "worker-1", 1, "QUEUED",
    ]  # fmt: skip
    assert [finished[name] for name in ("message", "worker", "attempt", "outcome", "store")] == [
        "attempt ended", "worker-2", 2, "ok", "OK",
    ]  # fmt: skip
    accepted_at, finished_at = (datetime.fromisoformat(line["time"]) for line in (accepted, finished))
    # It counts from the queueing after the lease of the lost attempt, which is longer than a second.
    assert 0 <= finished["waited_seconds"] <= (finished_at - accepted_at).total_seconds() - 1
    assert finished["seconds"] >= 0
    assert [(line["message"], line["attempt"], line["verdict"]) for line in (refused, delivered)] == [
        ("delivery attempt", 1, "DeliverAgain"),
        ("delivery attempt", 2, "Delivered"),
    ]
