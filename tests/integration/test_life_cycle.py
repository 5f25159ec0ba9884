"""An endpoint's life on a running engine: scale, change, stop, start, delete; crashes; and what its webhook is told."""

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook
from yottaml.elastic import ElasticApi
from yottaml.error import ClientError
from yottaml.skywalker import SkywalkerTaskApi

from tests.integration.parts import HttpServer
from tests.integration.test_up import API_KEY, ECHO, SLOW, Up, create, wait_for_workers
from tests.waiting import wait_until

RESOURCES = [{"region": "here", "gpuType": "CPU", "gpuCount": 1}]


@pytest.fixture
def up(shared_up: Up) -> Up:
    return shared_up


def elastic(up: Up) -> ElasticApi:
    return ElasticApi(api_key=API_KEY, base_url=up.url)


def tasks_of(up: Up) -> SkywalkerTaskApi:
    return SkywalkerTaskApi(api_key=API_KEY, base_url=up.url)


def workers(up: Up, endpoint_id: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = up.get(f"/v2/serverless/{endpoint_id}/workers")
    return found


def status(up: Up, endpoint_id: int) -> str:
    return str(up.get(f"/v2/serverless/{endpoint_id}")["status"])


def submit(up: Up, endpoint_id: int, task_id: str, **given: Any) -> None:
    tasks_of(up).create_task(
        endpoint_id=endpoint_id, task_id=task_id, worker_port=8000, process_uri="/", input={"n": 1}, **given
    )


def task(up: Up, endpoint_id: int, task_id: str) -> dict[str, Any]:
    found: dict[str, Any] = up.get(f"/v2/serverless/{endpoint_id}/tasks/{task_id}")
    return found


def test_scaling_up_and_down_and_to_nothing(up: Up) -> None:
    endpoint_id = create(up, workers=1)
    wait_for_workers(up, endpoint_id, 1)
    assert elastic(up).scale_workers(endpoint_id, 3)["data"] is True
    wait_for_workers(up, endpoint_id, 3)
    elastic(up).scale_workers(endpoint_id, 1)
    wait_until(lambda: len(workers(up, endpoint_id)) == 1)
    elastic(up).scale_workers(endpoint_id, 0)
    wait_until(lambda: workers(up, endpoint_id) == [])
    submit(up, endpoint_id, "waits")
    assert task(up, endpoint_id, "waits")["state"] == "queued"
    elastic(up).scale_workers(endpoint_id, 1)
    wait_until(lambda: task(up, endpoint_id, "waits")["status"] == "SUCCESS")


def test_scaling_down_lets_the_busy_worker_finish(up: Up, tmp_path: Path) -> None:
    until = tmp_path / "until"
    os.mkfifo(until)
    endpoint_id = create(up, workers=2, command=f"{SLOW} {until}")
    wait_for_workers(up, endpoint_id, 2)
    submit(up, endpoint_id, "busy")
    wait_until(lambda: task(up, endpoint_id, "busy")["state"] == "running")
    wait_until(lambda: any(worker["runningTasks"] for worker in workers(up, endpoint_id)))
    [busy] = [worker["workerId"] for worker in workers(up, endpoint_id) if worker["runningTasks"]]
    elastic(up).scale_workers(endpoint_id, 1)
    wait_until(lambda: [worker["workerId"] for worker in workers(up, endpoint_id)] == [busy])
    until.write_text("done")
    wait_until(lambda: task(up, endpoint_id, "busy")["status"] == "SUCCESS")
    assert task(up, endpoint_id, "busy")["attempts"] == 1


def test_stop_keeps_queued_tasks_and_start_goes_on_with_them(up: Up) -> None:
    endpoint_id = create(up, workers=1, command=SLOW)
    wait_for_workers(up, endpoint_id, 1)
    for number in range(3):
        submit(up, endpoint_id, f"t{number}")
    wait_until(lambda: task(up, endpoint_id, "t0")["state"] == "running")
    assert elastic(up).stop_deployment(endpoint_id)["data"] is True
    assert elastic(up).stop_deployment(endpoint_id)["data"] is True
    wait_until(lambda: status(up, endpoint_id) == "STOPPED")
    assert workers(up, endpoint_id) == []
    with pytest.raises(ClientError) as refusal:
        submit(up, endpoint_id, "late")
    assert (refusal.value.status_code, refusal.value.error_code) == (409, 24000)
    count = tasks_of(up).get_processing_count(endpoint_id=endpoint_id)["data"]
    assert (count["running"], count["failed"]) == (0, 0)
    assert count["queued"] >= 1
    assert elastic(up).start_deployment(endpoint_id)["data"] is True
    wait_until(lambda: all(task(up, endpoint_id, f"t{n}")["status"] == "SUCCESS" for n in range(3)))


def test_a_new_configuration_replaces_workers_one_at_a_time_and_fails_no_task(up: Up) -> None:
    endpoint_id = create(up, workers=2)
    wait_for_workers(up, endpoint_id, 2)
    before = {worker["workerId"] for worker in workers(up, endpoint_id)}
    fewest_running = 2
    stop = threading.Event()

    def submit_on() -> None:
        for number in range(1000):
            if stop.wait(0.05):
                return
            submit(up, endpoint_id, f"t{number}")

    submitting = threading.Thread(target=submit_on)
    submitting.start()
    try:
        answer = elastic(up).update_deployment(
            endpoint_id,
            name="changed",
            resources=RESOURCES,
            workers=2,
            container_volume_in_gb=30,
            environment_vars=[{"key": "MODE", "value": "new"}],
        )["data"]
        assert (answer["name"], answer["containerVolumeInGb"]) == ("changed", 30)
        assert answer["initializationCommand"] == ECHO

        def replaced() -> bool:
            nonlocal fewest_running
            now = workers(up, endpoint_id)
            running = [worker["workerId"] for worker in now if worker["status"] == "RUNNING"]
            fewest_running = min(fewest_running, len(running))
            return len(running) == 2 and not before & set(running)

        wait_until(replaced, 60, "the workers are not replaced")
    finally:
        stop.set()
        submitting.join()
    assert fewest_running >= 1
    wait_until(lambda: up.get(f"/v2/serverless/{endpoint_id}/tasks/count")["processing"] == 0)
    count = up.get(f"/v2/serverless/{endpoint_id}/tasks/count")
    assert count["failed"] == 0
    assert count["success"] == count["total"] > 10


def test_a_null_clears_and_what_is_left_out_stays(up: Up) -> None:
    endpoint_id = create(up, workers=1, webhook="http://127.0.0.1:9/hook", min_single_card_vcpu=2)
    kept = {"name": "echo", "resources": RESOURCES, "workers": 1, "container_volume_in_gb": 20}
    answer = elastic(up).update_deployment(endpoint_id, **kept)["data"]
    assert (answer["webhook"], answer["minSingleCardVcpu"]) == ("http://127.0.0.1:9/hook", 2)
    answer = elastic(up).update_deployment(endpoint_id, **kept, webhook=None, min_single_card_vcpu=None)["data"]
    assert (answer["webhook"], answer["minSingleCardVcpu"]) == (None, None)


def test_delete_ends_what_is_queued_tells_the_webhooks_and_leaves_nothing(up: Up) -> None:
    with HttpServer() as receiver:
        endpoint_id = create(up, workers=1, command="sleep 1000")
        submit(up, endpoint_id, "waiting", webhook=f"{receiver.url}/hook")
        assert elastic(up).delete_deployment(endpoint_id)["data"] is True
        body = json.loads(receiver.next(30).body)
        assert (body["user_task_id"], body["success"], body["failed_reason"]) == ("waiting", False, "endpoint deleted")
        with pytest.raises(ClientError) as gone:
            elastic(up).get_deployment_detail(endpoint_id)
        assert (gone.value.status_code, gone.value.error_code) == (404, 14000)
        assert endpoint_id not in [int(one["id"]) for one in up.get("/v2/serverless")]
        wait_until(lambda: up.workers() == [])


def test_a_worker_that_crashes_on_start_is_failed_with_its_last_words(up: Up) -> None:
    crashing = f"{sys.executable} -c \"print('no GPU found'); raise SystemExit(3)\""
    endpoint_id = create(up, workers=1, command=crashing)
    wait_until(lambda: status(up, endpoint_id) == "FAILED", 60, "the endpoint does not fail")
    [worker] = workers(up, endpoint_id)
    assert worker["status"] == "FAILED"
    assert worker["restarts"] >= 3
    assert "container exited with status 3" in worker["error"]
    assert "no GPU found" in worker["error"]
    with pytest.raises(ClientError) as refusal:
        submit(up, endpoint_id, "late")
    assert refusal.value.error_code == 24000
    elastic(up).update_deployment(
        endpoint_id,
        name="mended",
        resources=RESOURCES,
        workers=1,
        container_volume_in_gb=20,
        initialization_command=ECHO,
    )
    wait_until(lambda: status(up, endpoint_id) == "RUNNING", 60, "the endpoint does not recover")


def test_every_change_of_a_workers_status_is_sent_in_order(up: Up) -> None:
    with HttpServer() as receiver:
        endpoint_id = create(up, workers=1, webhook=f"{receiver.url}/status")
        wait_for_workers(up, endpoint_id, 1)
        [worker] = workers(up, endpoint_id)
        secret = up.get(f"/v2/serverless/{endpoint_id}/webhook-secret")["secret"]
        elastic(up).stop_deployment(endpoint_id)
        wait_until(lambda: status(up, endpoint_id) == "STOPPED")
        events = []
        for _ in range(4):
            request = receiver.next(20)
            Webhook(secret).verify(request.body, request.headers)
            events.append(json.loads(request.body))
        assert {event["workerId"] for event in events} == {worker["workerId"]}
        assert {event["type"] for event in events} == {"worker.status"}
        assert {event["endpointId"] for event in events} == {str(endpoint_id)}
        assert [(event["previousStatus"], event["status"]) for event in events] == [
            (None, "INITIALIZING"),
            ("INITIALIZING", "RUNNING"),
            ("RUNNING", "STOPPING"),
            ("STOPPING", "STOPPED"),
        ]
        assert all(event["reason"] for event in events)
        assert len({request.headers["webhook-id"] for request in receiver.requests}) == 4


def test_a_worker_without_life_signs_is_replaced(tmp_path: Path) -> None:
    up = Up(tmp_path, QUEUE_ENGINE_WORKER_SILENCE_SECONDS="3")
    try:
        up.wait_until_up()
        endpoint_id = create(up, workers=1)
        wait_for_workers(up, endpoint_id, 1)
        [agent] = up.workers()
        agent.send_signal(signal.SIGSTOP)
        wait_until(lambda: not agent.is_running(), message="the silent worker still runs")
        wait_until(lambda: workers(up, endpoint_id)[0]["restarts"] >= 1, message="its end is not counted")
        wait_for_workers(up, endpoint_id, 1)
    finally:
        up.end()
